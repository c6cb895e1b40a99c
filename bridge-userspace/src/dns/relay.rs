//! The state that all of the relay's tasks share: who may ask, whom to ask, how much is in flight.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::Limits;
use super::counters::{ByTransport, Counters, Snapshot};
use super::message::{Query, ResponseCode, Unusable, response_code};
use super::upstream::Upstream;
use crate::kernel::sockets::Transport;

/// REFUSED answers given in a second. Sources can be forged, and nobody who is refused needs more.
const REFUSALS_PER_SECOND: u64 = 1000;

/// What can be changed while the relay runs.
#[derive(Debug)]
pub struct Settings {
    /// Sources that get answers.
    pub allow: Vec<IpNet>,
    /// Servers to ask, the preferred one first.
    pub upstreams: Vec<Arc<Upstream>>,
}

impl Settings {
    /// Settings for these upstreams; those that `old` has too keep their health and connections.
    pub fn new(allow: Vec<IpNet>, upstreams: &[SocketAddr], old: &[Arc<Upstream>]) -> Self {
        let known = |address| {
            old.iter()
                .find(|upstream| upstream.address == address)
                .cloned()
        };
        Self {
            allow,
            upstreams: upstreams
                .iter()
                .map(|&address| known(address).unwrap_or_else(|| Arc::new(Upstream::new(address))))
                .collect(),
        }
    }

    /// Whether `source` may ask.
    pub fn allows(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.allow.iter().any(|net| net.contains(&source))
    }
}

/// What is to be done with a message from a client.
pub enum Admission {
    /// Nothing: it deserves no answer.
    Ignore,
    /// This answer is to be given.
    Answer(Vec<u8>),
    /// The upstreams are to be asked; the permit is to be held until the client has its answer.
    Ask(Query, OwnedSemaphorePermit),
}

/// Shared state of the relay.
#[derive(Debug)]
pub struct Shared {
    pub limits: Limits,
    pub counters: Counters,
    pub listen: Vec<SocketAddr>,
    pub probe_domain: Name,
    pub tcp_connections: AtomicUsize,
    settings: RwLock<Arc<Settings>>,
    in_flight: Arc<Semaphore>,
    refusals: RefusalBudget,
}

