//! The programs and tables in the kernel: loading, pinning, attaching, taking over, removing.
//!
//! Everything that lives longer than the process is pinned below [`Pins`]: tables, so that a second
//! `run` finds the flows, and links, so that forwarding goes on while no process runs.

mod attach;
mod capabilities;
mod contest;
mod hooks;
mod incompatibility;
mod link;
mod load;
mod mode;
mod runs;
mod tc;
mod xdp;
mod xdp_interfaces;

pub use self::attach::{AttachError, Attachments, Found, Rival, attached, find};
pub use self::hooks::{HookError, Hooks, Occupant, Owner, Place};
pub use self::incompatibility::{XdpIncompatibilities, XdpIncompatibility};
pub use self::load::{Buffers, Datapath, LoadError};
pub use self::mode::Mode;
pub use self::tc::{TcAttach, detach_filters, has_filter};
pub use self::xdp::{XdpRefusal, foreign_program};
pub use self::xdp_interfaces::XdpInterfaces;
