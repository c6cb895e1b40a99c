//! What happens to a packet at each hook, stage by stage.

pub mod by_flow;
pub mod forward;
pub mod fragment;
pub mod held;
pub mod icmp_error;
pub mod local;
pub mod local_reply;
pub mod stack;
pub mod stages;
pub mod tc;
pub mod unsupported;
pub mod xdp;
