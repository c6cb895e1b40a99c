//! Follows the kernel's state: any notice makes a new reading.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::dump::Reading;
use super::{Kernel, NetlinkError, NetworkState};

/// Notices come in bursts (a device, its addresses, its routes); one reading serves them all.
const SETTLE: Duration = Duration::from_millis(50);
/// The same for neighbours, of which there is less to read.
const SETTLE_NEIGHBOURS: Duration = Duration::from_millis(20);
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
    let network = Notices::subscribe(&NETWORK).map_err(NetlinkError::Socket)?;
    let neighbours = Notices::subscribe(&NEIGHBOURS).map_err(NetlinkError::Socket)?;
    let kernel = Kernel::connect().map_err(NetlinkError::Socket)?;
    let networks = interest.borrow_and_update().clone();
    let reading = Reading::take(&kernel.handle, &networks).await?;
    let (sender, receiver) = watch::channel(Arc::new(reading.state.clone()));
    let follower = Follower {
        network,
        neighbours,
        kernel,
        interest,
        reading: Some(reading),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = follower.follow(&sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

struct Follower {
    network: Notices,
    /// Apart from the others: every ARP request makes some, which must not have all the routes asked for.
    neighbours: Notices,
    kernel: Kernel,
    interest: watch::Receiver<Vec<Ipv4Net>>,
    /// The last one; none after a failure.
    reading: Option<Reading>,
}

impl Follower {
    async fn follow(mut self, sender: &watch::Sender<Arc<NetworkState>>) {
        let mut interest_lives = true;
        loop {
            tokio::select! {
                () = self.network.next() => {
                    self.network.settle(SETTLE).await;
                    self.reading = None;
                }
                () = self.neighbours.next() => self.neighbours.settle(SETTLE_NEIGHBOURS).await,
                changed = self.interest.changed(), if interest_lives => {
                    interest_lives = changed.is_ok();
                    self.reading = None;
                }
            }
            let state = self.read().await;
            sender.send_if_modified(|current| {
                let changed = **current != *state;
                if changed {
                    *current = Arc::new(state.clone());
                }
                changed
            });
        }
    }

    /// Reads what may have changed, however long it takes to succeed.
    async fn read(&mut self) -> &NetworkState {
        loop {
            let handle = &self.kernel.handle;
            let reading = if let Some(reading) = self.reading.take() {
                reading.with_neighbours(handle).await
            } else {
                let networks = self.interest.borrow_and_update().clone();
                Reading::take(handle, &networks).await
            };
            match reading {
                Ok(reading) => return &self.reading.insert(reading).state,
                Err(error) => {
                    warn!("{error}; what was known stays in force, next attempt in {RETRY:?}");
                    sleep(RETRY).await;
                    match Kernel::connect() {
                        Ok(connected) => self.kernel = connected,
                        Err(error) => warn!("cannot open a netlink socket: {error}"),
                    }
                }
            }
        }
    }
}

/// What changes links, addresses and routes.
const NETWORK: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Nexthop,
];
/// Neighbours, and the FDBs of VXLAN devices.
const NEIGHBOURS: [MulticastGroup; 1] = [MulticastGroup::Neigh];

/// The kernel's notices of changes. Only that there are some matters, not what they say, so that
/// a lost one (`ENOBUFS`) is as good as any other.
struct Notices {
    groups: &'static [MulticastGroup],
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Notices {
    fn subscribe(groups: &'static [MulticastGroup]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for &group in groups {
            socket.socket_mut().add_membership(group as u32)?;
        }
        Ok(Self {
            groups,
            socket,
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    /// Takes the notices of some time from now on.
    async fn settle(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while timeout_at(deadline, self.next()).await.is_ok() {}
    }

    /// Waits for one or more notices.
    async fn next(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return,
                Err(error) => {
                    warn!("lost sight of the kernel's network: {error}");
                    sleep(RETRY).await;
                    if let Ok(subscribed) = Self::subscribe(self.groups) {
                        *self = subscribed;
                        return;
                    }
                }
            }
        }
    }
}
