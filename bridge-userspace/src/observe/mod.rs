//! What is known of a bridge, for whoever looks at it.

pub mod datapath_events;
pub mod event_log;
pub mod http;
pub mod readiness;
pub mod state_file;
pub mod traffic;
