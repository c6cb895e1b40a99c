//! The userspace half of office-bridge.
//!
//! Data flows one way: a cluster source and the kernel's routes make the desired state, the
//! reconciler brings the tables to it, the datapath reads the tables, the views read the counters.

mod affinity;
pub mod agent;
pub mod attach_points;
mod bpf;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod contents;
pub mod datapath;
pub mod dns;
pub mod events;
pub mod exit;
pub mod http;
pub mod journal;
pub mod kernel;
pub mod listeners;
mod nat_ports;
pub mod netlink;
pub mod networks;
pub mod next_hops;
pub mod ports;
pub mod preflight;
pub mod readiness;
pub mod reconcile;
pub mod run;
pub mod sockets;
pub mod state;
pub mod sweep;
pub mod sysctl;
pub mod tables;
pub mod uninstall;
pub mod views;
mod ways;
