//! What the tests share: processes of the built binaries, and a counting allocator.

pub mod process;
#[allow(unsafe_code)]
pub mod sys;
