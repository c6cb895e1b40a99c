//! What `run` follows: the cluster, the kernel's network and the node's own ports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bridge_common::abi::Seconds;
use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

use super::uplink::Uplink;
use crate::cluster::{CidrKind, DesiredState, Feed, SourceStatus, Update};
use crate::config::Config;
use crate::conntrack::in_use::InUse;
use crate::kernel::clock;
use crate::kernel::netlink::{MirrorView, NetworkState};
use crate::kernel::{ReservedPorts, ReservedPortsError, reserved_ports};
use crate::plan::map_state::watched_prefixes;
use crate::plan::pod_routes::PodRouteGuard;
use crate::plan::retained::RetainedNetworks;

/// How often the node's own ports are looked at: a socket that listens from now on must not be a NAT port. Tables and
/// attachments are compared with what they should be at the same time.
const PERIOD: Duration = Duration::from_secs(10);

/// Everything that the wanted state follows from, at one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The cluster.
    pub cluster: Arc<DesiredState>,
    /// The kernel's network; what the default route only stands in for is unreachable.
    pub network: Arc<NetworkState>,
    /// What the uplink is called.
    pub uplink: String,
    /// Ports that are not for NAT.
    pub reserved: ReservedPorts,
    /// When the kernel's network was last read.
    pub read_at: Seconds,
}

/// What has changed.
#[derive(Debug)]
pub enum Change {
    /// The cluster's state, from the first to the second. It came in at this time.
    Cluster(Arc<DesiredState>, Arc<DesiredState>, Instant),
    /// Whether the cluster is followed, from the first to the second.
    SourceStatus(SourceStatus, SourceStatus),
    /// The kernel's network.
    Network,
    /// Qdiscs or filters, ours perhaps among them.
    Hooks,
    /// Nothing; it is time to look again. The error is why the node's own ports are not known anew.
    Tick(Option<ReservedPortsError>),
}

/// What flows need to be ours.
pub struct Needs {
    /// The networks of an earlier process, whose flows may need them.
    pub before: Arc<DesiredState>,
    /// As it was when they were last looked at.
    pub last: watch::Receiver<Arc<InUse>>,
    /// Looks at once.
    pub look: Box<dyn Fn() -> InUse + Send>,
}

/// The receiving ends of what is followed.
pub struct Inputs {
    config: Arc<Config>,
    feed: Feed,
    /// As it was last announced.
    announced: Arc<DesiredState>,
    /// The same, with what flows still use of what was announced before.
    cluster: Arc<DesiredState>,
    retained: RetainedNetworks,
    needs: Needs,
    connection: SourceStatus,
    mirror: MirrorView,
    watched: watch::Sender<Vec<Ipv4Net>>,
    guard: PodRouteGuard,
    uplink: Uplink,
    reserved: ReservedPorts,
    ticks: Interval,
}

