//! What is known of a bridge, for whoever looks at it.

pub mod datapath_events;
pub mod event_log;
pub mod http;
pub mod problems;
pub mod readiness;
pub mod report;
pub mod reporter;
pub mod snapshot;
pub mod state_file;
pub mod traffic;
