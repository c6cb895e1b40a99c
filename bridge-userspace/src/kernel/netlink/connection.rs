//! A connection for requests.

use std::io;

use rtnetlink::Handle;
use tokio::task::JoinHandle;

/// A connection for requests.
pub(super) struct Kernel {
    pub(super) handle: Handle,
    connection: JoinHandle<()>,
}

impl Kernel {
    pub(super) fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
