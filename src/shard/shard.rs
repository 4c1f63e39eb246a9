//! The turn of a core.
//!
//! A turn is the loop body: messages, what the fabric brought, new commands, what the devices
//! finished, and at the end one flush of everything.
//!
//! The wait queue in front of admission can't overflow: each entry holds a posted receive. After
//! admission no step can fail for want of a resource.
//!
//! A command costs no allocation, no lock and no system call of its own.

use reactor::{Batch, Instant, Progress, Service};
use transport::srp::{DirectCmd, Opcode};
use transport::{CloseReason, ConnId, Event, Fabric, Recv};

use super::Shard;
use super::coverage::{Mark, mark};
use super::message::{CoreMessage, Message};
use super::tasks::abort::Abort;

impl<F: Fabric> Shard<F> {
    #[inline]
    fn on_event(&mut self, event: Event) {
        let Shard { connections, commands, luns, .. } = self;
        match event {
            Event::Received { conn, recv } => self.on_received(conn, recv),
            Event::Fetched { tag, buf, ok } => {
                commands.requests_mut().on_fetched(connections, luns, (tag, buf), ok);
            }
            Event::Replied { tag, buf, ok } => {
                commands.requests_mut().on_replied(connections, tag, buf, ok);
            }
            Event::Login { conn } => self.on_login(conn),
            Event::Closed { conn, reason } => self.on_closed(conn, reason),
        }
    }

    #[inline]
    fn on_received(&mut self, conn: ConnId, recv: Recv) {
        let Shard { connections, commands, luns, queues, .. } = self;
        let Some(cmd) = DirectCmd::parse(connections.iu(conn, &recv)) else {
            return self.on_received_any(conn, recv);
        };
        let taken = commands.on_direct(connections, luns, queues, (conn, recv), &cmd);
        if let Err(recv) = taken {
            self.on_unwelcome(conn, recv);
        }
    }

    #[inline(never)]
    fn on_received_any(&mut self, conn: ConnId, recv: Recv) {
        let opcode = Opcode::of(self.connections.iu(conn, &recv));
        let connection = self.connections.get_mut(conn);
        if !connection.is_live() {
            return self.on_unwelcome(conn, recv);
        }
        match opcode {
            Ok(Opcode::Cmd | Opcode::TskMgmt) if !connection.welcomes() => {
                self.on_unwelcome(conn, recv);
            }
            Ok(Opcode::Cmd) => {
                let Shard { connections, commands, luns, queues, .. } = self;
                commands.on_command(connections, luns, queues, conn, recv);
            }
            Ok(Opcode::TskMgmt) => self.on_task_management(conn, recv),
            Ok(Opcode::ILogout) => {
                self.connections.repost(conn, recv);
                self.log.count("logout");
                self.close(conn, CloseReason::Local);
            }
            Ok(Opcode::CredRsp | Opcode::AerRsp) => {
                if !connection.credits().answered() {
                    return self.violation(conn, Some(recv), "unasked_response");
                }
                self.connections.repost(conn, recv);
                // What came to be owed meanwhile had to wait for this answer.
                self.connections.settle(conn);
            }
            Ok(_) => self.violation(conn, Some(recv), "unexpected_opcode"),
            Err(_) => self.violation(conn, Some(recv), "malformed_iu"),
        }
    }

    /// There was no credit for what has arrived, or its connection ends: then answers to the
    /// target's own requests are fine, and the rest is void.
    #[cold]
    fn on_unwelcome(&mut self, conn: ConnId, recv: Recv) {
        if self.connections.get(conn).is_live() {
            return self.violation(conn, Some(recv), "credit_overrun");
        }
        mark(Mark::ReceivedLate);
        self.connections.repost(conn, recv);
    }

    /// Tells who waits for commands that have come back.
    #[cold]
    fn tell_news(&mut self) {
        let requests = self.commands.requests_mut();
        while let Some(abort) = requests.aborts().next_ended() {
            let Abort { from, task, count, .. } = abort;
            self.out.send(from, CoreMessage::Aborted { task, count });
        }
        self.commands.ask_homes(&mut self.out);
        while let Some(token) = self.commands.requests_mut().next_left() {
            self.answer(token);
        }
    }
}

impl<F: Fabric> Service for Shard<F> {
    type Message = Message;

    fn turn(&mut self, now: Instant, inbox: &mut Batch<Message>) -> Progress {
        self.commands.begin_turn(now);
        let mut progress = Progress::Idle;
        while let Some(message) = inbox.pop() {
            self.on_message(message);
            progress = Progress::Busy;
        }
        self.connections.poll(now, &mut self.events);
        while let Some(event) = self.events.pop() {
            self.on_event(event);
            progress = Progress::Busy;
        }
        let Shard { connections, commands, luns, queues, out, .. } = self;
        let due = queues.earliest().is_some_and(|due| due <= now);
        if due && queues.release_due(connections, now) {
            progress = Progress::Busy;
        }
        if !connections.is_none_ready() && commands.admit_ready(connections, luns, queues) {
            progress = Progress::Busy;
        }
        luns.devices_mut().flush();
        luns.devices_mut().poll(now, &mut self.done);
        if !self.done.is_empty() {
            while let Some(done) = self.done.pop() {
                commands.requests_mut().on_done(connections, luns, out, done);
            }
            luns.devices_mut().settle();
            progress = Progress::Busy;
        }
        if connections.is_any_ending() {
            self.check_ending();
        }
        if self.commands.requests().has_news() {
            self.tell_news();
        }
        if self.connections.is_probe_due(now) {
            self.connections.probe_some(now);
        }
        self.connections.flush();
        self.out.flush();
        progress
    }

    fn arm(&mut self) -> bool {
        self.connections.may_sleep()
            && self.out.flush()
            && self.luns.devices_mut().arm()
            && self.connections.fabric_mut().arm()
    }

    fn deadline(&self) -> Option<Instant> {
        self.queues.earliest()
    }

    fn stopped(&self) -> bool {
        self.stops.has_ended()
    }
}
