//! Histories of a cluster, made up at random: endpoints turn, move, go and come, services are made anew, routes and
//! addresses too, while clients go on talking. Through all of them no session with a living pod ends, no flow leads to the
//! pod of another service, and new flows go to ready pods only.
//!
//! The engine, the judgement on flows and what is kept for them are those of the product, over tables in memory. A
//! failure prints the seed; `HISTORY_SEED` runs it again.

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bridge_common::abi::{
    Backend, BackendKey, DestinationKind, Flow, FlowKey, Layer, Reply, ReplyKey, Route, Seconds,
    Service as ServiceValue, ServiceKey, Timeouts,
};
use bridge_common::conntrack::tcp_state::Seen;
use bridge_common::packet::parse::{TCP, UDP};
use bridge_common::path::tc::{Side, run};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::verdict::Verdict;
use bridge_userspace::cluster::{self, DesiredState, Protocol, Service, ServicePort};
use bridge_userspace::conntrack::gc::{Memory, plan};
use bridge_userspace::conntrack::in_use::InUse;
use bridge_userspace::conntrack::policy::Policy;
use bridge_userspace::plan::retained::{Retained, SETTLE};
use etherparse::PacketBuilder;

const STEPS: usize = 10_000;
const DATA: [u8; 4] = *b"data";
/// Where both sides begin.
const INITIAL: u32 = 7_000;
const GRACE: Seconds = 15;
const NODE: [u8; 4] = [10, 60, 20, 30];
const NAT: [[u8; 4]; 2] = [[10, 244, 30, 0], [10, 244, 30, 250]];
const UPLINK: u32 = 2;
const TUNNEL: u32 = 5;
const SERVICES: u8 = 3;
/// Few addresses, so that they are soon in use again.
const ADDRESSES: u8 = 9;
const PORT: u16 = 80;

#[derive(Clone, Debug)]
struct Pod {
    /// Tells it from those that had the address before.
    id: u32,
    service: u8,
    is_ready: bool,
    /// Whether its service's slices have it. The API lags, and errs.
    is_listed: bool,
    is_terminating: bool,
}

#[derive(Clone, Debug)]
struct Session {
    client_port: u16,
    service: u8,
    protocol: u8,
    /// The pod that has it, once one has answered.
    pod: Option<(u8, u32)>,
    /// Whether the client has spoken while there was no way: it has had no answer.
    is_unheard: bool,
    is_over: bool,
    /// Whether the client has finished the handshake.
    has_accepted: bool,
    /// The sequence numbers that the client and the pod send next.
    next: (u32, u32),
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Syn,
    SynAck,
    Ack,
    Data,
    Rst,
}

impl Segment {
    /// What it takes of the sequence numbers.
    fn len(self) -> u32 {
        match self {
            Self::Syn | Self::SynAck => 1,
            Self::Data => u32::try_from(DATA.len()).unwrap(),
            Self::Ack | Self::Rst => 0,
        }
    }
}

struct World {
    dice: u32,
    tables: SimTables,
    pods: BTreeMap<u8, Pod>,
    /// Services that are there.
    exist: HashSet<u8>,
    sessions: Vec<Session>,
    next_pod: u32,
    next_port: u16,
    memory: Memory,
    in_use: InUse,
    kept: Retained<Ipv4Addr>,
    /// Which NAT address the route to the pods has, and whether the route and the other address are there.
    nat: usize,
    has_route: bool,
    next_look: Seconds,
    cluster: Arc<DesiredState>,
}

fn vip(service: u8) -> [u8; 4] {
    [10, 96, 0, 10 + service]
}

fn address(last: u8) -> [u8; 4] {
    [10, 244, 1, last]
}

