//! Devices over other devices: each owns its base exclusively. The registry claims the base when
//! the device is made and releases it when the device is deleted.

pub mod delay;
pub mod fault;
pub mod passthru;
