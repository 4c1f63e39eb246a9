//! Arguments to configuration to running target.
fn main() {}
