//! One upstream server: its health by transport, its probe name, its TCP connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RecordType};

use super::counters::{ByTransport, Counter, UpstreamSnapshot};
use super::message::Query;
use super::upstream_connection::UpstreamConnection;
use crate::kernel::sockets::Transport;

/// Consecutive queries without an answer that mark an upstream down. One may be a lost packet or a slow name.
const MISSES_UNTIL_DOWN: u32 = 2;

/// Connections kept to one upstream: enough that a slow query holds up few others where the server
/// answers in order, few enough for servers that take only some (10 in unbound, 20 in dnsmasq).
const MAX_CONNECTIONS: usize = 8;

/// First label of the probes' names, before the upstream's token.
const PROBE_PREFIX: &[u8] = b"office-bridge-probe-";

/// Whether an upstream answers over one transport.
#[derive(Debug)]
pub struct Health {
    up: AtomicBool,
    misses: AtomicU32,
    probing: AtomicBool,
}

impl Health {
    fn new() -> Self {
        Self {
            up: AtomicBool::new(true),
            misses: AtomicU32::new(0),
            probing: AtomicBool::new(false),
        }
    }

    /// Whether queries should go there.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// An answer came. True if that is news.
    pub fn answered(&self) -> bool {
        self.misses.store(0, Ordering::Relaxed);
        !self.up.swap(true, Ordering::Relaxed)
    }

    /// No answer came, which may have been the query's fault. True if that marked it down.
    pub fn missed(&self) -> bool {
        self.misses.fetch_add(1, Ordering::Relaxed) + 1 >= MISSES_UNTIL_DOWN && self.failed()
    }

    /// Nobody listens there, or there is no way to it. True if that marked it down.
    pub fn failed(&self) -> bool {
        self.up.swap(false, Ordering::Relaxed)
    }

    /// True for the one caller that is to start probing.
    pub fn claim_probing(&self) -> bool {
        !self.probing.swap(true, Ordering::AcqRel)
    }

    /// Probing has ended.
    pub fn release_probing(&self) {
        self.probing.store(false, Ordering::Release);
    }
}

/// One upstream server.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// Attempts.
    pub queries: Counter,
    /// Attempts without an answer.
    pub failures: Counter,
    udp: Health,
    tcp: Health,
    looping: AtomicBool,
    probe_came_back: AtomicBool,
    latency_microseconds: AtomicU64,
    connections: Mutex<Vec<Arc<UpstreamConnection>>>,
    probe_label: Vec<u8>,
}

impl Upstream {
    /// An upstream that is taken to be healthy until it fails.
    pub fn new(address: SocketAddr) -> Self {
        let mut probe_label = PROBE_PREFIX.to_vec();
        probe_label.extend_from_slice(format!("{:016x}", rand::random::<u64>()).as_bytes());
        Self {
            address,
            queries: Counter::default(),
            failures: Counter::default(),
            udp: Health::new(),
            tcp: Health::new(),
            looping: AtomicBool::new(false),
            probe_came_back: AtomicBool::new(false),
            latency_microseconds: AtomicU64::new(0),
            connections: Mutex::default(),
            probe_label,
        }
    }

