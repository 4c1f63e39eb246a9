//! A change that an entry of a configuration makes, and what takes the change back.

use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use super::error::RpcError;
use super::params::Params;
use crate::control::meter::OpKind;
use crate::control::{self, AgentPort, Desk, Listener, Options, RateLimits, agents, meters};

/// What a change gives, and what takes it back.
pub(super) type Changed = Result<(Value, Undo), RpcError>;

/// A method that configuration files are made of.
pub(super) type Change = for<'a> fn(&'a Desk, Params<'a>) -> LocalBoxFuture<'a, Changed>;

/// What takes a change back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undo {
    /// Stop answering device management.
    DmAgent(AgentPort),
    /// Go back to other options.
    Options(Options),
    /// Go back to other rate limits.
    RateLimits {
        /// Name of the bdev.
        name: String,
        /// Its limits before.
        before: RateLimits,
    },
    /// Stop counting times, or count those that were counted before.
    Histogram {
        /// Name of the bdev.
        name: String,
        /// What was counted before.
        before: Option<Option<OpKind>>,
    },
    /// Delete a bdev.
    Bdev {
        /// Its module.
        module: &'static str,
        /// Its name.
        name: String,
    },
    /// Delete a target.
    Target {
        /// Its name.
        name: String,
    },
    /// Unmap a LUN.
    Lun {
        /// Target name.
        target: String,
        /// LUN.
        lun: u16,
    },
    /// Remove a listener.
    Listener {
        /// Target name.
        target: String,
        /// The address.
        listener: Listener,
    },
}

impl Undo {
    /// Takes the change back.
    pub(super) async fn run(self, desk: &Desk) -> Result<(), RpcError> {
        match self {
            Undo::DmAgent(at) => agents::disable(desk, &at).await,
            Undo::Options(before) => desk.set_options(|_| Ok(before)).await.map(drop),
            Undo::RateLimits { name, before } => {
                meters::set_rate_limits(desk, &name, |_| before).await.map(drop)
            }
            Undo::Histogram { name, before } => {
                let set = meters::enable_histogram(desk, &name, before.is_some(), before.flatten());
                set.await.map(drop)
            }
            Undo::Bdev { module, name } => control::bdevs::delete(desk, module, &name).await,
            Undo::Target { name } => desk.delete_target(&name).await,
            Undo::Lun { target, lun } => desk.unmap_lun(&target, lun).await,
            Undo::Listener { target, listener } => desk.remove_listener(&target, &listener).await,
        }
        .map_err(RpcError::from)
    }
}
