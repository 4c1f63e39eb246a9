//! All sessions: who may begin one and what ends one (`registry.rs`), and what initiator ports know
//! of the units under their LUNs (`known.rs`).

pub(super) mod known;
pub mod registry;
