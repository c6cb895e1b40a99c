//! Whether this machine can do what `run` is asked for, found out before anything in the kernel is
//! touched.

mod machine;
mod network;
mod xdp;

pub use self::machine::{MachineError, check_bpffs, check_machine};
pub use self::network::{ForwardingError, NetworkError, check_network, forwarding};
pub use self::xdp::check_xdp;
