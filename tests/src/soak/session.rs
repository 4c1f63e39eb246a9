//! An initiator that keeps the protocol's rules: its channels come and go, its commands overlap.
//!
//! What becomes of commands whose channel ended is open until the target has nothing of the channel
//! any more, or a new login that takes over has been answered.

mod reserving;
mod sending;
mod silence;

use transport::CloseReason;
use transport::sim::{Rng, SimMemory};
use transport::srp::{Tmf, response_code};

use super::attentions::{Begun, Heard, Kind, LUNS, NO_LUN, Taken};
use super::blocks::Done;
use super::check;
use super::command::{Command, Draft, SLOT_BYTES, Work};
use super::plan::Fault;
use super::run::{Act, Shared};
use super::tally::Seen;
use crate::note;
use crate::port::{End, Port};
use crate::world::{Login, Pending};
use reserving::end_function;
use silence::Silence;

/// Commands in flight, at most.
const SLOTS: usize = 24;

/// Steps after which a command that may have been taken away is aborted.
const PATIENCE: u64 = 400;

/// Steps after which a command that nobody took away should have been answered, without trouble.
const STALE: u64 = 20_000;

/// A login under way.
struct Try {
    pending: Pending,
    multi: bool,
    sent: u64,
    /// A later login may end its channel.
    doomed: bool,
    /// The initiator goes away at this step.
    until: Option<u64>,
}

/// A task management function without an answer.
struct Function {
    channel: u64,
    tag: reactor::Tag,
    begun: Begun,
    /// It is for one command.
    is_abort: bool,
    /// The answer must not be that it is unknown, or must be.
    known: bool,
    /// It resets this device; when it was sent.
    resets: Option<(usize, u64)>,
}

/// A channel.
struct Channel {
    number: u64,
    port: Port,
    /// When its login was answered.
    since: u64,
    /// It may end by the target's will.
    doomed: bool,
    /// It has named memory that is not registered.
    strayed: bool,
    deaf_until: u64,
}

/// A channel that has ended, or is about to, with what was in flight.
struct Past {
    port: Port,
    since: u64,
    commands: Vec<Command>,
    functions: Vec<Function>,
}

/// The initiator.
pub struct Session {
    /// Its number.
    pub number: u64,
    /// Commands answered since it was last asked.
    pub answered: u64,
    memory: SimMemory,
    rng: Rng,
    channels: Vec<Channel>,
    tries: Vec<Try>,
    past: Vec<Past>,
    commands: Vec<Command>,
    functions: Vec<Function>,
    free: Vec<usize>,
    heard: Heard,
    last_channel: u64,
    silence: Option<Silence>,
    /// A channel has ended or is about to, and with the last one what was reserved is released.
    doubted: bool,
    /// When a RELEASE was last sent or came to its end.
    released: u64,
}

impl Session {
    /// An initiator that has not logged in.
    pub fn new(number: u64, rng: Rng) -> Session {
        Session {
            number,
            answered: 0,
            memory: SimMemory::new(SLOTS * SLOT_BYTES),
            rng,
            channels: Vec::new(),
            tries: Vec::new(),
            past: Vec::new(),
            commands: Vec::new(),
            functions: Vec::new(),
            free: (0..SLOTS).collect(),
            heard: Heard::default(),
            last_channel: 0,
            silence: None,
            doubted: false,
            released: 0,
        }
    }

    /// When its oldest command was sent.
    pub fn oldest(&self) -> u64 {
        self.commands.iter().map(|command| command.sent).min().unwrap_or(u64::MAX)
    }

    /// Nothing is under way, and it is logged in.
    pub fn rests(&self) -> bool {
        self.commands.is_empty()
            && self.functions.is_empty()
            && self.tries.is_empty()
            && self.past.is_empty()
            && self.silence.is_none()
            && !self.channels.is_empty()
    }

    /// One of its channels.
    pub fn port(&self) -> Option<&Port> {
        self.channels.first().map(|channel| &channel.port)
    }

    /// What is under way.
    pub fn describe(&self) -> String {
        let past: Vec<_> = self.past.iter().map(|past| past.port.ended()).collect();
        let ends = |c: &Channel| (c.number, c.port.core, c.port.ended(), c.port.credits());
        let channels: Vec<_> = self.channels.iter().map(ends).collect();
        format!(
            "s{}: {} logins, past {past:?}, channels {channels:?}, {} functions, {:?}",
            self.number,
            self.tries.len(),
            self.functions.len(),
            self.commands
        )
    }

