//! Writing the values that are read at each scrape, family by family.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The labels of one series.
pub type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// What all series of a family have in common.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<&'static Unit>,
}

impl Family {
    /// A family without a unit. The name is without prefix, unit and `_total`; the help is a sentence.
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            unit: None,
        }
    }

    /// The same in bytes.
    pub const fn in_bytes(self) -> Self {
        Self {
            unit: Some(&Unit::Bytes),
            ..self
        }
    }

    /// The same in seconds.
    pub const fn in_seconds(self) -> Self {
        Self {
            unit: Some(&Unit::Seconds),
            ..self
        }
    }

    /// Writes one counter without labels.
    pub fn counter(self, encoder: &mut DescriptorEncoder, value: u64) -> fmt::Result {
        self.single(encoder, &ConstCounter::new(value))
    }

    /// Writes one gauge without labels.
    pub fn gauge(self, encoder: &mut DescriptorEncoder, value: usize) -> fmt::Result {
        self.single(encoder, &ConstGauge::new(value))
    }

    /// Writes one gauge of time without labels.
    pub fn duration(self, encoder: &mut DescriptorEncoder, value: Duration) -> fmt::Result {
        self.single(encoder, &ConstGauge::new(value.as_secs_f64()))
    }

    /// Writes a counter for each set of labels.
    pub fn counters<'a, const N: usize>(
        self,
        encoder: &mut DescriptorEncoder,
        series: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> fmt::Result {
        let series = series.into_iter();
        self.series(
            encoder,
            series.map(|(labels, value)| (labels, ConstCounter::new(value))),
        )
    }

    /// Writes a gauge for each set of labels.
    pub fn gauges<'a, const N: usize>(
        self,
        encoder: &mut DescriptorEncoder,
        series: impl IntoIterator<Item = (Labels<'a, N>, f64)>,
    ) -> fmt::Result {
        let series = series.into_iter();
        self.series(
            encoder,
            series.map(|(labels, value)| (labels, ConstGauge::new(value))),
        )
    }

    fn single<M: EncodeMetric + TypedMetric>(
        self,
        encoder: &mut DescriptorEncoder,
        metric: &M,
    ) -> fmt::Result {
        metric.encode(encoder.encode_descriptor(self.name, self.help, self.unit, M::TYPE)?)
    }

    fn series<L: EncodeLabelSet, M: EncodeMetric + TypedMetric>(
        self,
        encoder: &mut DescriptorEncoder,
        series: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, self.unit, M::TYPE)?;
        for (labels, metric) in series {
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
