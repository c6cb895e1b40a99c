//! Garbage collection of flows, every ten seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tokio::sync::{Mutex, watch};
use tokio::time::sleep_until;
use tracing::warn;

use crate::conntrack::gc::GarbageCollector;
use crate::conntrack::in_use::InUse;
use crate::conntrack::policy::Policy;
use crate::observe::datapath_events::Events;
use crate::observe::http::GcCounts;

/// How often expired flows are removed; the datapath counts them as absent before.
const PERIOD: Duration = Duration::from_secs(10);
/// The same while flows may have to go because of what has happened to their backends.
const WATCH_PERIOD: Duration = Duration::from_secs(3);
/// A look at full tables takes this part of the time at most.
const SHARE: u32 = 20;

/// Removes flows in turns, and at once when the datapath says that a table is full, or when a backend is gone.
pub(super) struct GcTask {
    collector: Arc<GarbageCollector>,
    policy: watch::Receiver<Policy>,
    in_use: watch::Sender<Arc<InUse>>,
    events: Mutex<Events>,
    counts: GcCounts,
}

impl GcTask {
    pub(super) fn new(
        collector: GarbageCollector,
        policy: watch::Receiver<Policy>,
        in_use: watch::Sender<Arc<InUse>>,
        events: Events,
        counts: GcCounts,
    ) -> Self {
        Self {
            collector: Arc::new(collector),
            policy,
            in_use,
            events: Mutex::new(events),
            counts,
        }
    }

    /// Works until it can't go on; may be called again then.
    pub(super) async fn run(&self) -> anyhow::Error {
        let mut policy = self.policy.clone();
        let mut events = self.events.lock().await;
        let mut next = Instant::now();
        let mut applied = Policy::default();
        loop {
            tokio::select! {
                () = sleep_until(next.into()) => {}
                full = events.table_full() => if let Err(error) = full {
                    return anyhow::Error::new(error).context("the event ring can't be watched");
                },
                changed = policy.changed() => {
                    if changed.is_err() {
                        return anyhow!("nobody says any more which flows may live");
                    }
                    if !policy.borrow_and_update().loses_backends(&applied) {
                        continue;
                    }
                }
            }
            let policy = policy.borrow().clone();
            applied = policy.clone();
            next = match self.collect(policy).await {
                Ok(pause) => Instant::now() + pause,
                Err(error) => return error,
            };
        }
    }

    /// Looks once; gives the time until the next look.
    async fn collect(&self, policy: Policy) -> anyhow::Result<Duration> {
        let collector = Arc::clone(&self.collector);
        let begun = Instant::now();
        // A full table takes a moment to read.
        let collected = tokio::task::spawn_blocking(move || collector.collect(&policy));
        match collected.await.context("garbage collection")? {
            Ok(mut plan) => {
                let took = begun.elapsed();
                self.counts.record(&plan, took);
                self.in_use
                    .send_replace(Arc::new(std::mem::take(&mut plan.in_use)));
                if plan.evicted > 0 {
                    warn!(
                        evicted = plan.evicted,
                        "the flow tables are nearly full: flows were removed before their time; \
                         consider a larger --flow-capacity"
                    );
                }
                if plan.is_watched {
                    return Ok(WATCH_PERIOD.max(took * SHARE).min(PERIOD));
                }
            }
            Err(error) => warn!("garbage collection: {error}"),
        }
        Ok(PERIOD)
    }
}