    /// All credits are with it.
    pub fn has_all_credits(&self) -> bool {
        let all = |channel: &Channel| channel.port.credits() == channel.port.credits_at_login();
        self.channels.iter().all(all)
    }

    /// The operator, or a new login, is about to end its channels and those that it has asked for.
    pub fn doom(&mut self) {
        self.doubted = true;
        self.channels.iter_mut().for_each(|channel| channel.doomed = true);
        self.tries.iter_mut().for_each(|other| other.doomed = true);
    }

    /// The target is gone, with everything that was under way. `settle`: its writes are decided.
    pub fn forget(&mut self, shared: &mut Shared, settle: bool) {
        self.channels.clear();
        self.tries.clear();
        self.silence = None;
        for past in std::mem::take(&mut self.past) {
            self.commands.extend(past.commands);
        }
        for command in std::mem::take(&mut self.commands) {
            self.free.push(command.slot);
            if settle {
                self.settle(shared, &command, Done::Maybe);
            }
        }
        self.functions.clear();
        self.heard = Heard::new(shared.seq);
    }

    /// What this step brings, and what it does.
    pub fn tick(&mut self, shared: &mut Shared) {
        self.act(shared);
        if std::mem::take(&mut self.doubted) {
            shared.reservations.doubt_session(self.number);
        }
    }

    fn act(&mut self, shared: &mut Shared) {
        self.look_at_logins(shared);
        self.look_at_channels(shared);
        self.look_at_past(shared);
        self.look_at_answers(shared);
        if self.is_silent(shared) {
            return;
        }
        if shared.act == Act::Trouble {
            self.trouble(shared);
        }
        if self.silence.is_some() {
            return;
        }
        if self.channels.is_empty() && self.tries.is_empty() {
            self.login(shared, false, None);
        } else if self.tries.is_empty()
            && (self.channels.len() as u64) < shared.plan.channels
            && shared.act != Act::Rest
            && self.rng.one(40)
        {
            self.login(shared, true, None);
        }
        // Before what is sent takes the last credit.
        if shared.act != Act::Trouble {
            self.lose_patience(shared);
        }
        if shared.act != Act::Rest && self.rng.one(shared.plan.send_in) {
            self.send(shared);
        }
    }

    /// Sends a login. The first channel of a session takes over what there was.
    pub fn login(&mut self, shared: &mut Shared, multi: bool, until: Option<u64>) {
        let id = self.number + 1;
        let mut login = if multi { Login::multi(id) } else { Login::of(id) };
        if self.rng.one(2) {
            login = login.flags(transport::srp::LoginReq::FLAG_AER_SOLICITED);
        }
        let core = self.rng.below(shared.world.shards.len() as u64) as usize;
        let Some(pending) = shared.world.try_connect(core, &login, &self.memory) else { return };
        note!(shared, "s{} login core {core} multi {multi}", self.number);
        if !multi {
            self.doom();
        }
        let sent = shared.now();
        self.tries.push(Try { pending, multi, sent, doomed: false, until });
    }

    fn look_at_logins(&mut self, shared: &mut Shared) {
        // Of several that were answered at once, those that took over came before those that
        // joined, and those that have ended already before all.
        self.tries.sort_by_key(|one| (!one.pending.is_closed(), one.multi));
        self.tries.reverse();
        for at in (0..self.tries.len()).rev() {
            let Try { pending, until, .. } = &self.tries[at];
            if until.is_some_and(|until| until <= shared.world.steps) {
                pending.disconnect();
                shared.tally.fault(Fault::HalfOpen);
                note!(shared, "s{} half-open", self.number);
                self.tries.swap_remove(at);
            } else if pending.answered() {
                let Try { pending, multi, sent, doomed, .. } = self.tries.swap_remove(at);
                match pending.take() {
                    Ok(port) => self.on_login(shared, port, multi, sent, doomed),
                    Err(reason) => {
                        shared.tally.seen(Seen::Rejects);
                        note!(shared, "s{} rejected {reason:?}", self.number);
                    }
                }
            } else if pending.is_closed() {
                note!(shared, "s{} login lost", self.number);
                self.tries.swap_remove(at);
            }
        }
    }

