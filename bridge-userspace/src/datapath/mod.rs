//! The programs and tables in the kernel: loading, pinning, attaching, taking over, removing.
//!
//! Everything that lives longer than the process is pinned below [`Pins`]: tables, so that a second
//! `run` finds the flows, and links, so that forwarding goes on while no process runs.

mod attach;
mod layout;
mod load;
mod pins;

pub use self::attach::{
    AttachError, Attachments, Interface, Mode, Side, TcAttach, attached, detach_filters,
};
pub use self::layout::LayoutError;
pub use self::load::{Datapath, LoadError};
pub use self::pins::Pins;

/// Names of the programs as the kernel and `bpftool` show them.
pub mod program {
    /// TC ingress of interfaces where clients come in.
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    /// TC ingress of interfaces behind which the backends are.
    pub const CLUSTER_INGRESS: &str = "cluster_ingress";
}
