//! Follows the kernel's state: any notice makes a new reading.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::{NetlinkError, NetworkState, read};

/// Notices come in bursts (a device, its addresses, its routes); one reading serves them all.
const SETTLE: Duration = Duration::from_millis(50);
/// Time between attempts after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Reads the kernel's state and follows it in a task of its own, which ends when the last receiver
/// is dropped. The channel changes only when the state does.
///
/// `interest` are the networks whose routes are wanted, such as the pods' and the office's; it may
/// change at any time. Works on the network namespace of the calling thread.
///
/// # Errors
/// When no netlink socket is to be had or the kernel refuses the first reading.
pub async fn watch(
    mut interest: watch::Receiver<Vec<Ipv4Net>>,
) -> Result<watch::Receiver<Arc<NetworkState>>, NetlinkError> {
    // The notices are subscribed to before the first reading, so that no change falls between.
    let notices = Notices::subscribe().map_err(NetlinkError::Socket)?;
    let kernel = Kernel::connect().map_err(NetlinkError::Socket)?;
    let networks = interest.borrow_and_update().clone();
    let first = read(&kernel.handle, &networks).await?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        tokio::select! {
            () = follow(notices, kernel, interest, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

async fn follow(
    mut notices: Notices,
    mut kernel: Kernel,
    mut interest: watch::Receiver<Vec<Ipv4Net>>,
    sender: &watch::Sender<Arc<NetworkState>>,
) {
    let mut interest_lives = true;
    loop {
        tokio::select! {
            () = notices.next() => {
                let deadline = Instant::now() + SETTLE;
                while timeout_at(deadline, notices.next()).await.is_ok() {}
            }
            changed = interest.changed(), if interest_lives => interest_lives = changed.is_ok(),
        }
        loop {
            let networks = interest.borrow_and_update().clone();
            match read(&kernel.handle, &networks).await {
                Ok(state) => {
                    sender.send_if_modified(|current| {
                        let changed = **current != state;
                        if changed {
                            *current = Arc::new(state);
                        }
                        changed
                    });
                    break;
                }
                Err(error) => {
                    warn!("{error}; what was known stays in force, next attempt in {RETRY:?}");
                    sleep(RETRY).await;
                    match Kernel::connect() {
                        Ok(connected) => kernel = connected,
                        Err(error) => warn!("cannot open a netlink socket: {error}"),
                    }
                }
            }
        }
    }
}

/// A connection for requests.
struct Kernel {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Kernel {
    fn connect() -> io::Result<Self> {
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

/// The kernel's notices of changes. Only that there are some matters, not what they say, so that
/// a lost one (`ENOBUFS`) is as good as any other.
struct Notices {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Notices {
    fn subscribe() -> io::Result<Self> {
        const GROUPS: [MulticastGroup; 5] = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Nexthop,
        ];
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group as u32)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    /// Waits for one or more notices.
    async fn next(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return,
                Err(error) => {
                    warn!("lost sight of the kernel's routes and links: {error}");
                    sleep(RETRY).await;
                    if let Ok(subscribed) = Self::subscribe() {
                        *self = subscribed;
                        return;
                    }
                }
            }
        }
    }
}
