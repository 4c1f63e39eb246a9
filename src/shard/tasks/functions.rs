//! Task management functions that this core received: a function is carried out on all cores, and
//! answered when each of them has finished its part.

use std::collections::VecDeque;

use reactor::{Slab, Tag};
use transport::srp::SolNot;
use transport::{ConnId, Fabric, Recv};

use crate::limits::TASK_MANAGEMENT_MAX;
use crate::shard::connections::table::Connections;
use crate::shard::coverage::{Mark, mark};
use crate::shard::names::SrpTag;

/// A function that this core received and all cores carry out.
pub(crate) struct Function {
    /// Where it came.
    pub conn: ConnId,
    /// `None` once its connection is gone: then nobody is answered.
    pub recv: Option<Recv>,
    /// SRP tag of the function.
    pub tag: SrpTag,
    /// When the response is solicited.
    pub sol_not: SolNot,
    /// Parts that have not ended: one for each core, and one for what a reset decides.
    pub parts_left: usize,
}

/// The functions of one core.
pub(crate) struct Tasks {
    functions: Slab<Function>,
    /// Received functions that wait until one of these has ended, oldest first.
    waiting: VecDeque<(ConnId, Recv)>,
}

impl Tasks {
    /// Nothing under way.
    pub(crate) fn new() -> Tasks {
        Tasks { functions: Slab::new(TASK_MANAGEMENT_MAX), waiting: VecDeque::new() }
    }

    /// No function can begin before one has ended.
    pub(crate) fn is_full(&self) -> bool {
        self.functions.is_full()
    }

    /// A received function waits until another one has ended.
    pub(crate) fn wait(&mut self, conn: ConnId, recv: Recv) {
        mark(Mark::FunctionWaits);
        self.waiting.push_back((conn, recv));
    }

    /// A function that waited can begin.
    pub(crate) fn next_waiting(&mut self) -> Option<(ConnId, Recv)> {
        if self.is_full() { None } else { self.waiting.pop_front() }
    }

    /// A function begins; there is room. What the cores call it.
    pub(crate) fn begin(&mut self, function: Function) -> Tag {
        self.functions.insert(function).unwrap_or_else(|_| unreachable!("there was room"))
    }

    /// A part has ended. The function, if it was the last one.
    pub(crate) fn end_part(&mut self, task: Tag) -> Option<Function> {
        let function = self.functions.get_mut(task).expect("every part ends once");
        function.parts_left -= 1;
        if function.parts_left > 0 {
            return None;
        }
        self.functions.remove(task)
    }

    /// Functions of a connection that is gone are still carried out, but nobody is answered. Those
    /// that wait are dropped.
    pub(crate) fn drop_of<F: Fabric>(&mut self, connections: &mut Connections<F>, conn: ConnId) {
        for (_, function) in self.functions.iter_mut() {
            if function.conn == conn
                && let Some(recv) = function.recv.take()
            {
                mark(Mark::FunctionDropped);
                connections.repost(conn, recv);
            }
        }
        for _ in 0..self.waiting.len() {
            let (of, recv) = self.waiting.pop_front().expect("counted");
            if of != conn {
                self.waiting.push_back((of, recv));
                continue;
            }
            mark(Mark::FunctionDropped);
            connections.repost(conn, recv);
            connections.get_mut(conn).end();
        }
    }
}
