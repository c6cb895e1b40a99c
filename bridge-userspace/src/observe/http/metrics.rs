//! All metrics as text of `OpenMetrics` (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::cluster::SyncLag;
use super::connections::HttpCounts;
use super::datapath::Reading;
use super::gc_counts::GcCounts;
use crate::dns;
use crate::observe::snapshot::{Fill, Snapshot};

/// What [`render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// First part of every name.
const PREFIX: &str = "office_bridge";

/// What this process counts itself.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    pub gc: &'a GcCounts,
    pub lag: &'a SyncLag,
    pub http: &'a HttpCounts,
}

/// Writes everything out.
///
/// # Errors
/// When a value can't be written as text.
pub fn render(
    snapshot: Snapshot,
    fill: Fill,
    relay: Option<dns::Snapshot>,
    own: &Own,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register(
        "build",
        "The version that runs",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    own.gc.register(&mut registry);
    own.lag.register(&mut registry);
    own.http.register(&mut registry);
    let cluster = snapshot
        .report
        .as_ref()
        .and_then(|report| report.cluster_state.clone());
    if let Some(cluster) = cluster {
        collect(&mut registry, cluster);
    }
    collect(&mut registry, Reading { snapshot, fill });
    if let Some(relay) = relay {
        collect(&mut registry, relay);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Every metric with an example of each of its labels, for the reference; the values mean nothing.
///
/// # Errors
/// When a value can't be written as text.
pub fn example() -> Result<String, fmt::Error> {
    let snapshot = Snapshot::example();
    let fill = Fill::example();
    let relay = Some(super::relay::example());
    let own = Own {
        gc: &GcCounts::default(),
        lag: &SyncLag::default(),
        http: &HttpCounts::default(),
    };
    render(snapshot, fill, relay, &own)
}

fn collect(registry: &mut Registry, collector: impl Collector) {
    registry.register_collector(Box::new(collector));
}

/// A collector's metrics alone.
#[cfg(test)]
pub fn text(collector: impl Collector) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    collect(&mut registry, collector);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// The lines with values.
#[cfg(test)]
pub fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}