impl Shared {
    /// State of a relay that listens on `listen`.
    pub fn new(
        limits: Limits,
        listen: Vec<SocketAddr>,
        probe_domain: Name,
        settings: Settings,
    ) -> Self {
        Self {
            limits,
            counters: Counters::default(),
            listen,
            probe_domain,
            tcp_connections: AtomicUsize::new(0),
            settings: RwLock::new(Arc::new(settings)),
            in_flight: Arc::new(Semaphore::new(limits.in_flight)),
            refusals: RefusalBudget::new(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts other settings in force, for queries that come from now on.
    pub fn replace_settings(&self, settings: Settings) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Judges a message from a client.
    pub fn admit(&self, source: IpAddr, transport: Transport, message: &[u8]) -> Admission {
        let counters = &self.counters;
        match transport {
            Transport::Udp => counters.udp_queries.increment(),
            Transport::Tcp => counters.tcp_queries.increment(),
        }
        let settings = self.settings();
        let allowed = settings.allows(source);
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(unusable) => {
                counters.malformed.increment();
                return match unusable {
                    Unusable::Format(answer) if allowed => Admission::Answer(answer),
                    _ => Admission::Ignore,
                };
            }
        };
        if !allowed {
            counters.refused.increment();
            if !self.refusals.take() {
                counters.refusals_suppressed.increment();
                return Admission::Ignore;
            }
            return Admission::Answer(query.answer(ResponseCode::Refused));
        }
        if let Some(upstream) = settings
            .upstreams
            .iter()
            .find(|upstream| upstream.is_probe(query.name()))
        {
            counters.loops.increment();
            if upstream.probe_came_back() {
                tracing::error!(
                    upstream = %upstream.address, via = %source,
                    "DNS loop: this upstream forwards to the relay; it is not asked until that ends"
                );
            }
            return Admission::Ignore;
        }
        if query.is_transfer() {
            return Admission::Answer(query.answer(ResponseCode::NotImplemented));
        }
        let Ok(permit) = self.in_flight.clone().try_acquire_owned() else {
            counters.overflows.increment();
            return Admission::Answer(query.answer(ResponseCode::ServerFailure));
        };
        Admission::Ask(query, permit)
    }

    /// Counts an answer that is about to go to a client.
    pub fn count_response(&self, message: &[u8]) {
        if let Some(code) = response_code(message) {
            self.counters.response(code);
        }
    }

    /// Waits until no query is in flight.
    pub async fn drained(&self) {
        let all = u32::try_from(self.limits.in_flight).unwrap_or(u32::MAX);
        // Fails only if closed, when nothing is left to wait for.
        let _ = self.in_flight.acquire_many(all).await;
    }

    /// Ends everything that the relay does on its own account.
    pub fn close(&self) {
        self.in_flight.close();
    }

    /// Whether the relay has ended.
    pub fn is_closed(&self) -> bool {
        self.in_flight.is_closed()
    }

    /// The view of it all.
    pub fn snapshot(&self) -> Snapshot {
        let counters = &self.counters;
        Snapshot {
            listen: self.listen.clone(),
            queries: ByTransport {
                udp: counters.udp_queries.get(),
                tcp: counters.tcp_queries.get(),
            },
            responses: counters.responses_by_code(),
            refused: counters.refused.get(),
            refusals_suppressed: counters.refusals_suppressed.get(),
            malformed: counters.malformed.get(),
            overflows: counters.overflows.get(),
            timeouts: counters.timeouts.get(),
            upstream_failures: counters.upstream_failures.get(),
            local_failures: counters.local_failures.get(),
            mismatched_replies: counters.mismatched_replies.get(),
            loops: counters.loops.get(),
            send_failures: counters.send_failures.get(),
            tcp_connections_rejected: counters.tcp_connections_rejected.get(),
            in_flight: self
                .limits
                .in_flight
                .saturating_sub(self.in_flight.available_permits()),
            tcp_connections: self.tcp_connections.load(Ordering::Relaxed),
            upstreams: self
                .settings()
                .upstreams
                .iter()
                .map(|upstream| upstream.snapshot())
                .collect(),
        }
    }
}

/// Bounds the refusals per second: the second in the upper half, those given in the lower.
#[derive(Debug)]
struct RefusalBudget {
    start: Instant,
    given: AtomicU64,
}

impl RefusalBudget {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            given: AtomicU64::new(0),
        }
    }

    fn take(&self) -> bool {
        let second = self.start.elapsed().as_secs() << 32;
        self.given
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |given| {
                let current = if given >> 32 == second >> 32 {
                    given
                } else {
                    second
                };
                (current & u64::from(u32::MAX) < REFUSALS_PER_SECOND).then_some(current + 1)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded_and_come_back_with_the_next_second() {
        let mut budget = RefusalBudget::new();
        let given = (0..3000).filter(|_| budget.take()).count();
        assert!((1000..=2000).contains(&given), "{given}");
        budget.start = budget
            .start
            .checked_sub(std::time::Duration::from_secs(2))
            .unwrap();
        assert!(budget.take());
    }

    #[test]
    fn a_mapped_source_is_judged_by_its_ipv4_address() {
        let settings = Settings::new(vec!["192.168.0.0/22".parse().unwrap()], &[], &[]);
        assert!(settings.allows("::ffff:192.168.3.255".parse().unwrap()));
        assert!(!settings.allows("::ffff:192.168.4.0".parse().unwrap()));
        assert!(!settings.allows("::1".parse().unwrap()));
    }

    #[test]
    fn an_upstream_that_stays_keeps_its_state() {
        let (one, two): (SocketAddr, SocketAddr) = (
            "10.0.0.1:53".parse().unwrap(),
            "10.0.0.2:53".parse().unwrap(),
        );
        let old = Settings::new(Vec::new(), &[one], &[]);
        old.upstreams[0].health(Transport::Udp).failed();
        let new = Settings::new(Vec::new(), &[two, one], &old.upstreams);
        assert!(new.upstreams[0].health(Transport::Udp).is_up());
        assert!(!new.upstreams[1].health(Transport::Udp).is_up());
    }
}
