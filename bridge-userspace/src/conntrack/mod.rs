//! Flows as userspace sees them.

pub mod connections;
mod eviction;
pub mod gc;
pub mod in_use;
pub mod load;
pub mod policy;
pub mod removal;
