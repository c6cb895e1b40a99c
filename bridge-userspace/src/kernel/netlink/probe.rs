//! Keeps neighbours confirmed that XDP sends to.
//!
//! The kernel asks a neighbour again whether it is still there when it sends to it after a while. What XDP sends it
//! doesn't see, so it has to be told that a neighbour is in use (`NTF_USE`, as `ip neigh … use`): an entry whose
//! address has changed silently would be kept for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use super::connection::Kernel;
use super::error::NetlinkError;
use super::neighbours::{Known, neighbours};
use super::state::Neighbour;

/// How often neighbours are looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// Least time between two probes of one neighbour: as `base_reachable_time` in the kernel.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Has the kernel probe neighbours in use whose entry is stale, and resolve those that it doesn't know.
#[derive(Debug)]
pub struct Prober {
    in_use: watch::Receiver<BTreeSet<Neighbour>>,
}

impl Prober {
    /// A prober of these neighbours.
    #[must_use]
    pub fn new(in_use: watch::Receiver<BTreeSet<Neighbour>>) -> Self {
        Self { in_use }
    }

    /// Works until nobody says any more which neighbours are in use, on the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no netlink socket is to be had.
    pub async fn run(&self) -> Result<(), NetlinkError> {
        let kernel = Kernel::connect().map_err(NetlinkError::Socket)?;
        let mut in_use = self.in_use.clone();
        let mut asked = BTreeMap::new();
        let mut turns = interval(PERIOD);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = turns.tick() => {}
                changed = in_use.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
            }
            let wanted = in_use.borrow_and_update().clone();
            asked.retain(|_, at: &mut Instant| at.elapsed() < PROBE_INTERVAL);
            if let Err(error) = probe(&kernel.handle, &wanted, &mut asked).await {
                debug!("{error}; next attempt in {PERIOD:?}");
            }
        }
    }
}

async fn probe(
    handle: &Handle,
    wanted: &BTreeSet<Neighbour>,
    asked: &mut BTreeMap<Neighbour, Instant>,
) -> Result<(), NetlinkError> {
    if wanted.iter().all(|neighbour| asked.contains_key(neighbour)) {
        return Ok(());
    }
    let known = neighbours(handle).await?;
    for &neighbour in wanted {
        let entry = known.get(&neighbour);
        if asked.contains_key(&neighbour) || !needs_probe(entry) {
            continue;
        }
        let request = handle
            .neighbours()
            .add(neighbour.ifindex, neighbour.address.into())
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use);
        // An entry that somebody else has made meanwhile must stay as it is.
        let request = if entry.is_some() {
            request.replace()
        } else {
            request
        };
        if let Err(error) = request.execute().await {
            debug!(?neighbour, "can't be probed: {error}");
        }
        asked.insert(neighbour, Instant::now());
    }
    Ok(())
}

/// Permanent entries are somebody's decision (to use one would make it an ordinary one), and the kernel is at the
/// others already.
fn needs_probe(entry: Option<&Known>) -> bool {
    entry.is_none_or(|known| {
        matches!(
            known.state,
            NeighbourState::Stale | NeighbourState::Failed | NeighbourState::None
        )
    })
}
