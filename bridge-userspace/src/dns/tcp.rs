//! The relay's TCP side towards the clients (RFC 7766): pipelined queries, answered as their
//! answers come, each matched by the client's id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::exchange::resolve;
use super::framing::{Frames, frame};
use super::relay::{Admission, Shared};
use crate::kernel::accept::Acceptor;
use crate::kernel::sockets::Transport;

/// Connections of sources that may not ask, at the same time: enough to tell them so.
const UNWELCOME_CONNECTIONS: usize = 64;

/// How long such a source may take for its first query.
const UNWELCOME_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may leave an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits shared by all listening addresses.
#[derive(Debug)]
pub struct Connections {
    welcome: Arc<Semaphore>,
    unwelcome: Arc<Semaphore>,
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    /// Limits for `total` connections of allowed clients.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            welcome: Arc::new(Semaphore::new(total)),
            unwelcome: Arc::new(Semaphore::new(UNWELCOME_CONNECTIONS)),
            by_client: Mutex::default(),
        })
    }

    /// A place for one more connection of an allowed client.
    fn admit(self: &Arc<Self>, shared: &Arc<Shared>, client: IpAddr) -> Option<Place> {
        let permit = self.welcome.clone().try_acquire_owned().ok()?;
        let mut by_client = self
            .by_client
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = by_client.entry(client).or_default();
        if *count >= shared.limits.tcp_connections_per_client {
            return None;
        }
        *count += 1;
        shared.tcp_connections.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            connections: self.clone(),
            shared: shared.clone(),
            client,
            _permit: permit,
        })
    }
}

/// One connection's share of the limits, given back when dropped.
struct Place {
    connections: Arc<Connections>,
    shared: Arc<Shared>,
    client: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.tcp_connections.fetch_sub(1, Ordering::Relaxed);
        let mut by_client = self
            .connections
            .by_client
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = by_client.entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Accepts connections until `stop` says true, then waits for those that are open.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let mut acceptor = Acceptor::new(listener, "DNS");
    loop {
        let (stream, client) = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = tasks.join_next() => continue,
            accepted = acceptor.accept() => accepted,
        };
        let ip = client.ip().to_canonical();
        if !shared.settings().allows(ip) {
            let Ok(permit) = connections.unwelcome.clone().try_acquire_owned() else {
                shared.counters.tcp_connections_rejected.increment();
                continue;
            };
            let shared = shared.clone();
            tasks.spawn(async move {
                let _ = timeout(UNWELCOME_TIMEOUT, turn_away(stream, client, &shared)).await;
                drop(permit);
            });
            continue;
        }
        let Some(place) = connections.admit(&shared, ip) else {
            shared.counters.tcp_connections_rejected.increment();
            continue;
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = converse(stream, client, &place.shared, stop).await {
                tracing::debug!(%client, %error, "DNS connection lost");
            }
        });
    }
    drop(acceptor);
    while tasks.join_next().await.is_some() {}
}

/// Answers the first query and closes.
async fn turn_away(mut stream: TcpStream, client: SocketAddr, shared: &Shared) -> io::Result<()> {
    let message = Frames::default().next(&mut stream).await?;
    if let Some(message) = message
        && let Admission::Answer(answer) = shared.admit(client.ip(), Transport::Tcp, &message)
    {
        shared.count_response(&answer);
        stream.write_all(&frame(&answer)).await?;
    }
    Ok(())
}

/// One client's connection from its first query to its last answer.
async fn converse(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let mut frames = Frames::default();
    // Dropped with the connection: nobody waits for these answers any more.
    let mut pending: JoinSet<Vec<u8>> = JoinSet::new();
    let mut reading = true;
    let mut idle_deadline = Instant::now() + shared.limits.tcp_idle_timeout;
    while reading || !pending.is_empty() {
        let answer = tokio::select! {
            biased;
            Some(answer) = pending.join_next() => answer.map_err(io::Error::other)?,
            _ = stop.wait_for(|stop| *stop), if reading => {
                reading = false;
                continue;
            }
            message = frames.next(&mut reader), if reading && pending.len() < shared.limits.tcp_pipeline => {
                let Some(message) = message? else {
                    // Half-closed: the client still reads.
                    reading = false;
                    continue;
                };
                match shared.admit(client.ip(), Transport::Tcp, &message) {
                    // What is no query leaves nothing to be trusted behind it.
                    Admission::Ignore => return Ok(()),
                    Admission::Answer(answer) => answer,
                    Admission::Ask(query, permit) => {
                        let shared = shared.clone();
                        pending.spawn(async move {
                            let answer = resolve(&shared, Transport::Tcp, query).await;
                            drop(permit);
                            answer
                        });
                        continue;
                    }
                }
            }
            () = sleep_until(idle_deadline), if pending.is_empty() => return Ok(()),
        };
        shared.count_response(&answer);
        let written = timeout(WRITE_TIMEOUT, writer.write_all(&frame(&answer))).await;
        if let Err(error) = written.map_err(io::Error::from).flatten() {
            shared.counters.send_failures.increment();
            return Err(error);
        }
        idle_deadline = Instant::now() + shared.limits.tcp_idle_timeout;
    }
    writer.shutdown().await
}
