//! Whether this machine can do what `run` is asked for, found out before anything in the kernel is
//! touched.
//!
//! `machine` and `network` check; `lock` keeps two instances apart; `reserved` finds the
//! ports that NAT must leave to the node.

mod lock;
mod machine;
mod network;
mod reserved;
mod xdp;

pub use self::lock::{InstanceLock, LockError, state_path};
pub use self::machine::{MachineError, check_bpffs, check_machine};
pub use self::network::{ForwardingError, NetworkError, check_network, forwarding};
pub use self::reserved::{NODE_PORTS, ReservedPortsError, TUNNEL_PORTS, reserved_ports};
pub use self::xdp::check_xdp;
