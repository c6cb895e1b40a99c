//! What the relay counts, and the view of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Mnemonics of the response codes that fit a header (IANA, DNS RCODEs).
const RESPONSE_CODES: [&str; 16] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "RCODE12",
    "RCODE13",
    "RCODE14",
    "RCODE15",
];

/// An event counter. Counters order nothing else, hence relaxed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one event.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Events so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the whole relay.
#[derive(Debug, Default)]
pub struct Counters {
    pub udp_queries: Counter,
    pub tcp_queries: Counter,
    pub responses: [Counter; 16],
    pub refused: Counter,
    pub refusals_suppressed: Counter,
    pub malformed: Counter,
    pub overflows: Counter,
    pub timeouts: Counter,
    pub upstream_failures: Counter,
    pub local_failures: Counter,
    pub mismatched_replies: Counter,
    pub loops: Counter,
    pub send_failures: Counter,
    pub tcp_connections_rejected: Counter,
}

impl Counters {
    /// Counts a response that goes to a client.
    pub fn response(&self, code: u8) {
        self.responses[usize::from(code & 0x0f)].increment();
    }

    /// Responses by the mnemonic of their code; codes never given are left out.
    pub fn responses_by_code(&self) -> BTreeMap<&'static str, u64> {
        RESPONSE_CODES
            .into_iter()
            .zip(self.responses.iter().map(Counter::get))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// What the relay has done so far and how it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Addresses that the relay answers on.
    pub listen: Vec<SocketAddr>,
    /// Queries received, by the client's transport.
    pub queries: ByTransport<u64>,
    /// Responses given, by response code.
    pub responses: BTreeMap<&'static str, u64>,
    /// Queries from sources that may not ask.
    pub refused: u64,
    /// Of those, left without even a REFUSED because there were too many.
    pub refusals_suppressed: u64,
    /// Messages that are no query with one well-formed question.
    pub malformed: u64,
    /// Queries turned away because too many were in flight.
    pub overflows: u64,
    /// Attempts that an upstream left unanswered.
    pub timeouts: u64,
    /// Attempts that failed otherwise: refused, unreachable, connection lost.
    pub upstream_failures: u64,
    /// Attempts that failed on this host: out of sockets, ports or memory.
    pub local_failures: u64,
    /// Replies thrown away because id or question was not what had been sent.
    pub mismatched_replies: u64,
    /// Own probes that came back as queries: an upstream forwards to this relay.
    pub loops: u64,
    /// Responses that could not be sent to the client.
    pub send_failures: u64,
    /// TCP connections closed because there were too many.
    pub tcp_connections_rejected: u64,
    /// Queries in flight now.
    pub in_flight: usize,
    /// TCP connections of allowed clients now.
    pub tcp_connections: usize,
    /// The upstreams in the order of preference.
    pub upstreams: Vec<UpstreamSnapshot>,
}

/// One value for each transport.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct ByTransport<T> {
    /// Over UDP.
    pub udp: T,
    /// Over TCP.
    pub tcp: T,
}

/// How one upstream stands.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamSnapshot {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it answers.
    pub healthy: ByTransport<bool>,
    /// Whether it forwards to this relay.
    pub looping: bool,
    /// Attempts.
    pub queries: u64,
    /// Attempts without an answer.
    pub failures: u64,
    /// Moving average of the time to an answer, in microseconds; none yet if 0.
    pub latency_microseconds: u64,
}
