//! Which connections are open, and which of them gives way to a new one.
//!
//! A new connection is always taken: the oldest one that waits for a request makes room. So whoever leaves connections
//! open, or never finishes a request, closes his own, and a probe, which asks at once and is answered in milliseconds,
//! finds its place.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How many connections may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all clients.
    pub total: usize,
    /// Of one address; all of loopback counts as one.
    pub per_client: usize,
}

impl Limits {
    const MOST: Self = Self {
        total: 256,
        per_client: 16,
    };
    /// Below this, two clients at their limit would take all.
    const FEWEST: usize = 2 * Self::MOST.per_client;

    /// Those of a process with this many file descriptors, of which the others need the most part.
    pub fn within(descriptors: u64) -> Self {
        let share = usize::try_from(descriptors / 8).unwrap_or(usize::MAX);
        Self {
            total: share.clamp(Self::FEWEST, Self::MOST.total),
            ..Self::MOST
        }
    }
}

/// What is counted of the listener; clones count together.
#[derive(Clone, Debug, Default)]
pub struct HttpCounts {
    pub(super) connections: Gauge,
    evicted: Counter,
    /// Requests for a name that is not ours.
    pub(super) misdirected: Counter,
}

impl HttpCounts {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_connections",
            "Connections of HTTP clients",
            self.connections.clone(),
        );
        registry.register(
            "http_evicted_connections",
            "Connections of HTTP clients that were closed to make room for newer ones",
            self.evicted.clone(),
        );
        registry.register(
            "http_misdirected_requests",
            "HTTP requests for a host that is neither an address of the listener nor in httpHost",
            self.misdirected.clone(),
        );
    }
}

/// The open connections.
#[derive(Debug)]
pub struct Connections {
    table: Mutex<Table>,
    /// Sockets, which are closed a moment after they had to give way.
    sockets: Arc<Semaphore>,
    counts: HttpCounts,
}

impl Connections {
    pub fn new(limits: Limits, counts: HttpCounts) -> Arc<Self> {
        Arc::new(Self {
            sockets: Arc::new(Semaphore::new(limits.total)),
            table: Mutex::new(Table::new(limits)),
            counts,
        })
    }

