//! The loop of the control thread.
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::path::Bound;
use super::{Counters, ListenError, ListenerOptions, bump};
use crate::control_thread::{Bell, Inbox, Order};
use crate::half_open::{HalfOpen, Who};
use crate::peer_lines::{PeerLines, peer_line};
use crate::shm::REGION_BYTES_MAX;
use crate::shm::allowance::{Charge, Ledger, costs};
use crate::shm::door::{CoreDoor, Message, Prepared, Remains};
use crate::shm::socket::{self, Cut, Received};
use crate::shm::sys::{MapError, Mapping, Regions, peer_credentials};
use crate::shm::wire::{Datagram, REGIONS_MAX};
use crate::undertaker::Undertakers;

/// Token of the command counter; sources count up from 1.
pub(super) const TOKEN_COMMANDS: u64 = 0;
/// Between two tries to hand over to a core whose ring is full.
const RETRY_WAIT: Duration = Duration::from_millis(2);
/// Without accepting after the process ran out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Sockets accepted, events handled per round.
const ROUND: usize = 64;
/// Things of peers that may wait to be closed before no more peers are accepted.
const REMAINS_MAX: usize = 4096;

/// What the owner of the [`super::Listener`] asks for.
#[derive(Debug)]
pub(super) enum Command {
    /// Listen.
    Add { target: Arc<str>, bound: Bound, answer: mpsc::Sender<Result<(), ListenError>> },
    /// Listen no more.
    Remove { target: Arc<str>, path: PathBuf, answer: mpsc::Sender<Result<(), ListenError>> },
}

/// What an epoll token stands for.
#[derive(Debug)]
enum Source {
    Listening { target: Arc<str>, traddr: Arc<str>, bound: Bound },
    HalfOpen { socket: OwnedFd, listener: u64, who: Who },
    Connected { socket: Arc<OwnedFd>, bell: u64, core: usize, place: u32 },
    Bell { counter: OwnedFd, core: usize, place: u32 },
}

pub(super) struct Control {
    epoll: OwnedFd,
    bell: Bell,
    doors: Vec<CoreDoor>,
    options: ListenerOptions,
    counters: Arc<Counters>,
    sources: BTreeMap<u64, Source>,
    token_next: u64,
    /// Unfinished handshakes.
    half_open: HalfOpen,
    paused_until: Option<Instant>,
    lines: PeerLines,
    undertakers: Undertakers,
    ledger: Arc<Ledger>,
}

impl Control {
    pub(super) fn new(
        epoll: OwnedFd,
        bell: Bell,
        doors: Vec<CoreDoor>,
        options: ListenerOptions,
        counters: Arc<Counters>,
    ) -> Self {
        let ledger = Ledger::new(options.allowance.clone());
        Control {
            epoll,
            bell,
            doors,
            options,
            counters,
            sources: BTreeMap::new(),
            token_next: TOKEN_COMMANDS + 1,
            half_open: HalfOpen::default(),
            paused_until: None,
            lines: PeerLines::default(),
            undertakers: Undertakers::new("shm-undertaker"),
            ledger,
        }
    }

