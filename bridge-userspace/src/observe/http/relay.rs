//! The DNS relay's metrics.

use std::fmt;
use std::net::SocketAddr;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::family::Family;
use crate::dns::{ByTransport, Snapshot, UpstreamSnapshot};

const REQUESTS: Family = Family::new("dns_requests", "Queries received from clients.");
const RESPONSES: Family = Family::new("dns_responses", "Responses given to clients.");
const REFUSED: Family = Family::new(
    "dns_refused_requests",
    "Queries from sources that may not ask.",
);
const MALFORMED: Family = Family::new(
    "dns_malformed_requests",
    "Messages that are no query with one well-formed question.",
);
const OVERFLOWS: Family = Family::new(
    "dns_overflowed_requests",
    "Queries turned away because too many were in flight.",
);
const IN_FLIGHT: Family = Family::new("dns_requests_in_flight", "Queries in flight.");
const CONNECTIONS: Family = Family::new("dns_tcp_connections", "TCP connections of clients.");
const REJECTED_CONNECTIONS: Family = Family::new(
    "dns_rejected_tcp_connections",
    "TCP connections closed at once because there were too many.",
);
const TIMEOUTS: Family = Family::new(
    "dns_upstream_timeouts",
    "Attempts that an upstream left unanswered.",
);
const MISMATCHED: Family = Family::new(
    "dns_mismatched_replies",
    "Replies thrown away because id or question was not what had been sent.",
);
const UPSTREAM_REQUESTS: Family = Family::new("dns_upstream_requests", "Attempts.");
const UPSTREAM_FAILURES: Family =
    Family::new("dns_upstream_failures", "Attempts without an answer.");
const UPSTREAM_HEALTHY: Family = Family::new(
    "dns_upstream_healthy",
    "Whether the upstream answers, as far as it was asked, and doesn't forward to this relay.",
);
const UPSTREAM_LATENCY: Family = Family::new(
    "dns_upstream_latency",
    "Moving average of the time to an answer.",
)
.in_seconds();

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        REQUESTS.counters(
            encoder,
            [
                ([("proto", "udp")], self.queries.udp),
                ([("proto", "tcp")], self.queries.tcp),
            ],
        )?;
        RESPONSES.counters(
            encoder,
            self.responses
                .iter()
                .map(|(code, &responses)| ([("rcode", *code)], responses)),
        )?;
        REFUSED.counter(encoder, self.refused)?;
        MALFORMED.counter(encoder, self.malformed)?;
        OVERFLOWS.counter(encoder, self.overflows)?;
        IN_FLIGHT.gauge(encoder, self.in_flight)?;
        CONNECTIONS.gauge(encoder, self.tcp_connections)?;
        REJECTED_CONNECTIONS.counter(encoder, self.tcp_connections_rejected)?;
        TIMEOUTS.counter(encoder, self.timeouts)?;
        MISMATCHED.counter(encoder, self.mismatched_replies)?;
        let upstreams: Vec<_> = self
            .upstreams
            .iter()
            .map(|upstream| (upstream.address.to_string(), upstream))
            .collect();
        let label = |address| ("upstream", address);
        UPSTREAM_REQUESTS.counters(
            encoder,
            upstreams
                .iter()
                .map(|(address, upstream)| ([label(address.as_str())], upstream.queries)),
        )?;
        UPSTREAM_FAILURES.counters(
            encoder,
            upstreams
                .iter()
                .map(|(address, upstream)| ([label(address.as_str())], upstream.failures)),
        )?;
        UPSTREAM_HEALTHY.gauges(
            encoder,
            upstreams.iter().flat_map(|(address, upstream)| {
                let value = |healthy: bool| f64::from(u8::from(healthy && !upstream.looping));
                let label = label(address.as_str());
                [
                    ([label, ("proto", "udp")], value(upstream.healthy.udp)),
                    ([label, ("proto", "tcp")], value(upstream.healthy.tcp)),
                ]
            }),
        )?;
        let answered = upstreams
            .iter()
            .filter(|(_, upstream)| upstream.latency_microseconds > 0);
        UPSTREAM_LATENCY.gauges(
            encoder,
            answered.map(|(address, upstream)| {
                let latency = std::time::Duration::from_micros(upstream.latency_microseconds);
                ([label(address.as_str())], latency.as_secs_f64())
            }),
        )
    }
}

/// Zeros, with one upstream.
pub fn example() -> Snapshot {
    let address = SocketAddr::from(([10, 96, 0, 10], 53));
    Snapshot {
        listen: Vec::new(),
        queries: ByTransport { udp: 0, tcp: 0 },
        responses: [("NOERROR", 0)].into(),
        refused: 0,
        refusals_suppressed: 0,
        malformed: 0,
        overflows: 0,
        timeouts: 0,
        upstream_failures: 0,
        local_failures: 0,
        mismatched_replies: 0,
        loops: 0,
        send_failures: 0,
        tcp_connections_rejected: 0,
        in_flight: 0,
        tcp_connections: 0,
        upstreams: vec![UpstreamSnapshot {
            address,
            healthy: ByTransport {
                udp: true,
                tcp: true,
            },
            looping: false,
            queries: 0,
            failures: 0,
            latency_microseconds: 1,
        }],
    }
}
