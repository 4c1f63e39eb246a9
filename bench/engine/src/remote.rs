//! A logical unit behind the channels of a session.

use std::ptr::NonNull;

use anyhow::{Context, Result};
use reactor::Instant;
use srpt_bench::port::{Command, Done, Port, Unit};
use srpt_bench::session::{self, SrpPort};
use transport::initiator::{Connector, DataMemory, LinkError, Session};

use crate::Way;

/// A session of one job. Slots are spread over its channels.
pub(crate) struct Remote<C: Connector> {
    session: Session<C>,
    unit: Unit,
    memory: NonNull<u8>,
}

impl<C: Connector> Remote<C> {
    /// Of a session that is logged in.
    pub(crate) fn new(session: Session<C>, unit: Unit) -> Result<Self> {
        let memory = session.memory.base().context("memory that only copies reach")?;
        Ok(Remote { session, unit, memory })
    }

    #[inline]
    fn port(&mut self, channel: usize) -> SrpPort<'_, C::Link, C::Memory> {
        SrpPort::new(&mut self.session.channels[channel], &self.session.memory)
    }
}

impl<C: Connector> Way for Remote<C> {
    fn size(&self) -> (u32, u64) {
        (self.unit.block_bytes, self.unit.blocks)
    }

    fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    #[inline]
    fn submit(&mut self, command: &Command) -> Result<bool, LinkError> {
        let channel = command.slot as usize % self.session.channels.len();
        self.port(channel).submit(command)
    }

    #[inline]
    fn flush(&mut self) -> Result<(), LinkError> {
        (0..self.session.channels.len()).try_for_each(|channel| self.port(channel).flush())
    }

    #[inline]
    fn poll(&mut self, _now: Instant, done: &mut Vec<Done>) -> Result<(), LinkError> {
        (0..self.session.channels.len()).try_for_each(|channel| self.port(channel).poll(done))
    }
}

impl<C: Connector> Drop for Remote<C> {
    fn drop(&mut self) {
        session::logout(&mut self.session);
    }
}