    pub(super) fn run(mut self, inbox: &Inbox<Command>) {
        let mut events = Vec::with_capacity(ROUND);
        loop {
            self.take_remains();
            let mut settled = true;
            for door in &mut self.doors {
                settled &= door.retry();
            }
            let wait = self.wait(settled);
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => panic!("epoll of the shm control thread: {errno}"),
            }
            for event in &events {
                let token = event.data.u64();
                if token == TOKEN_COMMANDS {
                    self.bell.hush();
                    if !self.on_commands(inbox) {
                        return self.bury_all();
                    }
                } else {
                    self.on_event(token);
                }
            }
            self.on_time(Instant::now());
        }
    }

    /// Time to the next deadline.
    fn wait(&self, settled: bool) -> Option<Timespec> {
        let next = self.half_open.deadline().into_iter().chain(self.paused_until).min();
        let left = next.map(|at| at.saturating_duration_since(Instant::now()));
        let left =
            if settled { left } else { Some(left.map_or(RETRY_WAIT, |l| l.min(RETRY_WAIT))) };
        left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    /// False: the thread shall end.
    fn on_commands(&mut self, inbox: &Inbox<Command>) -> bool {
        while let Some(order) = inbox.next() {
            match order {
                Order::Command(Command::Add { target, bound, answer }) => {
                    let _ = answer.send(self.on_add(target, bound));
                }
                Order::Command(Command::Remove { target, path, answer }) => {
                    let _ = answer.send(self.on_remove(&target, path));
                }
                Order::Stop => return false,
            }
        }
        true
    }

    /// Stops listening; what peers have passed goes in its own time.
    fn bury_all(mut self) {
        self.take_remains();
        for source in self.sources.into_values() {
            match source {
                Source::Listening { bound, .. } => bound.bury(&self.undertakers),
                Source::HalfOpen { socket, .. } => bury_socket(&self.undertakers, Arc::new(socket)),
                Source::Connected { socket, .. } => bury_socket(&self.undertakers, socket),
                Source::Bell { .. } => {}
            }
        }
    }

    /// What cores have given back of their connections.
    fn take_remains(&mut self) {
        for door in &mut self.doors {
            while let Some(remains) = door.remains() {
                bury(&self.undertakers, remains);
            }
        }
    }

    fn watch(&mut self, fd: impl AsFd, flags: EventFlags) -> Result<u64, Errno> {
        let token = self.token_next;
        epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)?;
        self.token_next += 1;
        Ok(token)
    }

    fn on_add(&mut self, target: Arc<str>, bound: Bound) -> Result<(), ListenError> {
        let traddr: Arc<str> = bound.path().display().to_string().into();
        let token = match self.watch(&bound.socket, EventFlags::IN) {
            Ok(token) => token,
            Err(errno) => {
                bound.bury(&self.undertakers);
                return Err(ListenError::System { what: format!("listening on {traddr}"), errno });
            }
        };
        self.sources.insert(token, Source::Listening { target, traddr, bound });
        Ok(())
    }

    fn on_remove(&mut self, target: &str, path: PathBuf) -> Result<(), ListenError> {
        let found = self.sources.iter().find_map(|(token, source)| match source {
            Source::Listening { target: t, bound, .. }
                if **t == *target && bound.path() == path =>
            {
                Some(*token)
            }
            _ => None,
        });
        let Some(token) = found else {
            let path = path.display().to_string();
            return Err(ListenError::NotFound { target: target.into(), path });
        };
        if let Some(Source::Listening { bound, .. }) = self.sources.remove(&token) {
            self.unwatch(&bound.socket);
            bound.bury(&self.undertakers);
        }
        let of_it = |source: &Source| match source {
            Source::HalfOpen { listener, .. } => *listener == token,
            _ => false,
        };
        let gone: Vec<u64> = self
            .sources
            .iter()
            .filter(|(_, source)| of_it(source))
            .map(|(token, _)| *token)
            .collect();
        for token in gone {
            self.drop_half_open(token);
        }
        Ok(())
    }

    fn on_event(&mut self, token: u64) {
        // An event may be older than a removal in the same round.
        match self.sources.get(&token) {
            Some(Source::Listening { .. }) => self.on_connect(token),
            Some(Source::HalfOpen { .. }) => self.on_hello(token),
            Some(Source::Connected { .. }) => self.on_gone(token),
            Some(Source::Bell { core, place, .. }) => self.doors[*core].ring(*place),
            None => {}
        }
    }

    fn on_connect(&mut self, listener: u64) {
        if self.undertakers.waiting() >= REMAINS_MAX {
            peer_line!(
                self.lines,
                WARN,
                "shm peers leave more than can be closed, accepting later"
            );
            return self.pause();
        }
        for _ in 0..ROUND {
            let Some(Source::Listening { bound, .. }) = self.sources.get(&listener) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(&bound.socket, flags) {
                Ok(socket) => socket,
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    peer_line!(self.lines, WARN, %errno, "can't accept shm peers for now");
                    return self.pause();
                }
            };
            bump(&self.counters.connected);
            self.begin(socket, listener);
        }
    }

    /// A handshake begins. Whoever is polite has said hello by now.
    fn begin(&mut self, socket: OwnedFd, listener: u64) {
        let begun = peer_credentials(&socket).and_then(|credentials| {
            Ok((credentials, self.watch(&socket, EventFlags::IN | EventFlags::RDHUP)?))
        });
        let ((pid, uid), token) = match begun {
            Ok(begun) => begun,
            Err(errno) => {
                peer_line!(self.lines, WARN, %errno, "can't watch a shm peer");
                return bury_socket(&self.undertakers, Arc::new(socket));
            }
        };
        let who = Who { peer: format!("uid {uid}"), process: pid };
        let half_open = Source::HalfOpen { socket, listener, who: who.clone() };
        self.sources.insert(token, half_open);
        self.half_open.begin(token, who, Instant::now() + self.options.hello_wait);
        self.on_hello(token);
        while self.half_open.len() > self.options.half_open_max.max(1) {
            self.make_room();
        }
    }

    /// Ends the handshake of whoever has the most, unless its hello is there.
    fn make_room(&mut self) {
        let Some((token, who)) = self.half_open.greediest(|_| true) else { return };
        let who = who.to_string();
        self.on_hello(token);
        if self.drop_half_open(token) {
            bump(&self.counters.silent);
            peer_line!(self.lines, INFO, who, "dropped a shm peer without a hello for a newer one");
        }
    }

    /// False: it is no unfinished handshake.
    fn drop_half_open(&mut self, token: u64) -> bool {
        let Some((socket, ..)) = self.take_half_open(token) else { return false };
        self.unwatch(&socket);
        bury_socket(&self.undertakers, Arc::new(socket));
        true
    }

    /// For a descriptor that may stay open for a while.
    fn unwatch(&self, fd: impl AsFd) {
        // It fails for what is not watched.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn take_half_open(&mut self, token: u64) -> Option<(OwnedFd, u64, Who)> {
        if !self.half_open.end(token) {
            return None;
        }
        match self.sources.remove(&token) {
            Some(Source::HalfOpen { socket, listener, who }) => Some((socket, listener, who)),
            _ => unreachable!("a handshake that has begun has a socket"),
        }
    }

    fn on_time(&mut self, now: Instant) {
        while let Some(token) = self.half_open.due(now) {
            if self.drop_half_open(token) {
                bump(&self.counters.silent);
            }
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.listen(EventFlags::IN);
        }
    }

    fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + PAUSE);
        self.listen(EventFlags::empty());
    }

    fn listen(&self, flags: EventFlags) {
        for (token, source) in &self.sources {
            if let Source::Listening { bound, .. } = source {
                let data = EventData::new_u64(*token);
                if let Err(errno) = epoll::modify(&self.epoll, &bound.socket, data, flags) {
                    tracing::error!(%errno, "can't watch a shm listener");
                }
            }
        }
    }

    fn on_hello(&mut self, token: u64) {
        let Some(Source::HalfOpen { socket, .. }) = self.sources.get(&token) else { return };
        let received = match socket::receive_of_stranger(socket) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            received => received,
        };
        let received = match received {
            Ok(received) if !received.bytes.is_empty() || !received.fds.is_empty() => received,
            Ok(_) | Err(_) => {
                self.drop_half_open(token);
                return bump(&self.counters.left);
            }
        };
        let Some((socket, listener, who)) = self.take_half_open(token) else { return };
        let socket = Arc::new(socket);
        if let Err(text) = self.attach(&socket, (listener, &who), &received) {
            bump(&self.counters.refused);
            peer_line!(self.lines, INFO, text, "refused a shm peer");
            let _ = socket::send(&*socket, &Datagram::Error(text).encode(), &[]);
            self.unwatch(&*socket);
            bury_socket(&self.undertakers, socket);
            let fds = received.fds;
            self.undertakers.bury(move || fds.into_iter().for_each(socket::bury_descriptor));
        } else {
            // These are memory files, which are mapped: to close them takes no time.
            drop(received.fds);
            bump(&self.counters.attached);
        }
    }

    /// Checks a hello and hands the peer to a core. The error goes to the peer.
    fn attach(
        &mut self,
        socket: &Arc<OwnedFd>,
        (listener, who): (u64, &Who),
        received: &Received,
    ) -> Result<(), String> {
        let Some(Source::Listening { target, traddr, .. }) = self.sources.get(&listener) else {
            return Err("the listener is gone".into());
        };
        let (target, traddr) = (Arc::clone(target), Arc::clone(traddr));
        let (regions, login, charge) = registered(received, &self.ledger, who)?;
        let pid = who.process;
        // Places that have become free since the last look.
        self.take_remains();
        let mut order: Vec<usize> = (0..self.doors.len()).collect();
        order.sort_by_key(|core| self.doors[*core].channels());
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let failed = |errno: Errno| format!("the target lacks descriptors or memory: {errno}");
        let bell = rustix::event::eventfd(0, flags).map_err(failed)?;
        let watched_bell = rustix::io::fcntl_dupfd_cloexec(&bell, 0).map_err(failed)?;
        let mut order = order.into_iter();
        let reserved = order.find_map(|core| Some((core, self.doors[core].reserve()?)));
        let Some((core, place)) = reserved else {
            return Err("the target has no free connection".into());
        };
        // Edge-triggered and never read: no peer can stop or steal another's wake-up.
        let watched = self.watch(&watched_bell, EventFlags::IN | EventFlags::ET);
        let watched = watched.and_then(|bell| {
            // The handshake's watch ends here, with its token.
            epoll::delete(&self.epoll, &**socket)?;
            Ok((bell, self.watch(&**socket, EventFlags::RDHUP)?))
        });
        let (bell_token, serial) = match watched {
            Ok(tokens) => tokens,
            Err(errno) => {
                self.doors[core].unreserve(place);
                return Err(failed(errno));
            }
        };
        self.sources.insert(bell_token, Source::Bell { counter: watched_bell, core, place });
        let socket = Arc::clone(socket);
        let connected =
            Source::Connected { socket: Arc::clone(&socket), bell: bell_token, core, place };
        self.sources.insert(serial, connected);
        let arrival = crate::next_arrival();
        let prepared = Prepared {
            place,
            serial,
            socket,
            bell,
            regions,
            charge,
            login,
            target,
            traddr,
            pid,
            arrival,
        };
        self.doors[core].send(Message::Attach(Box::new(prepared)));
        Ok(())
    }

    fn on_gone(&mut self, serial: u64) {
        let Some(source) = self.sources.remove(&serial) else { return };
        let Source::Connected { socket, bell, core, place } = source else { return };
        // The core holds these descriptors too, so closing ours would not end the watch.
        self.unwatch(&*socket);
        if let Some(Source::Bell { counter, .. }) = self.sources.remove(&bell) {
            self.unwatch(&counter);
        }
        // Whichever of the core's and this reference goes last, an undertaker drops it.
        bury_socket(&self.undertakers, socket);
        bump(&self.counters.gone);
        self.doors[core].send(Message::Gone { place, serial });
    }
}

