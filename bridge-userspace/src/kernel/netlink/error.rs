//! Why the kernel's state cannot be mirrored.

use std::io;

use crate::kernel::sysctl::SysctlError;
use crate::model::{Finding, Subject};

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

impl From<NetlinkError> for Finding {
    fn from(error: NetlinkError) -> Self {
        match error {
            NetlinkError::Setting(error) => error.into(),
            error => Self::failure(
                Subject::KernelNetwork,
                error.to_string(),
                "run as root, where netlink sockets are allowed",
            ),
        }
    }
}
