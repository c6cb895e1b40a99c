//! Garbage collection of flows, every ten seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::conntrack::gc::{GarbageCollector, Policy};
use crate::observe::datapath_events::Events;
use crate::observe::http::GcCounts;

/// How often expired flows are removed; the datapath counts them as absent before.
const PERIOD: Duration = Duration::from_secs(10);

/// Removes flows in turns, and at once when the datapath says that a table is full, or when a backend is gone.
pub(super) struct GcTask {
    collector: Arc<GarbageCollector>,
    policy: watch::Receiver<Policy>,
    events: Mutex<Events>,
    counts: GcCounts,
}

impl GcTask {
    pub(super) fn new(
        collector: GarbageCollector,
        policy: watch::Receiver<Policy>,
        events: Events,
        counts: GcCounts,
    ) -> Self {
        Self {
            collector: Arc::new(collector),
            policy,
            events: Mutex::new(events),
            counts,
        }
    }

    /// Works until it can't go on; may be called again then.
    pub(super) async fn run(&self) -> anyhow::Error {
        let mut policy = self.policy.clone();
        let mut events = self.events.lock().await;
        let mut turns = interval(PERIOD);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut applied = Policy::default();
        loop {
            tokio::select! {
                _ = turns.tick() => {}
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
            if let Err(error) = self.collect(policy).await {
                return error;
            }
        }
    }

    async fn collect(&self, policy: Policy) -> anyhow::Result<()> {
        let collector = Arc::clone(&self.collector);
        let begun = Instant::now();
        // A full table takes a moment to read.
        let collected = tokio::task::spawn_blocking(move || collector.collect(&policy));
        match collected.await.context("garbage collection")? {
            Ok(plan) => {
                self.counts.record(&plan, begun.elapsed());
                if plan.evicted > 0 {
                    warn!(
                        evicted = plan.evicted,
                        "the flow tables are nearly full: flows were removed before their time; \
                         consider a larger --flow-capacity"
                    );
                }
            }
            Err(error) => warn!("garbage collection: {error}"),
        }
        Ok(())
    }
}
