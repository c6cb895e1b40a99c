//! The programs and tables in the kernel: loading, pinning, attaching, taking over, removing.
//!
//! Everything that lives longer than the process is pinned below [`Pins`]: tables, so that a second
//! `run` finds the flows, and links, so that forwarding goes on while no process runs.

mod ability;
mod attach;
mod layout;
mod link;
mod load;
mod obstacle;
mod pins;
mod program;
mod tc;
mod xdp;
mod xdp_ports;

pub use self::attach::{AttachError, Attachments, Mode, attached};
pub use self::layout::LayoutError;
pub use self::load::{Buffers, Datapath, LoadError};
pub use self::obstacle::{XdpObstacle, XdpObstacles};
pub use self::pins::Pins;
pub use self::program::{AttachPoint, AttachPoints, Hook, Program, Side};
pub use self::tc::{TcAttach, detach_filters, has_filter};
pub use self::xdp::{XdpRefusal, foreign_program};
pub use self::xdp_ports::XdpPorts;
