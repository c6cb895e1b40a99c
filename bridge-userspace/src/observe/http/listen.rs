//! Binding the listener's address, before anything in the kernel is touched.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener};

use crate::kernel::sockets::{Holder, Transport, by, holder};
use crate::model::{Finding, Subject};

/// Why status and metrics can't be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error("--http-listen {address} is taken{}", by(holder.as_ref()))]
    Taken {
        /// The address.
        address: SocketAddrV4,
        /// Who has it, if that can be seen.
        holder: Option<Holder>,
    },
    /// No interface has the address.
    #[error("--http-listen {0}: this is no address of this node")]
    NotLocal(SocketAddrV4),
    /// Anything else that the kernel said.
    #[error("--http-listen {address}: can't listen there: {source}")]
    Io {
        /// The address.
        address: SocketAddrV4,
        /// The kernel's error.
        source: io::Error,
    },
}

impl From<BindError> for Finding {
    fn from(error: BindError) -> Self {
        let (BindError::Taken { address, .. }
        | BindError::NotLocal(address)
        | BindError::Io { address, .. }) = &error;
        let subject = Subject::Socket(SocketAddr::V4(*address));
        let remedy = match &error {
            BindError::Taken { .. } => {
                "stop that process, choose another --http-listen, or serve nothing with --no-http"
            }
            BindError::NotLocal(_) => "`ip address` shows those that it has",
            BindError::Io { .. } => "choose another --http-listen, or serve nothing with --no-http",
        };
        Self::failure(subject, error.to_string(), remedy)
    }
}

/// A listening socket that doesn't block.
///
/// # Errors
/// Says what is in the way.
pub fn bind(address: SocketAddrV4) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken {
                address,
                holder: holder(SocketAddr::V4(address), Transport::Tcp),
            },
            io::ErrorKind::AddrNotAvailable => BindError::NotLocal(address),
            _ => BindError::Io { address, source },
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_reported_with_the_process_that_has_it() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(taken) = other.local_addr().unwrap() else {
            unreachable!("bound to IPv4");
        };
        let text = bind(taken).unwrap_err().to_string();
        assert!(text.contains(&format!("--http-listen {taken} is taken by ")));
        assert!(text.contains(&format!("(pid {})", std::process::id())));
    }

    #[test]
    fn an_address_of_another_host_is_told_from_a_taken_one() {
        let error = bind("192.0.2.1:9530".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NotLocal(_)), "{error}");
    }
}