    /// A place for a new connection, once the one that gives way to it is closed.
    pub async fn admit(self: &Arc<Self>, client: IpAddr) -> Place {
        let evicted = Arc::new(Notify::new());
        let (number, victim) = self.table().add(one_of(client), evicted.clone());
        self.counts.connections.inc();
        if let Some(victim) = victim {
            self.counts.evicted.inc();
            victim.notify_one();
        }
        // Nobody closes the semaphore.
        let socket = self.sockets.clone().acquire_owned().await.ok();
        Place {
            connections: self.clone(),
            number,
            evicted,
            _socket: socket,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process of this node may use any address of loopback.
fn one_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        client if client.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        client => client,
    }
}

/// The place of one connection, free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    number: u64,
    evicted: Arc<Notify>,
    _socket: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Completes when the connection has to give way.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A request has come, which is answered until the value is dropped.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.connections.table().set_answering(self.number, true);
        Answering(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.table().open.remove(&self.number);
        self.connections.counts.connections.dec();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Answering(Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        let Place {
            connections,
            number,
            ..
        } = &*self.0;
        connections.table().set_answering(*number, false);
    }
}

#[derive(Debug)]
struct Table {
    limits: Limits,
    /// Counts what happens, for the order of it.
    turn: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    client: IpAddr,
    is_answering: bool,
    /// When that has begun.
    since: u64,
    evicted: Arc<Notify>,
}

impl Table {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            turn: 0,
            open: BTreeMap::new(),
        }
    }

    /// Adds a connection, and takes out the one that gives way to it.
    fn add(&mut self, client: IpAddr, evicted: Arc<Notify>) -> (u64, Option<Arc<Notify>>) {
        let victim = self.gives_way(client);
        let victim = victim.and_then(|victim| self.open.remove(&victim));
        self.turn += 1;
        let open = Open {
            client,
            is_answering: false,
            since: self.turn,
            evicted,
        };
        self.open.insert(self.turn, open);
        (self.turn, victim.map(|victim| victim.evicted))
    }

    fn set_answering(&mut self, number: u64, is_answering: bool) {
        self.turn += 1;
        if let Some(open) = self.open.get_mut(&number) {
            open.is_answering = is_answering;
            open.since = self.turn;
        }
    }

    /// Which connection gives way to one of this client: one of its own if it has as many as it may, and else, if there are
    /// too many in all, one of the client that has the most. What is on loopback, which is where probes come from, gives way
    /// to nobody from outside.
    fn gives_way(&self, client: IpAddr) -> Option<u64> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for open in self.open.values() {
            *counts.entry(open.client).or_default() += 1;
        }
        let count = |client: &IpAddr| counts.get(client).copied().unwrap_or_default();
        let is_at_limit = count(&client) >= self.limits.per_client;
        if !is_at_limit && self.open.len() < self.limits.total {
            return None;
        }
        let may_go = |open: &Open| {
            if is_at_limit {
                open.client == client
            } else {
                client.is_loopback() || !open.client.is_loopback()
            }
        };
        let candidates = self.open.iter().filter(|(_, open)| may_go(open));
        let (number, _) = candidates.min_by_key(|(_, open)| {
            let most = std::cmp::Reverse(count(&open.client));
            (most, open.is_answering, open.since)
        })?;
        Some(*number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        total: 6,
        per_client: 3,
    };

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 0, last])
    }

    fn probe() -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }

    fn table(clients: &[IpAddr]) -> Table {
        let mut table = Table::new(SMALL);
        for &client in clients {
            let (_, victim) = table.add(client, Arc::default());
            assert!(victim.is_none());
        }
        table
    }

    #[test]
    fn with_few_descriptors_there_are_fewer_connections() {
        let total = |descriptors| Limits::within(descriptors).total;
        assert_eq!(total(1 << 20), 256);
        assert_eq!(total(2048), 256);
        assert_eq!(total(1024), 128);
        assert_eq!(total(30), 32);
    }

    #[test]
    fn a_client_at_its_limit_closes_its_own() {
        let table = table(&[client(2), client(1), client(1), client(1)]);
        assert_eq!(table.gives_way(client(1)), Some(2));
        assert_eq!(table.gives_way(client(2)), None);
    }

    #[test]
    fn what_is_being_answered_stays_before_what_only_waits() {
        let mut table = table(&[client(1), client(1), client(1)]);
        table.set_answering(1, true);
        // What was answered waits since then.
        for waiting in [2, 3] {
            table.set_answering(waiting, true);
            table.set_answering(waiting, false);
        }
        assert_eq!(table.gives_way(client(1)), Some(2));
        table.set_answering(1, false);
        assert_eq!(table.gives_way(client(1)), Some(2));
        table.set_answering(2, true);
        table.set_answering(3, true);
        assert_eq!(table.gives_way(client(1)), Some(1));
        // Readers that never take their answers shut nobody out either.
        table.set_answering(1, true);
        assert_eq!(table.gives_way(client(1)), Some(2));
    }

    #[test]
    fn a_full_house_takes_from_who_has_the_most() {
        let [a, b, c] = [client(1), client(2), client(3)];
        let table = table(&[a, b, b, b, c, c]);
        assert_eq!(table.gives_way(client(4)), Some(2));
        assert_eq!(table.gives_way(a), Some(2));
        assert_eq!(table.gives_way(probe()), Some(2));
    }

    #[test]
    fn probes_on_loopback_give_way_to_nobody_from_outside() {
        let table = table(&[probe(), probe(), probe(), client(1), client(2), client(3)]);
        assert_eq!(table.gives_way(client(4)), Some(4));
        assert_eq!(table.gives_way(probe()), Some(1));
    }

    #[test]
    fn all_of_loopback_is_one_client() {
        assert_eq!(one_of(IpAddr::from([127, 1, 2, 3])), probe());
        assert_eq!(one_of("::ffff:127.0.0.9".parse().unwrap()), probe());
        assert_eq!(one_of(client(1)), client(1));
    }

    #[tokio::test]
    async fn an_evicted_connection_is_told_and_makes_room_for_one() {
        let connections = Connections::new(SMALL, HttpCounts::default());
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(connections.admit(client(1)).await);
        }
        let newest = connections.admit(client(1)).await;
        places[0].evicted().await;
        assert_eq!(connections.counts.evicted.get(), 1);
        drop(places);
        assert_eq!(connections.counts.connections.get(), 1);
        assert_eq!(connections.table().open.len(), 1);
        drop(newest);
        assert_eq!(connections.sockets.available_permits(), SMALL.total);
    }
}
