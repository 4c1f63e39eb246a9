//! The machine of an initiator goes, and nobody tells the target.

use transport::CloseReason;

use super::{PATIENCE, STALE, Session};
use crate::note;
use crate::port::Port;
use crate::soak::plan::{Fault, PROBE_EVERY};
use crate::soak::run::Shared;
use crate::soak::tally::Seen;

/// A machine that is gone.
pub(super) struct Silence {
    /// Its channels that the target has not ended.
    ports: Vec<Port>,
    began: u64,
    /// The step in which the link of one was seen to be dead, or from which on it is asked for.
    missed: Option<u64>,
}

impl Session {
    /// The machine goes with all channels.
    pub(super) fn vanish(&mut self, shared: &mut Shared) {
        // Where it shares memory with the target its end is seen.
        if self.channels.is_empty() || shared.plan.options.lends {
            return;
        }
        shared.tally.fault(Fault::Vanish);
        note!(shared, "s{} vanishes", self.number);
        self.tries.clear();
        let mut ports = Vec::new();
        for channel in std::mem::take(&mut self.channels) {
            if channel.port.ended().is_none() {
                channel.port.vanish();
                ports.push(channel.port.clone());
            }
            self.bury(channel);
        }
        let began = shared.world.steps;
        let asked = shared.plan.options.limits.probe_every == PROBE_EVERY;
        self.silence = Some(Silence { ports, began, missed: asked.then_some(began) });
    }

    /// True while the machine is gone. It is back once the target has ended all channels, which it
    /// must when it has missed one, or when nothing lets it miss any.
    pub(super) fn is_silent(&mut self, shared: &mut Shared) -> bool {
        let Some(silence) = &mut self.silence else { return false };
        let now = shared.world.steps;
        let dead = |port: &Port| port.ended() == Some(CloseReason::Link);
        if silence.missed.is_none() && silence.ports.iter().any(dead) {
            silence.missed = Some(now);
        }
        silence.ports.retain(|port| port.ended().is_none());
        let ended = silence.ports.is_empty();
        let silent = match silence.missed {
            None => !ended && now - silence.began < PATIENCE,
            Some(missed) => {
                assert!(now - missed < STALE, "session {} is missed in part only", self.number);
                if ended && now > missed {
                    shared.tally.seen(Seen::Missed);
                }
                !ended
            }
        };
        if !silent {
            self.silence = None;
            note!(shared, "s{} is back", self.number);
        }
        silent
    }
}
