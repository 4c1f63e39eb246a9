//! Shared memory between initiator and target, as a model: the production rings, nap and bits of
//! quiet connections over words that loom knows.

pub(crate) mod sys;

use super::atomic;

#[path = "../../../../transport/src/shm/nap.rs"]
pub(crate) mod nap;
#[path = "../../../../transport/src/shm/ready.rs"]
pub(crate) mod ready;
#[path = "../../../../transport/src/shm/ring.rs"]
#[allow(dead_code, reason = "a model uses a part of it")]
pub(crate) mod ring;

pub(crate) const CREDITS_MAX: u32 = transport::shm::CREDITS_MAX;
pub(crate) const IU_BYTES_MAX: u32 = transport::shm::IU_BYTES_MAX;