impl Inputs {
    /// Follows from the first state of the cluster on. `watched` tells the mirror which networks matter. Call it
    /// inside of the runtime.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        mut feed: Feed,
        cluster: Arc<DesiredState>,
        mirror: MirrorView,
        watched: watch::Sender<Vec<Ipv4Net>>,
        reserved: ReservedPorts,
        needs: Needs,
    ) -> Self {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let connection = feed.connection.borrow_and_update().clone();
        let mut this = Self {
            connection,
            uplink: Uplink::new(&config.uplink),
            config,
            feed,
            announced: cluster,
            cluster: Arc::clone(&needs.before),
            retained: RetainedNetworks::default(),
            needs,
            mirror,
            watched,
            guard: PodRouteGuard::default(),
            reserved,
            ticks,
        };
        this.settle();
        this
    }

    /// The cluster as it was last accepted.
    #[must_use]
    pub fn cluster(&self) -> &DesiredState {
        &self.cluster
    }

    /// The uplink as of the last facts.
    #[must_use]
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    /// How well the cluster is followed.
    #[must_use]
    pub fn connection(&self) -> &SourceStatus {
        &self.connection
    }

    /// When the kernel's network was last read, in seconds of [`clock`](crate::kernel::clock).
    #[must_use]
    pub fn read_at(&self) -> Seconds {
        *self.mirror.read_at.borrow()
    }

    /// What is known now.
    pub fn facts(&mut self) -> Facts {
        let network = self.mirror.state.borrow_and_update().clone();
        let pods = self.cluster.cidrs_of(CidrKind::Pod).collect();
        self.uplink.follow(&network);
        Facts {
            cluster: Arc::clone(&self.cluster),
            uplink: self.uplink.name().to_owned(),
            network: self.guard.settle(&pods, network),
            reserved: self.reserved.clone(),
            read_at: self.read_at(),
        }
    }

    /// Waits for the next change, and takes it.
    ///
    /// # Errors
    /// When something is not followed any more.
    pub async fn next(&mut self) -> anyhow::Result<Change> {
        loop {
            tokio::select! {
                changed = self.feed.desired.changed() => {
                    changed.map_err(|_| anyhow!("nobody follows the cluster any more"))?;
                    if let Some(change) = self.accept() {
                        return Ok(change);
                    }
                }
                changed = self.feed.connection.changed() => {
                    changed.map_err(|_| anyhow!("nobody follows the cluster any more"))?;
                    let now = self.feed.connection.borrow_and_update().clone();
                    let before = std::mem::replace(&mut self.connection, now.clone());
                    return Ok(Change::SourceStatus(before, now));
                }
                changed = self.mirror.state.changed() => {
                    changed.map_err(|_| anyhow!("nobody follows the kernel's network any more"))?;
                    return Ok(Change::Network);
                }
                changed = self.mirror.hooks.changed() => {
                    changed.map_err(|_| anyhow!("nobody follows the kernel's network any more"))?;
                    return Ok(Change::Hooks);
                }
                _ = self.ticks.tick() => {
                    let error = match reserved_ports() {
                        Ok(reserved) => {
                            self.reserved = reserved;
                            None
                        }
                        Err(error) => Some(error),
                    };
                    if error.is_none()
                        && let Some((before, now)) = self.settle()
                    {
                        return Ok(Change::Cluster(before, now, Instant::now()));
                    }
                    return Ok(Change::Tick(error));
                }
            }
        }
    }

    /// Takes a new state of the cluster as far as it does not contradict the configuration.
    fn accept(&mut self) -> Option<Change> {
        let (cluster, received) = take(&mut self.feed)?;
        let cluster = without_conflicts(cluster, &self.config);
        debug!(
            services = cluster.services.len(),
            networks = cluster.cidrs.len(),
            "the cluster has changed"
        );
        self.announced = cluster;
        let (before, now) = self.settle().unwrap_or_else(|| {
            let same = Arc::clone(&self.cluster);
            (Arc::clone(&same), same)
        });
        Some(Change::Cluster(before, now, received))
    }

    /// Completes what was last announced with what flows still use. Gives the state before and after where they differ.
    fn settle(&mut self) -> Option<(Arc<DesiredState>, Arc<DesiredState>)> {
        let in_use = Arc::clone(&self.needs.last.borrow());
        let office = &self.config.office_cidrs;
        let now = clock::now();
        let cluster = self.retained.complete(
            &self.cluster,
            &self.announced,
            office,
            &self.needs.look,
            now,
        );
        self.watched.send_if_modified(|known| {
            let watched = watched_prefixes(&self.config, &cluster, in_use.backends.iter().copied());
            let changed = *known != watched;
            *known = watched;
            changed
        });
        if cluster == self.cluster {
            return None;
        }
        let before = std::mem::replace(&mut self.cluster, Arc::clone(&cluster));
        Some((before, cluster))
    }
}

/// The newest state of the cluster, if there is one, and when its first change came in.
pub(super) fn take(feed: &mut Feed) -> Option<(Arc<DesiredState>, Instant)> {
    feed.desired.borrow_and_update().as_ref().map(Update::take)
}

/// A state of the cluster as far as it does not contradict the configuration: an object in the cluster must not keep
/// the rest from being followed.
pub(super) fn without_conflicts(cluster: Arc<DesiredState>, config: &Config) -> Arc<DesiredState> {
    let office = &config.office_cidrs;
    if cluster.conflicts_with_office(office).is_empty() {
        return cluster;
    }
    Arc::new(cluster.without_conflicts(office, &config.cluster_cidrs))
}
