//! Asking the upstreams: one attempt after the other until one of them answers or time is up.
//!
//! Every UDP attempt has a socket of its own: a source port that the kernel draws at random
//! (`udp_lib_get_port`), and connected, so that only the upstream's address can answer and an ICMP
//! error is heard. TCP attempts share the few connections that `connection` keeps.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use super::framing::MAX_MESSAGE_LEN;
use super::message::{Query, ResponseCode};
use super::relay::Shared;
use super::upstream::Upstream;
use crate::kernel::sockets::Transport;

/// Wrong replies that one UDP attempt bears. More of them look like someone guessing the id
/// (RFC 5452 section 9), and the next attempt has another port.
const MAX_MISMATCHES: u32 = 16;

/// Time between the probes of an upstream that is down, doubled up to the second value.
const PROBE_INTERVAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

thread_local! {
    /// Replies are received here and copied out at their true length.
    static REPLY: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_MESSAGE_LEN]);
}

/// Why an attempt brought no answer.
enum Failure {
    /// The time for it is over.
    Timeout,
    /// The upstream or the way to it turned the query away.
    Upstream(io::Error),
    /// This host could not even ask.
    Local(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::InvalidData
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::TimedOut => Self::Upstream(error),
            _ => Self::Local(error),
        }
    }
}

/// Answers a query with what an upstream says, byte for byte but for the id, or with SERVFAIL.
pub async fn resolve(shared: &Arc<Shared>, transport: Transport, mut query: Query) -> Vec<u8> {
    let deadline = Instant::now() + shared.limits.total_timeout;
    // A round asks the healthy ones in order, then those that are down: they may be back. Another
    // round makes sense only for lost packets, not where everybody turned the query away.
    loop {
        let settings = shared.settings();
        let (up, down): (Vec<_>, Vec<_>) = settings
            .upstreams
            .iter()
            .filter(|upstream| !upstream.is_looping())
            .partition(|upstream| upstream.health(transport).is_up());
        let mut worth_another = false;
        for upstream in up.into_iter().chain(down) {
            if Instant::now() >= deadline {
                break;
            }
            match attempt(shared, upstream, transport, &mut query, deadline).await {
                Ok(mut reply) => {
                    query.restore_id(&mut reply);
                    return reply;
                }
                Err(Failure::Timeout) => worth_another = true,
                Err(Failure::Upstream(_) | Failure::Local(_)) => {}
            }
        }
        if !worth_another || Instant::now() >= deadline {
            return query.answer(ResponseCode::ServerFailure);
        }
    }
}

/// Sends a first probe to every upstream that has not been seen before, to find loops early.
pub fn probe_all(shared: &Arc<Shared>) {
    for upstream in &shared.settings().upstreams {
        start_probing(shared, upstream, Transport::Udp, Duration::ZERO);
    }
}

/// One attempt with one upstream, and what it tells about the upstream's health.
async fn attempt(
    shared: &Arc<Shared>,
    upstream: &Arc<Upstream>,
    transport: Transport,
    query: &mut Query,
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let result = ask(shared, upstream, transport, query, deadline).await;
    let health = upstream.health(transport);
    let went_down = match &result {
        Ok(_) => {
            upstream.record_latency(started.elapsed());
            if health.answered() {
                tracing::info!(upstream = %upstream.address, transport = transport.name(), "DNS upstream answers again");
            }
            false
        }
        Err(Failure::Upstream(error)) if is_absence(error) => health.failed(),
        Err(Failure::Timeout | Failure::Upstream(_)) => health.missed(),
        Err(Failure::Local(_)) => false,
    };
    if went_down {
        let reason = match &result {
            Err(Failure::Upstream(error)) => error.to_string(),
            _ => "no answer in time".to_owned(),
        };
        tracing::warn!(upstream = %upstream.address, transport = transport.name(), reason, "DNS upstream is down");
        start_probing(shared, upstream, transport, PROBE_INTERVAL.0);
    }
    result
}

