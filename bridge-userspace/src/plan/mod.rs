//! What the tables and attachments should be: pure functions of the configuration, the cluster and the kernel's
//! state.

pub mod attach_points;
pub mod map_state;
pub mod nat_ports;
pub mod next_hops;
pub mod pod_routes;
pub mod retained;
