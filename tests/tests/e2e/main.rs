//! The built binaries, end to end: real processes, real sockets, real shared memory.

mod configuration;
mod data;
mod death;
mod exhausted;
mod frozen;
mod idle;
mod interrupted;
mod log;
mod media;
mod refusals;
mod rpc;
mod service;
mod signals;
mod sockets;
mod stacked;
mod stalled;
mod startup;
mod stop;
mod strangers;
mod stuck;
mod syscalls;
mod units;