fn bury_socket(undertakers: &Undertakers, socket: Arc<OwnedFd>) {
    undertakers.bury(move || socket::bury(&socket));
}

/// What a core has given back of a connection.
fn bury(undertakers: &Undertakers, remains: Remains) {
    undertakers.bury(move || {
        let Remains { regions, socket, bell, charge, .. } = remains;
        drop((bell, regions));
        socket::bury(&socket);
        drop((socket, charge));
    });
}

/// The regions and the login of a hello of `who`, with what they cost, or what is wrong with it.
/// What the target lacks is not told as the peer's mistake.
fn registered(
    received: &Received,
    ledger: &Arc<Ledger>,
    who: &Who,
) -> Result<(Regions, Vec<u8>, Charge), String> {
    let Received { bytes, fds, cut } = received;
    match cut {
        Some(Cut::OutOfDescriptors) => {
            return Err("the target is out of descriptors: too many files are open there".into());
        }
        Some(cut @ (Cut::Bytes | Cut::Descriptors)) => return Err(format!("a hello {cut}")),
        None => {}
    }
    let (regions, login) = match Datagram::decode(bytes).map_err(|error| error.to_string())? {
        Datagram::Hello { regions, login } => (regions as usize, login),
        _ => return Err("a connection begins with HELLO".into()),
    };
    if regions == 0 || regions > REGIONS_MAX {
        return Err(format!("{regions} regions: 1 to {REGIONS_MAX} allowed"));
    }
    if regions != fds.len() {
        return Err(format!("{regions} regions announced, {} descriptors sent", fds.len()));
    }
    if login.is_empty() {
        return Err("hello without a login request".into());
    }
    let mut maps = Vec::with_capacity(regions);
    let mut bytes_left = REGION_BYTES_MAX;
    for (number, fd) in fds.iter().enumerate() {
        let map = Mapping::of_sealed(fd, bytes_left).map_err(|error| match error {
            MapError::System(errno) => format!("the target can't map region {number}: {errno}"),
            error => format!("region {number}: {error}"),
        })?;
        bytes_left -= map.len() as u64;
        maps.push(map);
    }
    let charge = ledger.charge(who, costs(maps.iter().map(Mapping::len)))?;
    Ok((Regions::new(maps), login, charge))
}