    fn on_login(&mut self, shared: &mut Shared, port: Port, multi: bool, sent: u64, doomed: bool) {
        shared.tally.seen(Seen::Logins);
        shared.logged_in |= 1 << self.number;
        shared.world.watch(&port);
        self.last_channel += 1;
        note!(shared, "s{} channel {} core {}", self.number, self.last_channel, port.core);
        if multi {
            // Their ends may not have been looked at yet.
            if self.channels.iter().all(|channel| channel.port.ended().is_some()) {
                self.heard.may_be_new();
            }
        } else {
            // Of the session before nothing may be left. What was not answered when this was asked
            // for may have joined.
            let older =
                |channel: &mut Channel| channel.since < sent || channel.port.ended().is_some();
            let older: Vec<_> = self.channels.extract_if(.., older).collect();
            older.into_iter().for_each(|channel| self.bury(channel));
            let older: Vec<_> = self.past.extract_if(.., |past| past.since < sent).collect();
            for past in older {
                assert!(past.port.is_released(), "granted before the old channels had ended");
                self.end_past(shared, past);
            }
            self.heard = Heard::new(sent);
            let now = shared.now();
            shared.reservations.replaced(self.number, sent, now);
        }
        let doomed = doomed || shared.ends_channels;
        let number = self.last_channel;
        let since = shared.now();
        let channel = Channel { number, port, since, doomed, strayed: false, deaf_until: 0 };
        self.channels.push(channel);
    }

    /// A channel is over for this end.
    fn bury(&mut self, channel: Channel) {
        self.doubted = true;
        let of = |number: u64| number == channel.number;
        let commands = self.commands.extract_if(.., |command| of(command.channel)).collect();
        let functions = self.functions.extract_if(.., |function| of(function.channel)).collect();
        let Channel { port, since, .. } = channel;
        self.past.push(Past { port, since, commands, functions });
    }

    fn end_past(&mut self, shared: &mut Shared, past: Past) {
        for command in past.commands {
            shared.tally.seen(Seen::Orphaned);
            self.free.push(command.slot);
            self.settle(shared, &command, Done::Maybe);
        }
        let now = shared.now();
        past.functions.iter().for_each(|function| end_function(shared, function, now));
    }

    fn look_at_past(&mut self, shared: &mut Shared) {
        for at in (0..self.past.len()).rev() {
            if self.past[at].port.is_released() {
                let past = self.past.swap_remove(at);
                self.end_past(shared, past);
            }
        }
    }

    /// Channels that the other end, or the network, has ended.
    fn look_at_channels(&mut self, shared: &mut Shared) {
        for at in (0..self.channels.len()).rev() {
            let channel = &mut self.channels[at];
            let ended = channel.port.ended();
            let deaf = channel.deaf_until > shared.world.steps && ended.is_none();
            channel.port.inner_mut().deaf = deaf;
            assert_eq!(channel.port.protocol_errors(), 0, "session {}", self.number);
            if !channel.port.closed() {
                continue;
            }
            let reason = ended.expect("closed links have a reason");
            note!(shared, "s{} channel {} ended: {reason:?}", self.number, channel.number);
            let fits = match reason {
                CloseReason::PeerGone => false,
                CloseReason::Local => channel.doomed || shared.ends_channels,
                CloseReason::RemoteAccess => channel.strayed,
                CloseReason::Link => shared.links_fail() || channel.strayed,
                CloseReason::Protocol => false,
            };
            assert!(fits, "a channel of session {} ended: {reason:?}", self.number);
            let (events, logout) = {
                let inner = channel.port.inner();
                (inner.events.len(), inner.logout)
            };
            (0..events).for_each(|_| shared.tally.seen(Seen::Events));
            logout.then(|| shared.tally.seen(Seen::Farewells));
            // Answers that came before the end count.
            self.look_at_answers(shared);
            let channel = self.channels.remove(at);
            self.bury(channel);
        }
    }

