//! What the relay is told: where to listen, whom to ask, whom to answer, and its limits.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// Configuration of the relay.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to answer on, each over UDP and TCP. With port 0 the kernel chooses one port for
    /// both. A wildcard covers its own address family only.
    pub listen: Vec<SocketAddr>,
    /// Servers to ask, the preferred one first: the next one is asked while those before it are down.
    pub upstreams: Vec<SocketAddr>,
    /// Sources that get answers; all others get REFUSED.
    pub allow: Vec<IpNet>,
    /// Domain under which upstreams are probed, best one that they answer themselves.
    pub probe_domain: String,
    /// Bounds on time and memory.
    pub limits: Limits,
}

impl Config {
    /// A configuration with the default limits, probing under `cluster.local`.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, upstreams: Vec<SocketAddr>, allow: Vec<IpNet>) -> Self {
        Self {
            listen,
            upstreams,
            allow,
            probe_domain: "cluster.local".to_owned(),
            limits: Limits::default(),
        }
    }
}

/// Bounds on time and memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Queries being asked upstream at the same time; one more gets SERVFAIL at once.
    pub in_flight: usize,
    /// How long one upstream may take.
    pub attempt_timeout: Duration,
    /// How long all attempts together may take, before SERVFAIL. Resolvers give up after 5 s
    /// (resolv.conf(5), `timeout`).
    pub total_timeout: Duration,
    /// How long a TCP connection without a query in flight stays open (RFC 7766 section 6.2.3).
    pub tcp_idle_timeout: Duration,
    /// TCP connections of allowed clients.
    pub tcp_connections: usize,
    /// TCP connections of one client address.
    pub tcp_connections_per_client: usize,
    /// Unanswered queries of one TCP connection; the relay reads no further until one is answered.
    pub tcp_pipeline: usize,
    /// How long queries in flight may take after the shutdown began.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 4096,
            attempt_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(5),
            tcp_idle_timeout: Duration::from_secs(10),
            tcp_connections: 1024,
            tcp_connections_per_client: 64,
            tcp_pipeline: 64,
            drain_timeout: Duration::from_secs(5),
        }
    }
}