    /// Its health over `transport`.
    pub fn health(&self, transport: Transport) -> &Health {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        }
    }

    /// Whether it is known to forward to this relay, so that asking it can only do harm.
    pub fn is_looping(&self) -> bool {
        self.looping.load(Ordering::Relaxed)
    }

    /// Takes the time that an answer took into the average.
    pub fn record_latency(&self, took: Duration) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.latency_microseconds.load(Ordering::Relaxed);
        let new = if old == 0 {
            sample
        } else {
            old - old / 8 + sample / 8
        };
        self.latency_microseconds.store(new, Ordering::Relaxed);
    }

    /// A query that only this relay asks, and only to find out whether the upstream answers.
    pub fn probe(&self, domain: &Name) -> Option<Query> {
        let name = Name::from_labels([self.probe_label.as_slice()])
            .and_then(|label| label.append_name(domain))
            .ok()?;
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(name, RecordType::A));
        self.probe_came_back.store(false, Ordering::Relaxed);
        Query::parse(&message.to_vec().ok()?).ok()
    }

    /// Whether a name in wire format is that of this upstream's probe.
    pub fn is_probe(&self, name: &[u8]) -> bool {
        name.split_first().is_some_and(|(len, rest)| {
            usize::from(*len) == self.probe_label.len()
                && rest.len() > self.probe_label.len()
                && rest[..self.probe_label.len()].eq_ignore_ascii_case(&self.probe_label)
        })
    }

    /// The probe was asked back to this relay. True if the loop is news.
    pub fn probe_came_back(&self) -> bool {
        self.probe_came_back.store(true, Ordering::Relaxed);
        self.udp.failed();
        self.tcp.failed();
        !self.looping.swap(true, Ordering::Relaxed)
    }

    /// A probe was answered; false if only after it had come back to this relay.
    pub fn probe_answered(&self) -> bool {
        let clean = !self.probe_came_back.load(Ordering::Relaxed);
        if clean {
            self.looping.store(false, Ordering::Relaxed);
        }
        clean
    }

    /// The connection with the least to do, and whether it has brought answers before. Opens
    /// another one where all are busy and there may be more.
    pub fn connection(&self) -> (Arc<UpstreamConnection>, bool) {
        let mut connections = self.lock_connections();
        connections.retain(|connection| connection.is_usable());
        let may_open = connections.len() < MAX_CONNECTIONS;
        let least_busy = connections
            .iter()
            .map(|connection| (connection.in_flight(), connection))
            .min_by_key(|(in_flight, _)| *in_flight);
        match least_busy {
            Some((in_flight, connection)) if in_flight == 0 || !may_open => {
                (connection.clone(), connection.is_proven())
            }
            _ => {
                let connection = UpstreamConnection::open(self.address);
                connections.push(connection.clone());
                (connection, false)
            }
        }
    }

    /// A connection that no query has been sent on before.
    pub fn new_connection(&self) -> Arc<UpstreamConnection> {
        let connection = UpstreamConnection::open(self.address);
        self.lock_connections().push(connection.clone());
        connection
    }

    /// The view of it.
    pub fn snapshot(&self) -> UpstreamSnapshot {
        UpstreamSnapshot {
            address: self.address,
            healthy: ByTransport {
                udp: self.udp.is_up(),
                tcp: self.tcp.is_up(),
            },
            looping: self.is_looping(),
            queries: self.queries.get(),
            failures: self.failures.get(),
            latency_microseconds: self.latency_microseconds.load(Ordering::Relaxed),
        }
    }

    fn lock_connections(&self) -> MutexGuard<'_, Vec<Arc<UpstreamConnection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unanswered_query_is_forgiven_and_the_second_in_a_row_marks_down() {
        let health = Health::new();
        assert!(!health.missed());
        assert!(!health.answered());
        assert!(!health.missed());
        assert!(health.is_up());
        assert!(health.missed());
        assert!(!health.is_up());
        assert!(!health.missed(), "already down: no news");
        assert!(health.answered());
        assert!(health.is_up());
    }

    #[test]
    fn a_refused_query_marks_down_at_once() {
        let health = Health::new();
        assert!(health.failed());
        assert!(!health.is_up());
    }

    #[test]
    fn a_probe_is_known_by_its_upstream_alone_in_any_case() {
        let address = "127.0.0.1:53".parse().unwrap();
        let (one, other) = (Upstream::new(address), Upstream::new(address));
        let probe = one
            .probe(&Name::from_ascii("cluster.local.").unwrap())
            .unwrap();
        assert!(one.is_probe(probe.name()));
        assert!(one.is_probe(&probe.name().to_ascii_uppercase()));
        assert!(!other.is_probe(probe.name()));
        assert!(!one.is_probe(b"\x05mysql\x00"));
        assert!(!one.is_probe(b""));
    }

    #[test]
    fn an_answer_to_a_probe_that_came_back_is_no_recovery() {
        let upstream = Upstream::new("127.0.0.1:53".parse().unwrap());
        let domain = Name::from_ascii("cluster.local.").unwrap();
        upstream.probe(&domain).unwrap();
        assert!(upstream.probe_came_back());
        assert!(!upstream.probe_answered());
        assert!(upstream.is_looping());
        upstream.probe(&domain).unwrap();
        assert!(upstream.probe_answered());
        assert!(!upstream.is_looping());
    }
}
