//! The userspace half of office-bridge.
//!
//! Data flows one way: a cluster source and the kernel's routes make the desired state, the
//! reconciler brings the tables to it, the datapath reads the tables, the views read the counters.

pub mod agent;
pub mod checks;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod conntrack;
pub mod datapath;
pub mod dns;
pub mod kernel;
pub mod maps;
pub mod model;
pub mod observe;
pub mod plan;
pub mod reconcile;
