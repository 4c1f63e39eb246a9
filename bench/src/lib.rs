//! The bench tools.