/// Whether an error says that no server is there, whatever it had been asked.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Asks, counts, and judges nothing.
async fn ask(
    shared: &Shared,
    upstream: &Upstream,
    transport: Transport,
    query: &mut Query,
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    let counters = &shared.counters;
    let deadline = deadline.min(Instant::now() + shared.limits.attempt_timeout);
    query.renew_id();
    upstream.queries.increment();
    let asking = async {
        match transport {
            Transport::Udp => ask_udp(shared, upstream.address, query).await,
            Transport::Tcp => ask_tcp(shared, upstream, query).await,
        }
    };
    let result = match timeout_at(deadline, asking).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::Timeout),
    };
    match &result {
        Ok(_) => {}
        Err(Failure::Timeout) => counters.timeouts.increment(),
        Err(Failure::Upstream(_)) => counters.upstream_failures.increment(),
        Err(Failure::Local(error)) => {
            counters.local_failures.increment();
            tracing::debug!(upstream = %upstream.address, %error, "could not ask the DNS upstream");
        }
    }
    if result.is_err() {
        upstream.failures.increment();
    }
    result
}

async fn ask_udp(shared: &Shared, address: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let socket = fresh_udp_socket(address)?;
    socket.send(query.bytes()).await?;
    let mut mismatches = 0;
    loop {
        // An ICMP error makes the socket no more readable, it is an event of its own.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error()
            && let Some(error) = socket.take_error()?
        {
            return Err(error);
        }
        let received: io::Result<_> = REPLY.with_borrow_mut(|buffer| {
            let len = socket.try_recv(buffer)?;
            let reply = &buffer[..len];
            Ok(query.is_answered_by(reply).then(|| reply.to_vec()))
        });
        match received {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => {
                shared.counters.mismatched_replies.increment();
                mismatches += 1;
                if mismatches == MAX_MISMATCHES {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "too many replies to other queries",
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Forgets an error event whose error has been fetched by another call.
                let _: io::Result<()> = socket.try_io(Interest::ERROR, || Err(error));
            }
            Err(error) => return Err(error),
        }
    }
}

/// A socket on a random port, connected to the upstream.
fn fresh_udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        None,
    )?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}

async fn ask_tcp(shared: &Shared, upstream: &Upstream, query: &mut Query) -> io::Result<Vec<u8>> {
    let (connection, proven) = upstream.connection();
    let reply = match connection.ask(query).await {
        // The server may have closed it just now; that says nothing about its health.
        Err(_) if proven => upstream.new_connection().ask(query).await?,
        result => result?,
    };
    if !query.is_answered_by(&reply) {
        shared.counters.mismatched_replies.increment();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "reply to another query",
        ));
    }
    Ok(reply)
}

/// Asks an upstream a question of the relay's own until it answers, so that no client has to wait
/// to find out.
fn start_probing(
    shared: &Arc<Shared>,
    upstream: &Arc<Upstream>,
    transport: Transport,
    first_wait: Duration,
) {
    if !upstream.health(transport).claim_probing() {
        return;
    }
    let (shared, upstream) = (Arc::downgrade(shared), upstream.clone());
    tokio::spawn(async move {
        let mut wait = first_wait;
        loop {
            sleep(wait).await;
            wait = (wait * 2).clamp(PROBE_INTERVAL.0, PROBE_INTERVAL.1);
            // The relay may have gone, or the upstream been taken out of its settings.
            let Some(shared) = shared.upgrade().filter(|shared| !shared.is_closed()) else {
                break;
            };
            if !shared
                .settings()
                .upstreams
                .iter()
                .any(|kept| Arc::ptr_eq(kept, &upstream))
            {
                break;
            }
            if probe(&shared, &upstream, transport).await {
                break;
            }
        }
        upstream.health(transport).release_probing();
    });
}

/// True if probing is over: the upstream answers.
async fn probe(shared: &Shared, upstream: &Upstream, transport: Transport) -> bool {
    let Some(mut query) = upstream.probe(&shared.probe_domain) else {
        return true;
    };
    let deadline = Instant::now() + shared.limits.total_timeout;
    let answered = ask(shared, upstream, transport, &mut query, deadline)
        .await
        .is_ok();
    if !answered || !upstream.probe_answered() {
        upstream.health(transport).failed();
        return false;
    }
    if upstream.health(transport).answered() {
        tracing::info!(upstream = %upstream.address, transport = transport.name(), "DNS upstream answers again");
    }
    true
}