impl World {
    fn new(seed: u32) -> Self {
        let mut tables = SimTables {
            office: vec![([192, 168, 0, 0], 22)],
            ..SimTables::default()
        };
        tables.settings.authoritative = 1;
        tables.settings.timeouts = Timeouts::default();
        tables.set_nat_ports(|port| port < 1_024 || (32_768..=60_999).contains(&port));
        tables.random_state.set(seed | 1);
        let mut world = Self {
            dice: seed | 1,
            tables,
            pods: BTreeMap::new(),
            exist: (0..SERVICES).collect(),
            sessions: Vec::new(),
            next_pod: 0,
            next_port: 20_000,
            memory: Memory::default(),
            in_use: InUse::default(),
            kept: Retained::default(),
            nat: 0,
            has_route: true,
            next_look: 0,
            cluster: Arc::default(),
        };
        for last in 1..=6 {
            world.start_pod(last, last % SERVICES);
        }
        world.publish();
        world
    }

    fn roll(&mut self, below: u32) -> u32 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        self.dice % below
    }

    fn now(&self) -> Seconds {
        self.tables.clock.get()
    }

    fn start_pod(&mut self, last: u8, service: u8) {
        self.next_pod += 1;
        let pod = Pod {
            id: self.next_pod,
            service,
            is_ready: true,
            is_listed: true,
            is_terminating: false,
        };
        self.pods.insert(last, pod);
    }

    /// Something happens to the cluster or to the node.
    fn happens(&mut self) -> String {
        let last = u8::try_from(self.roll(ADDRESSES.into())).unwrap() + 1;
        let service = u8::try_from(self.roll(SERVICES.into())).unwrap();
        let what = self.roll(12);
        let pod = self.pods.get_mut(&last);
        match (what, pod) {
            (0, Some(pod)) => {
                pod.is_ready = !pod.is_ready;
                format!("pod {last}: ready {}", pod.is_ready)
            }
            (1 | 2, Some(pod)) => {
                pod.is_listed = !pod.is_listed;
                format!("pod {last}: listed {}", pod.is_listed)
            }
            (3, Some(pod)) => {
                pod.is_terminating = true;
                format!("pod {last}: terminating")
            }
            (4, Some(_)) => {
                self.pods.remove(&last);
                format!("pod {last}: gone")
            }
            (5 | 6, None) => {
                self.start_pod(last, service);
                format!("pod {last}: starts, of service {service}")
            }
            (7, _) => {
                if !self.exist.remove(&service) {
                    self.exist.insert(service);
                }
                format!("service {service}: {}", self.exist.contains(&service))
            }
            (8, _) => {
                self.nat = 1 - self.nat;
                format!("NAT address {:?}", NAT[self.nat])
            }
            (9, _) => {
                self.has_route = !self.has_route;
                format!("route {}", self.has_route)
            }
            _ => "nothing".to_owned(),
        }
    }

    /// What the API says, as the tables have it.
    fn publish(&mut self) {
        let mut services = BTreeMap::new();
        for &service in &self.exist {
            let list = |wanted: &dyn Fn(&Pod) -> bool| -> Vec<cluster::Backend> {
                let pods = self.pods.iter();
                pods.filter(|(_, pod)| pod.service == service && pod.is_listed && wanted(pod))
                    .map(|(&last, _)| cluster::Backend {
                        address: address(last).into(),
                        port: PORT,
                    })
                    .collect()
            };
            let entry = Arc::new(Service {
                namespace: "default".to_owned(),
                name: format!("service-{service}"),
                port_name: None,
                backends: list(&|pod| pod.is_ready && !pod.is_terminating),
                alive: list(&|pod| pod.is_ready || !pod.is_terminating),
                affinity_seconds: None,
            });
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let port = ServicePort {
                    vip: vip(service).into(),
                    port: PORT,
                    protocol,
                };
                services.insert(port, Arc::clone(&entry));
            }
        }
        self.cluster = Arc::new(DesiredState {
            services,
            authoritative: true,
            ..DesiredState::default()
        });
        self.fill_services();
        self.fill_routes();
        self.look();
    }

    fn fill_services(&mut self) {
        self.tables.services.clear();
        self.tables.backends.clear();
        for (id, (port, service)) in (1..).zip(&self.cluster.services) {
            let value = |backend: &cluster::Backend| Backend {
                address: backend.address.octets(),
                port: backend.port,
                pad: [0; 2],
            };
            for (slot, backend) in (0..).zip(&service.backends) {
                let key = BackendKey {
                    service_id: id,
                    slot,
                };
                self.tables.backends.insert(key, value(backend));
            }
            let key = ServiceKey {
                vip: port.vip.octets(),
                port: port.port,
                protocol: port.protocol.number(),
                pad: 0,
            };
            let entry = ServiceValue {
                id,
                backend_count: u32::try_from(service.backends.len()).unwrap(),
                affinity_seconds: 0,
                only: match &service.backends[..] {
                    [only] => value(only),
                    _ => Backend::default(),
                },
            };
            self.tables.services.insert(key, entry);
        }
    }

    fn fill_routes(&mut self) {
        let wanted: HashSet<Ipv4Addr> = self
            .has_route
            .then(|| NAT[self.nat].into())
            .into_iter()
            .collect();
        let before: Vec<Ipv4Addr> = nat_addresses(&self.tables).collect();
        let in_use = &self.in_use;
        let kept = self.kept.keep(
            before,
            |address| wanted.contains(address),
            |address| in_use.nat_addresses.contains(address),
            SETTLE,
            self.tables.clock.get(),
        );
        let mut destinations = vec![
            ([10, 244, 0, 0], 16, DestinationKind::Pod),
            ([10, 96, 0, 0], 12, DestinationKind::Service),
        ];
        let nat = wanted.into_iter().chain(kept);
        destinations.extend(nat.map(|nat| (nat.octets(), 32, DestinationKind::Nat)));
        self.tables.destinations = destinations;
        let route = |ifindex, source| Route {
            ifindex,
            source,
            mtu: 1_450,
            ..Route::default()
        };
        self.tables.routes = vec![([192, 168, 0, 0], 22, route(UPLINK, NODE))];
        if self.has_route {
            let pods = route(TUNNEL, NAT[self.nat]);
            self.tables.routes.push(([10, 244, 1, 0], 24, pods));
        }
    }

    fn policy(&self) -> Policy {
        let reachable = self.has_route.then(|| "10.244.1.0/24".parse().unwrap());
        Policy {
            timeouts: self.tables.settings.timeouts,
            backend_grace: GRACE,
            office: vec!["192.168.0.0/22".parse().unwrap()],
            nat_addresses: nat_addresses(&self.tables).collect(),
            reachable: reachable.into_iter().collect(),
            cluster: Some(Arc::clone(&self.cluster)),
        }
    }

    /// A look at the flows, as garbage collection takes it.
    fn look(&mut self) {
        let flows: Vec<(FlowKey, Flow)> = {
            let table = self.tables.flows.borrow();
            table
                .iter()
                .map(|(key, flow)| (*key, *flow.borrow()))
                .collect()
        };
        let replies: Vec<(ReplyKey, Reply)> = {
            let table = self.tables.replies.borrow();
            table
                .iter()
                .map(|(key, reply)| (*key, *reply.borrow()))
                .collect()
        };
        let policy = self.policy();
        let now = self.now();
        let plan = plan(&flows, &replies, 65_536, now, &policy, &mut self.memory);
        let mut flows = self.tables.flows.borrow_mut();
        let mut replies = self.tables.replies.borrow_mut();
        for key in &plan.flows {
            flows.remove(key);
        }
        for (key, _) in &plan.cut {
            if key.protocol == TCP
                && let Some(flow) = flows.get(key)
            {
                let mut flow = flow.borrow_mut();
                flow.layer = Layer::Ended as u8;
                flow.tcp_seen = Seen::RST;
                flow.last_seen = now;
            } else {
                flows.remove(key);
            }
        }
        for key in plan
            .replies
            .iter()
            .chain(plan.cut.iter().map(|(_, key)| key))
        {
            replies.remove(key);
        }
        self.in_use = plan.in_use;
        self.next_look = now + if plan.is_watched { 3 } else { 10 };
    }

    /// Lets time pass, with looks when they are due.
    fn wait(&mut self, seconds: Seconds) {
        let end = self.now() + seconds;
        while self.next_look <= end {
            let at = self.next_look.max(self.now());
            self.tables.clock.set(at);
            self.fill_routes();
            self.look();
        }
        self.tables.clock.set(end);
    }

    fn open(&mut self) {
        self.next_port = if self.next_port == 29_999 {
            20_000
        } else {
            self.next_port + 1
        };
        let session = Session {
            client_port: self.next_port,
            service: u8::try_from(self.roll(SERVICES.into())).unwrap(),
            protocol: if self.roll(2) == 0 { TCP } else { UDP },
            pod: None,
            is_unheard: false,
            is_over: false,
            has_accepted: false,
            next: (INITIAL, INITIAL),
        };
        self.sessions
            .retain(|known| known.client_port != session.client_port);
        self.sessions.push(session);
    }

    /// A client speaks, and whoever gets it answers.
    fn speak(&mut self, at: usize) {
        let mut session = self.sessions[at].clone();
        let is_new = session.pod.is_none();
        let segment = if is_new {
            (session.next, session.has_accepted) = ((INITIAL, INITIAL), false);
            Segment::Syn
        } else if session.has_accepted {
            Segment::Data
        } else {
            session.has_accepted = true;
            Segment::Ack
        };
        let packet = packet(
            session.protocol,
            ([192, 168, 0, 10], session.client_port),
            (vip(session.service), PORT),
            segment,
            session.next,
        );
        session.next.0 += segment.len();
        let mut packet = SimPacket::new(packet);
        let verdict = run(&mut packet, &self.tables, Side::Uplink);
        let had = session.pod;
        let lives = |(last, id): (u8, u32)| self.pods.get(&last).is_some_and(|pod| pod.id == id);
        let is_session = session.protocol == TCP && had.is_some_and(lives) && !session.is_unheard;
        match verdict {
            Verdict::Forward { ifindex } => {
                assert_eq!(ifindex, TUNNEL);
                let (nat, backend) = ends(&packet.bytes);
                let last = backend.0[3];
                if let Some((expected, _)) = had.filter(|_| is_session) {
                    assert_eq!(last, expected, "a session has moved: {session:?}");
                }
                session.is_unheard = false;
                self.arrive(&mut session, segment, last, nat);
            }
            Verdict::Drop(_) if !self.has_route => session.is_unheard = true,
            other => {
                assert!(!is_session || !self.has_route, "{other:?}: {session:?}");
                session.is_over = session.protocol == TCP && !is_new;
            }
        }
        let is_answered = is_new && session.pod.is_some();
        self.sessions[at] = session;
        if is_answered {
            // The rest of the handshake.
            self.speak(at);
        }
    }

    /// The packet comes to an address: a pod that has the session answers, another resets it, and from nobody comes
    /// nothing.
    fn arrive(&mut self, session: &mut Session, segment: Segment, last: u8, nat: ([u8; 4], u16)) {
        let Some(pod) = self.pods.get(&last) else {
            return;
        };
        let is_known = session.pod.is_some_and(|known| known == (last, pod.id));
        if session.pod.is_none_or(|_| session.protocol == UDP) && !is_known {
            let is_of_service = pod.service == session.service;
            let was_of_service = session.pod.is_some_and(|(before, _)| before == last);
            assert!(
                is_of_service || was_of_service,
                "a pod of another service: {session:?} {pod:?}"
            );
            if was_of_service && !is_of_service {
                // The address has changed hands, and the API has not said so yet.
                assert!(
                    !pod.is_listed || !self.exist.contains(&pod.service),
                    "{session:?} {pod:?}"
                );
                return;
            }
            if session.pod.is_none() {
                let service = &self.cluster.services[&ServicePort {
                    vip: vip(session.service).into(),
                    port: PORT,
                    protocol: Protocol::Tcp,
                }];
                let backend = cluster::Backend {
                    address: address(last).into(),
                    port: PORT,
                };
                assert!(
                    service.backends.contains(&backend),
                    "a new flow to {last}: {pod:?}"
                );
            }
            session.pod = Some((last, pod.id));
        } else if !is_known {
            session.is_over = true;
        }
        let answered = match segment {
            _ if session.is_over => Segment::Rst,
            Segment::Syn => Segment::SynAck,
            _ => Segment::Ack,
        };
        let numbers = (session.next.1, session.next.0);
        session.next.1 += answered.len();
        let answer = packet(
            session.protocol,
            (address(last), PORT),
            nat,
            answered,
            numbers,
        );
        let mut answer = SimPacket::new(answer);
        let verdict = run(&mut answer, &self.tables, Side::Cluster);
        assert_eq!(verdict, Verdict::Forward { ifindex: UPLINK }, "{session:?}");
        let (from, to) = ends(&answer.bytes);
        assert_eq!(from, (vip(session.service), PORT));
        assert_eq!(to, ([192, 168, 0, 10], session.client_port));
    }
}

