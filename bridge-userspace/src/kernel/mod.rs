//! What the kernel says.

pub mod accept;
pub mod clock;
pub mod descriptors;
pub mod netlink;
mod reserved_ports;
pub mod sockets;
pub mod sysctl;

pub use self::reserved_ports::{
    NODE_PORTS, ReservedPorts, ReservedPortsError, TUNNEL_PORTS, reserved_ports,
};
