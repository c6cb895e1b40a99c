//! Flows as userspace sees them.

pub mod connections;
pub mod gc;
pub mod removal;
