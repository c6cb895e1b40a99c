//! How well the cluster is followed.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::family::Family;
use crate::observe::report::ClusterState;

const CONNECTED: Family = Family::new(
    "cluster_connected",
    "Whether changes of the cluster come in: 1 or 0.",
);
const SYNCED: Family = Family::new(
    "cluster_synced",
    "Whether the cluster's state was read as a whole since the process began: 1 or 0.",
);
const STALE: Family = Family::new(
    "cluster_stale",
    "How long changes of the cluster may have gone unnoticed.",
)
.in_seconds();

impl Collector for ClusterState {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        CONNECTED.gauge(encoder, usize::from(self.connected))?;
        SYNCED.gauge(encoder, usize::from(self.synced))?;
        STALE.duration(encoder, Duration::from_secs(self.stale_seconds()))
    }
}

/// Time from a change's coming in to its being in the tables; clones count together.
#[derive(Clone, Debug)]
pub struct SyncLag {
    lag: Histogram,
}

impl Default for SyncLag {
    fn default() -> Self {
        Self {
            // 1 ms to 8 s.
            lag: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }
}

impl SyncLag {
    /// Counts a change.
    pub fn record(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "service_sync_lag",
            "Time from a change of the cluster coming in to its being in the tables",
            Unit::Seconds,
            self.lag.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cluster::SourceStatus;
    use crate::observe::http::metrics::{lines, text};

    #[test]
    fn a_cluster_that_is_away_is_told_with_the_time_since() {
        let connection = SourceStatus {
            synced: true,
            connected: false,
            last_contact: SystemTime::now() - Duration::from_secs(100),
            last_error: None,
        };
        let text = text(ClusterState::new("kube".to_owned(), &connection));
        let lines = lines(&text);
        assert!(
            lines.contains(&"office_bridge_cluster_connected 0"),
            "{text}"
        );
        assert!(lines.contains(&"office_bridge_cluster_synced 1"), "{text}");
        let stale = lines
            .iter()
            .find_map(|line| line.strip_prefix("office_bridge_cluster_stale_seconds "))
            .and_then(|seconds| seconds.parse::<f64>().ok());
        assert!(
            stale.is_some_and(|seconds| (100.0..101.0).contains(&seconds)),
            "{text}"
        );
    }
}
