//! Why the kernel's state cannot be mirrored.

use std::io;

use crate::kernel::sysctl::SysctlError;

/// Why the kernel's state cannot be mirrored.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket cannot be opened or bound.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refuses a request.
    #[error("the kernel does not tell its {what}: {error}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        error: rtnetlink::Error,
    },
    /// A setting cannot be read.
    #[error(transparent)]
    Setting(#[from] SysctlError),
}
