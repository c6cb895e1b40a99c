//! A TCP connection to an upstream, shared by the queries of all clients (RFC 7766 section 6.2.1).
//!
//! Answers may come in any order; each finds its query by the id, which is drawn at random and is
//! unique on the connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::framing::{Frames, frame};
use super::message::Query;

/// How long a connection without a query is kept: less than servers wait (8 s in `CoreDNS`, 30 s in
/// unbound), so that queries seldom meet one that is just being closed.
const IDLE_LIFETIME: Duration = Duration::from_secs(5);

/// How long a connection may take to be made; its queries have given up by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an upstream may take no data.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

type Id = [u8; 2];

/// A connection, or the attempt to get one. Closes when the last handle is dropped.
#[derive(Debug)]
pub struct UpstreamConnection {
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// None once the connection has ended.
    waiting: Mutex<Option<HashMap<Id, oneshot::Sender<Vec<u8>>>>>,
    /// Why it has ended.
    end: Mutex<Option<io::Error>>,
    replies: AtomicU64,
    /// It takes queries but answers none: its way may be broken.
    suspect: AtomicBool,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<Id, oneshot::Sender<Vec<u8>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_flight(&self) -> usize {
        self.lock().as_ref().map_or(0, HashMap::len)
    }

    /// The error for a query that the connection ended under.
    fn end(&self) -> io::Error {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.as_ref().map_or_else(
            || io::ErrorKind::ConnectionAborted.into(),
            |error| match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => error.kind().into(),
            },
        )
    }
}

impl UpstreamConnection {
    /// Starts connecting, inside of a runtime. Queries may be sent at once.
    pub fn open(address: SocketAddr) -> Arc<Self> {
        let (outgoing, queries) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            waiting: Mutex::new(Some(HashMap::new())),
            end: Mutex::default(),
            replies: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
        });
        let connection = Arc::new(Self {
            outgoing,
            state: state.clone(),
        });
        tokio::spawn(async move {
            let end = carry(address, &state, queries).await;
            *state.end.lock().unwrap_or_else(PoisonError::into_inner) = end.err();
            // Wakes everybody who still waits.
            state.lock().take();
        });
        connection
    }

    /// Sends the query under a fresh id and waits for the reply with that id.
    ///
    /// # Errors
    /// If the connection can't be made, or ends before the reply has come.
    pub async fn ask(&self, query: &mut Query) -> io::Result<Vec<u8>> {
        let (sender, reply) = oneshot::channel();
        let id = self
            .register(query, sender)
            .ok_or_else(|| self.state.end())?;
        let mut place = Place {
            state: &self.state,
            id,
            replies_before: self.state.replies.load(Ordering::Relaxed),
            done: false,
        };
        let result = match self.outgoing.send(frame(query.bytes())) {
            Ok(()) => reply.await.map_err(|_| self.state.end()),
            Err(_) => Err(self.state.end()),
        };
        place.done = true;
        result
    }

    /// Queries that wait for their replies.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// Whether it has brought a reply.
    pub fn is_proven(&self) -> bool {
        self.state.replies.load(Ordering::Relaxed) > 0
    }

    /// Whether another query should be sent on it.
    pub fn is_usable(&self) -> bool {
        !self.state.suspect.load(Ordering::Relaxed) && self.state.lock().is_some()
    }

    /// Draws ids until one is free here. None if the connection has ended.
    fn register(&self, query: &mut Query, sender: oneshot::Sender<Vec<u8>>) -> Option<Id> {
        let mut waiting = self.state.lock();
        let waiting = waiting.as_mut()?;
        loop {
            query.renew_id();
            if let Entry::Vacant(place) = waiting.entry(query.id()) {
                place.insert(sender);
                return Some(query.id());
            }
        }
    }
}

/// A query's place among those that wait, given back also when its asker gives up.
struct Place<'a> {
    state: &'a State,
    id: Id,
    replies_before: u64,
    done: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.state.lock().as_mut()
            && !self.done
        {
            waiting.remove(&self.id);
        }
        if !self.done && self.state.replies.load(Ordering::Relaxed) == self.replies_before {
            self.state.suspect.store(true, Ordering::Relaxed);
        }
    }
}

/// Connects and moves messages until the connection ends.
async fn carry(
    address: SocketAddr,
    state: &State,
    mut queries: mpsc::UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let mut frames = Frames::default();
    let mut idle_deadline = Instant::now() + IDLE_LIFETIME;
    loop {
        tokio::select! {
            reply = frames.next(&mut reader) => {
                let Some(reply) = reply? else {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                };
                state.replies.fetch_add(1, Ordering::Relaxed);
                let asker = reply
                    .first_chunk()
                    .and_then(|id| state.lock().as_mut()?.remove(id));
                // Without an asker it came too late.
                if let Some(asker) = asker {
                    let _ = asker.send(reply);
                }
            }
            query = queries.recv() => {
                let Some(query) = query else { return Ok(()) };
                timeout(WRITE_TIMEOUT, writer.write_all(&query)).await??;
            }
            () = sleep_until(idle_deadline), if state.in_flight() == 0 => return Ok(()),
        }
        idle_deadline = Instant::now() + IDLE_LIFETIME;
    }
}
