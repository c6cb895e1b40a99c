//! Flows as userspace sees them.

pub mod connections;
pub mod gc;
