//! Follows the kernel's state: any notification makes a new reading.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bridge_common::abi::Seconds;
use ipnet::Ipv4Net;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::connection::Kernel;
use super::dump::Reading;
use super::error::NetlinkError;
use super::state::NetworkState;
use crate::kernel::clock;

/// Notifications come in bursts (a device, its addresses, its routes); one reading serves them all.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The same for neighbours, of which there is less to read.
const DEBOUNCE_NEIGHBOURS: Duration = Duration::from_millis(20);
/// Shortest time between two notices of changed qdiscs and filters: each has all hooks looked at, and whoever is told may
/// change some himself.
const BETWEEN_HOOKS: Duration = Duration::from_secs(1);
/// Time between attempts after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Longest time without a reading: proof that the kernel still answers, where nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest time that the kernel is given for one reading.
const READ_TIMEOUT: Duration = Duration::from_secs(7);

/// Keeps a [`NetworkState`] like the kernel's.
#[derive(Debug)]
pub struct Mirror {
    watched: watch::Receiver<Vec<Ipv4Net>>,
    state: watch::Sender<Arc<NetworkState>>,
    read_at: watch::Sender<Seconds>,
    hooks: watch::Sender<()>,
}

/// What a [`Mirror`] shows. Clones show the same.
#[derive(Clone, Debug)]
pub struct MirrorView {
    /// The kernel's state; changes only when the kernel's does.
    pub state: watch::Receiver<Arc<NetworkState>>,
    /// When the last completed reading began: the state is the kernel's of that time or later.
    pub read_at: watch::Receiver<Seconds>,
    /// Changes whenever a qdisc or filter has, which is no part of the state.
    pub hooks: watch::Receiver<()>,
}

impl Mirror {
    /// Reads the kernel's state once. `watched` are the networks whose routes are wanted, such as the pods' and the
    /// office's; it may change at any time. Works on the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no netlink socket is to be had or the kernel refuses.
    pub async fn open(
        watched: watch::Receiver<Vec<Ipv4Net>>,
    ) -> Result<(Self, MirrorView), NetlinkError> {
        let read_at = clock::now();
        let kernel = Kernel::connect().map_err(NetlinkError::Socket)?;
        let networks = watched.borrow().clone();
        let reading = Reading::take(&kernel.handle, &networks).await?;
        let (state, state_view) = watch::channel(Arc::new(reading.state));
        let (read_at, read_at_view) = watch::channel(read_at);
        let (hooks, hooks_view) = watch::channel(());
        let mirror = Self {
            watched,
            state,
            read_at,
            hooks,
        };
        let view = MirrorView {
            state: state_view,
            read_at: read_at_view,
            hooks: hooks_view,
        };
        Ok((mirror, view))
    }

    /// Follows the kernel, and reads it again at once: what changed since the last reading is not lost. Works on the
    /// network namespace of the calling thread.
    ///
    /// # Errors
    /// Never returns without one: when no netlink socket is to be had.
    pub async fn follow(&self) -> Result<Infallible, NetlinkError> {
        // The notifications are subscribed to before the first reading, so that no change falls between.
        let follower = Follower {
            network: Notifications::subscribe(&NETWORK).map_err(NetlinkError::Socket)?,
            neighbours: Notifications::subscribe(&NEIGHBOURS).map_err(NetlinkError::Socket)?,
            kernel: Kernel::connect().map_err(NetlinkError::Socket)?,
            watched: self.watched.clone(),
            reading: None,
        };
        let hooks = Notifications::subscribe(&HOOKS).map_err(NetlinkError::Socket)?;
        tokio::select! {
            never = self.follow_network(follower) => match never {},
            never = self.follow_hooks(hooks) => match never {},
        }
    }

    async fn follow_network(&self, mut follower: Follower) -> Infallible {
        loop {
            let (state, read_at) = follower.read().await;
            // First, so that whoever sees the state sees the time of it or a later one.
            self.read_at.send_replace(read_at);
            self.state.send_if_modified(|current| {
                let changed = **current != *state;
                if changed {
                    *current = Arc::new(state.clone());
                }
                changed
            });
            follower.changed().await;
        }
    }

    async fn follow_hooks(&self, mut hooks: Notifications) -> Infallible {
        // What changed while nobody followed is not lost.
        self.hooks.send_replace(());
        loop {
            hooks.next().await;
            hooks.debounce(DEBOUNCE).await;
            self.hooks.send_replace(());
            sleep(BETWEEN_HOOKS).await;
        }
    }
}

struct Follower {
    network: Notifications,
    /// Apart from the others: every ARP request makes some, which must not have all the routes asked for.
    neighbours: Notifications,
    kernel: Kernel,
    watched: watch::Receiver<Vec<Ipv4Net>>,
    /// The last one; none where routes have to be read again.
    reading: Option<Reading>,
}

impl Follower {
    /// Waits until there may be something to read, or a reading is due.
    async fn changed(&mut self) {
        tokio::select! {
            () = self.network.next() => {
                self.network.debounce(DEBOUNCE).await;
                self.reading = None;
            }
            () = self.neighbours.next() => self.neighbours.debounce(DEBOUNCE_NEIGHBOURS).await,
            Ok(()) = self.watched.changed() => self.reading = None,
            () = sleep(HEARTBEAT) => {}
        }
    }

    /// Reads what may have changed, however long it takes to succeed; with the time at which it began to.
    async fn read(&mut self) -> (&NetworkState, Seconds) {
        loop {
            let read_at = clock::now();
            let handle = &self.kernel.handle;
            let reading = timeout(READ_TIMEOUT, async {
                if let Some(reading) = self.reading.take() {
                    return reading.with_neighbours(handle).await;
                }
                let networks = self.watched.borrow_and_update().clone();
                Reading::take(handle, &networks).await
            });
            let why = match reading.await {
                Ok(Ok(reading)) => return (&self.reading.insert(reading).state, read_at),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("the kernel does not answer within {READ_TIMEOUT:?}"),
            };
            warn!("{why}; what was known stays in force, next attempt in {RETRY:?}");
            sleep(RETRY).await;
            match Kernel::connect() {
                Ok(connected) => self.kernel = connected,
                Err(error) => warn!("cannot open a netlink socket: {error}"),
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

/// Qdiscs and filters.
const HOOKS: [MulticastGroup; 1] = [MulticastGroup::Tc];

/// The kernel's notifications of changes. Only that there are some matters, not what they say, so that
/// a lost one (`ENOBUFS`) is as good as any other.
struct Notifications {
    groups: &'static [MulticastGroup],
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Notifications {
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

    /// Takes the notifications of some time from now on.
    async fn debounce(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while timeout_at(deadline, self.next()).await.is_ok() {}
    }

    /// Waits for one or more notifications.
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
