//! What garbage collection takes and removes, counted while it happens.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::conntrack::gc::Plan;

type Reason = [(&'static str, &'static str); 1];

const EXPIRED: Reason = [("reason", "expired")];
const FOREIGN: Reason = [("reason", "foreign")];
const EVICTED: Reason = [("reason", "evicted")];

/// Counters of garbage collection; clones count together.
#[derive(Clone, Debug)]
pub struct GcCounts {
    duration: Histogram,
    deleted: Family<Reason, Counter>,
}

impl Default for GcCounts {
    fn default() -> Self {
        let deleted = Family::default();
        // Shown as 0 from the start, so that a rate sees the first removal.
        for reason in [EXPIRED, FOREIGN, EVICTED] {
            drop(deleted.get_or_create(&reason));
        }
        Self {
            // 1 ms, which an empty table takes, to 4 s, which no table should take.
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 7)),
            deleted,
        }
    }
}

impl GcCounts {
    /// Counts one collection.
    pub fn record(&self, plan: &Plan, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        for (reason, flows) in [
            (EXPIRED, plan.expired),
            (FOREIGN, plan.foreign),
            (EVICTED, plan.evicted),
        ] {
            let flows = u64::try_from(flows).unwrap_or(u64::MAX);
            self.deleted.get_or_create(&reason).inc_by(flows);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "gc_duration",
            "Time that one collection of garbage in the flow tables takes",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register(
            "gc_deleted",
            "Flows that garbage collection removed: expired, no longer fitting the configuration (foreign), or to make room \
             (evicted)",
            self.deleted.clone(),
        );
    }
}