    fn look_at_answers(&mut self, shared: &mut Shared) {
        for at in 0..self.channels.len() {
            let (number, ends) = (self.channels[at].number, self.channels[at].port.take_ends());
            for (tag, end) in ends {
                note!(shared, "s{} c{number} {tag:?} {end:?}", self.number);
                match end {
                    End::Task(code) => self.on_function(shared, number, tag, code),
                    End::Answered(_) | End::Aborted => {
                        let same = |c: &Command| c.channel == number && c.tag == tag;
                        let Some(at) = self.commands.iter().position(same) else {
                            panic!("session {}: the end of no command: {tag:?}", self.number)
                        };
                        let command = self.commands.swap_remove(at);
                        self.on_end(shared, command, end);
                    }
                }
            }
        }
    }

    fn on_end(&mut self, shared: &mut Shared, command: Command, end: End) {
        let done = match end {
            End::Answered(outcome) => {
                self.answered += 1;
                let heard = &mut self.heard;
                let done =
                    check::answer(shared, self.number, heard, &self.memory, &command, &outcome);
                if command.draft.work == Work::Reserve && outcome.status == 0 {
                    self.has_reserved(shared, &command);
                }
                done
            }
            _ => {
                shared.tally.seen(Seen::Aborted);
                Done::Maybe
            }
        };
        if command.draft.work == Work::Release {
            self.released = shared.now();
        }
        self.free.push(command.slot);
        self.settle(shared, &command, done);
    }

    fn settle(&self, shared: &mut Shared, command: &Command, done: Done) {
        let Draft { lba, blocks, work, .. } = &command.draft;
        let durable = match work {
            Work::Write { fua } | Work::Compare(_, fua) => *fua,
            _ => return,
        };
        let now = shared.now();
        shared.blocks[command.disk].end(*lba, *blocks, command.sent, done, durable, now);
    }

    fn on_function(
        &mut self,
        shared: &mut Shared,
        channel: u64,
        tag: reactor::Tag,
        code: Option<u8>,
    ) {
        let same = |f: &Function| f.channel == channel && f.tag == tag;
        let at = self.functions.iter().position(same).expect("an answer to a function");
        let function = self.functions.swap_remove(at);
        let now = shared.now();
        shared.attentions.end(function.begun, now);
        if let (Some((disk, sent)), Some(response_code::SUCCESS)) = (function.resets, code) {
            shared.reservations.released(None, disk, sent, now);
            shared.reservations.doubt(disk, now);
        }
        let fits = match code {
            Some(response_code::NOT_SUPPORTED) => !function.known,
            Some(response_code::SUCCESS) => function.known,
            // There is no such LUN.
            Some(response_code::FAILED) => function.known && !function.is_abort,
            _ => false,
        };
        assert!(fits, "response code {code:?}");
    }

    fn trouble(&mut self, shared: &mut Shared) {
        let mut strikes = |fault| shared.plan.strikes(fault, &mut self.rng);
        let (disconnect, logout) = (strikes(Fault::Disconnect), strikes(Fault::Logout));
        let (takeover, half_open) = (strikes(Fault::Takeover), strikes(Fault::HalfOpen));
        let (deaf, abort) = (strikes(Fault::Deaf), strikes(Fault::Abort));
        let vanish = strikes(Fault::Vanish);
        let functions = [
            (Fault::AbortSet, Tmf::AbortTaskSet as u8),
            (Fault::ClearSet, Tmf::ClearTaskSet as u8),
            (Fault::Reset, Tmf::LunReset as u8),
            (Fault::BadTask, 0x55),
        ];
        let functions = functions.map(|(fault, code)| (strikes(fault), fault, code));
        if disconnect || logout {
            self.hang_up(shared, logout);
        }
        if takeover {
            shared.tally.fault(Fault::Takeover);
            self.login(shared, false, None);
        }
        if half_open {
            let (multi, steps) = (self.rng.one(2), self.rng.below(12));
            self.login(shared, multi, Some(shared.world.steps + steps));
        }
        if deaf && !self.channels.is_empty() {
            let at = self.rng.below(self.channels.len() as u64) as usize;
            self.channels[at].deaf_until = shared.world.steps + 10 + self.rng.below(150);
            shared.tally.fault(Fault::Deaf);
        }
        if abort && !self.commands.is_empty() {
            let at = self.rng.below(self.commands.len() as u64) as usize;
            if self.abort(shared, at) {
                shared.tally.fault(Fault::Abort);
            }
        }
        if vanish {
            self.vanish(shared);
        }
        for (strikes, fault, code) in functions {
            if strikes && self.function(shared, code) {
                shared.tally.fault(fault);
            }
        }
    }