fn nat_addresses(tables: &SimTables) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let ours = tables.destinations.iter();
    ours.filter(|(_, _, kind)| *kind == DestinationKind::Nat)
        .map(|(address, ..)| Ipv4Addr::from(*address))
}

/// `numbers` are those of the sequence and of the acknowledgement.
fn packet(
    protocol: u8,
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    segment: Segment,
    (sequence, acknowledgement): (u32, u32),
) -> Vec<u8> {
    let ip = PacketBuilder::ipv4(from.0, to.0, 64);
    let mut bytes = Vec::new();
    if protocol == UDP {
        ip.udp(from.1, to.1).write(&mut bytes, &DATA).unwrap();
        return bytes;
    }
    let tcp = ip.tcp(from.1, to.1, sequence, 65_000);
    let tcp = match segment {
        Segment::Syn => tcp.syn(),
        Segment::SynAck => tcp.syn().ack(acknowledgement),
        Segment::Rst => tcp.rst().ack(acknowledgement),
        Segment::Ack | Segment::Data => tcp.ack(acknowledgement),
    };
    let payload: &[u8] = if segment == Segment::Data { &DATA } else { &[] };
    tcp.write(&mut bytes, payload).unwrap();
    bytes
}

fn ends(packet: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ((address(12), port(20)), (address(16), port(22)))
}

