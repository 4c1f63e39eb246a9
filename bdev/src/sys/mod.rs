//! What needs unsafe code.