    /// Ends a channel from this side.
    fn hang_up(&mut self, shared: &mut Shared, logout: bool) {
        if self.channels.is_empty() {
            return;
        }
        let at = self.rng.below(self.channels.len() as u64) as usize;
        let channel = &mut self.channels[at];
        note!(shared, "s{} c{} hangs up, logout {logout}", self.number, channel.number);
        if !logout {
            shared.tally.fault(Fault::Disconnect);
            let channel = self.channels.remove(at);
            channel.port.disconnect();
            self.bury(channel);
        } else if !channel.doomed && channel.port.try_logout() {
            shared.tally.fault(Fault::Logout);
            channel.doomed = true;
            self.doubted = true;
        }
    }

    fn abort(&mut self, shared: &mut Shared, at: usize) -> bool {
        let command = &mut self.commands[at];
        let of = |channel: &&Channel| channel.number == command.channel;
        let Some(channel) = self.channels.iter().find(of) else { return false };
        let task = Some(command.tag);
        let Some(tag) = channel.port.try_task(Tmf::AbortTask as u8, command.draft.lun, task) else {
            return false;
        };
        note!(shared, "s{} c{} {tag:?} aborts {:?}", self.number, channel.number, command.tag);
        command.aborting = true;
        let taken = Taken::Task(self.number, command.draft.lun, command.tag);
        let begun = shared.attentions.take(taken, None);
        let channel = channel.number;
        self.functions.push(Function {
            channel,
            tag,
            begun,
            is_abort: true,
            known: true,
            resets: None,
        });
        true
    }

    /// Sends a function for a logical unit.
    fn function(&mut self, shared: &mut Shared, code: u8) -> bool {
        if self.channels.is_empty() || !self.functions.is_empty() {
            return false;
        }
        let at = self.rng.below(self.channels.len() as u64) as usize;
        let channel = &self.channels[at];
        let lun = self.rng.below(u64::from(LUNS)) as u16;
        let Some(tag) = channel.port.try_task(code, lun, None) else { return false };
        note!(shared, "s{} c{} {tag:?} function {code:#x} LUN {lun}", self.number, channel.number);
        let luns = shared.luns_of(lun);
        let all = &mut shared.attentions;
        let (taken, raise) = match Tmf::from_byte(code) {
            Some(Tmf::LunReset) => (Taken::Unit(luns), Some(all.begin(Kind::PowerOn, luns, None))),
            Some(Tmf::ClearTaskSet) => {
                let others = all.begin(Kind::Cleared, luns, Some(self.number));
                (Taken::Unit(luns), Some(others))
            }
            Some(_) => (Taken::Set(self.number, luns), None),
            None => (Taken::Set(self.number, 0), None),
        };
        let begun = all.take(taken, raise);
        let known = Tmf::from_byte(code).is_some();
        let channel = channel.number;
        let is_reset = Tmf::from_byte(code) == Some(Tmf::LunReset);
        let resets = is_reset.then(|| (shared.disk_of(lun), shared.now()));
        if let Some((disk, now)) = resets {
            shared.reservations.doubt(disk, now);
        }
        let is_abort = false;
        self.functions.push(Function { channel, tag, begun, is_abort, known, resets });
        true
    }

    /// A command that was taken away has no end until the initiator asks. Any other has one.
    fn lose_patience(&mut self, shared: &mut Shared) {
        if !shared.world.steps.is_multiple_of(16) {
            return;
        }
        for at in 0..self.commands.len() {
            let command = &self.commands[at];
            let waited = shared.world.steps - command.step.max(shared.act_began);
            if command.aborting || waited < PATIENCE {
                continue;
            }
            let (lun, sent) = (command.draft.lun, command.sent);
            let luns = if lun == NO_LUN { 0 } else { shared.luns_of(lun) };
            let all = &shared.attentions;
            if all.may_be_taken(self.number, (command.draft.lun, command.tag), luns, sent) {
                if self.abort(shared, at) {
                    shared.tally.seen(Seen::Taken);
                }
            } else {
                assert!(waited < STALE, "never answered: {command:?}");
            }
        }
    }
}