#[test]
fn ten_thousand_steps_of_a_living_cluster_end_no_session_of_a_living_pod() {
    let seed = env::var("HISTORY_SEED")
        .ok()
        .map_or(0x5EED_0B1D, |text| text.parse().unwrap());
    println!("HISTORY_SEED={seed}");
    let mut world = World::new(seed);
    let (mut answered, mut ended) = (0, 0);
    for step in 0..STEPS {
        let what = world.happens();
        world.publish();
        println!("{step} at {}: {what}", world.now());
        if world.roll(3) == 0 {
            world.open();
        }
        for at in 0..world.sessions.len() {
            if world.roll(3) == 0 {
                world.speak(at);
            }
        }
        answered += world
            .sessions
            .iter()
            .filter(|session| session.pod.is_some())
            .count();
        ended += world
            .sessions
            .iter()
            .filter(|session| session.is_over)
            .count();
        world.sessions.retain(|session| !session.is_over);
        if world.sessions.len() > 60 {
            world.sessions.remove(0);
        }
        let pause = world.roll(25);
        world.wait(pause);
    }
    let layers = world.tables.flows.borrow();
    assert!(
        layers
            .values()
            .all(|flow| [Layer::Tc as u8, Layer::Ended as u8].contains(&flow.borrow().layer))
    );
    assert!(
        answered > STEPS && ended > STEPS / 100,
        "{answered} answered, {ended} ended"
    );
}
