//! Random worlds: everything at once, against an oracle.
//!
//! A run is one seed. [`plan`] draws the world and which faults strike how often; [`session`]s keep
//! the protocol's rules, [`hostile`] initiators don't, the [`operator`] changes things under way,
//! the [`disk`]s fail in their own ways. [`blocks`] knows what each block may hold, now and after a
//! crash; [`attentions`] what each session may be told; [`rates`] how much a device may do;
//! [`reservations`] who may have which device alone.
//!
//! Two acts: with faults, and then without, in which everything must end. Same seed and
//! [`plan::Cuts`], same run: [`log`] is compared bit by bit.

pub mod attentions;
pub mod blocks;
pub mod check;
pub mod command;
pub mod corpus;
pub mod disk;
pub mod hostile;
pub mod log;
pub mod operator;
pub mod plan;
pub mod rates;
pub mod reservations;
pub mod run;
pub mod session;
pub mod shrink;
pub mod tally;

pub use plan::Cuts;
pub use run::run;
pub use tally::Tally;
