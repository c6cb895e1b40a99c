//! A history: packets of clients and backends, true and forged, time, garbage collection and changes of the cluster. It
//! happens in two worlds, one with XDP and one without, which must stay the same.
//!
//! An input is a [`Setup`] of four bytes and [`Step`]s of eight, each field in order, numbers with their lowest byte
//! first. What each byte means stands at the fields; every value means something.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use bridge_common::abi::{DestinationKind, Flow, FlowKey, Layer, Reply, ReplyKey, Route, since};
use bridge_common::conntrack::lifetime::{
    FlowState, is_expired, is_reusable, untranslated_timeout,
};
use bridge_common::conntrack::tcp_state::{Seen, State};
use bridge_common::packet::parse::{ICMP, TCP, UDP, tcp_flag};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::{self, Side};
use bridge_common::path::{local, stack, xdp};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::tables::{Slot, Tables};
use bridge_common::verdict::Verdict;

use crate::packet::{MORE_FRAGMENTS, View, Wire, icmp_error};
use crate::sound;
use crate::world::{
    API, Counted, DNS, EMPTY, EMPTY_VIP, LAPTOP, LOCAL_POD, LOST_POD, MYSQL, NAT, NIC, NODE,
    OUTSIDER, Options, PC, POD, ROUTED_POD, UPLINK, VIP, at, frame, packet_of_sent, tables,
    tunnelled,
};

/// Steps of a history; what follows is not looked at.
const MOST_STEPS: usize = 96;

/// How far numbers are off that nobody sends by accident: beyond every gap that is believed.
const FAR: u32 = 1 << 24;

/// What a history begins with.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Setup {
    /// [`Options::settings`].
    pub settings: u8,
    /// Flows that fit: this many if that is below 8, else enough.
    pub capacity: u8,
    /// NAT ports: this many if that is below 8, else all. With few the world without XDP is left out, as who is refused by
    /// XDP asks TC again, which searches on.
    pub nat_ports: u8,
    /// Seed of the random numbers.
    pub random: u8,
}

/// Something happens.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Step {
    /// One of [`ACTIONS`].
    pub action: u8,
    /// The client, or which flow.
    pub who: u8,
    /// What is addressed.
    pub target: u8,
    /// TCP flags, or what changes.
    pub flags: u8,
    /// How far TCP's numbers are right: two bits each for sequence and acknowledgement, and bit 7 for a wrong checksum.
    pub numbers: u8,
    /// Bytes of payload, and in the two highest bits which fragment.
    pub size: u8,
    /// A port, seconds, or a displacement.
    pub extra: u16,
}

/// What may happen, by the number in a step.
pub const ACTIONS: [&str; 12] = [
    "client", "client", "continue", "continue", "answer", "answer", "depart", "error", "wait",
    "collect", "change", "pod",
];

/// Which way a packet takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// In by the uplink.
    Uplink,
    /// In from the pods.
    Cluster,
    /// Out to the pods, routed by the kernel.
    Departing,
    /// Out by the uplink, from the node itself.
    Leaving,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    ToStack,
    Sent(Vec<u8>),
    Continued(Vec<u8>),
    Reflected(Vec<u8>),
    Dropped,
}

type Flows = BTreeMap<FlowKey, Flow>;
type Replies = BTreeMap<ReplyKey, Reply>;

/// The tables at a time.
struct Snapshot {
    flows: Flows,
    replies: Replies,
    counted: Counted,
}

impl Snapshot {
    fn of(tables: &SimTables) -> Self {
        let flows = tables.flows.borrow();
        let replies = tables.replies.borrow();
        Self {
            flows: flows
                .iter()
                .map(|(key, flow)| (*key, *flow.borrow()))
                .collect(),
            replies: replies
                .iter()
                .map(|(key, reply)| (*key, *reply.borrow()))
                .collect(),
            counted: Counted::of(tables),
        }
    }

    fn nth(&self, number: u8) -> Option<(FlowKey, Flow)> {
        let at = usize::from(number).checked_rem(self.flows.len())?;
        self.flows.iter().nth(at).map(|(key, flow)| (*key, *flow))
    }

    fn reply_of(&self, key: &FlowKey, flow: &Flow) -> Option<Reply> {
        self.replies.get(&key.reply_key(flow)).copied()
    }
}

/// Both worlds.
struct History {
    /// With XDP.
    fast: SimTables,
    /// Without.
    slow: Option<SimTables>,
    /// Who has opened the flow of a reply key, as seen from outside.
    owners: BTreeMap<ReplyKey, FlowKey>,
    random: u32,
}

/// Runs an input.
///
/// # Panics
/// When something has happened that must not.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setup) = Setup::arbitrary(&mut input) else {
        return;
    };
    let mut history = History::new(setup);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else {
            break;
        };
        history.happens(step);
    }
}

impl History {
    fn new(setup: Setup) -> Self {
        let options = Options {
            settings: setup.settings,
            capacity: if setup.capacity < 8 {
                setup.capacity.into()
            } else {
                0
            },
            nat_ports: if setup.nat_ports < 8 {
                setup.nat_ports.into()
            } else {
                0
            },
        };
        let is_scarce = options.nat_ports != 0;
        Self {
            fast: tables(options),
            slow: (!is_scarce).then(|| tables(options)),
            owners: BTreeMap::new(),
            random: u32::from(setup.random) << 8 | 1,
        }
    }

    fn worlds(&mut self) -> impl Iterator<Item = &mut SimTables> {
        std::iter::once(&mut self.fast).chain(self.slow.as_mut())
    }

    fn happens(&mut self, step: Step) {
        self.random = self.random.wrapping_mul(0x9E37_79B1).wrapping_add(1) | 1;
        let before = Snapshot::of(&self.fast);
        match ACTIONS[usize::from(step.action) % ACTIONS.len()] {
            "client" => self.client(step, &before),
            "continue" => self.goes_on(step, &before),
            "answer" => self.answer(step, &before),
            "depart" => self.departs(step, &before),
            "error" => self.error(step, &before),
            "wait" => {
                let seconds = match step.who % 4 {
                    0 => u32::from(step.extra % 4),
                    1 => u32::from(step.extra % 64),
                    2 => u32::from(step.extra % 512),
                    _ => u32::from(step.extra) * 2,
                };
                for world in self.worlds() {
                    world.clock.set(world.clock.get() + seconds);
                }
            }
            "collect" => self.collect(step, &before),
            "change" => self.changes(step),
            _ => self.pod(step, &before),
        }
        self.agrees();
        self.is_consistent(&before);
    }

    /// A packet of a client that may have no flow yet.
    fn client(&mut self, step: Step, before: &Snapshot) {
        let ports = [20_000, 20_001, 40_000, 53, 600, step.extra];
        let port = ports[usize::from(step.who >> 4) % ports.len()];
        let client = at([PC, LAPTOP, PC, OUTSIDER][usize::from(step.who) % 4], port);
        let (protocol, destination) = target(step);
        let wire = Self::wire(step, before, protocol, client, destination);
        let way = Way::Uplink;
        self.send(before, way, step, &wire);
    }

    /// A client's next packet, of a flow that is there.
    fn goes_on(&mut self, step: Step, before: &Snapshot) {
        let Some((key, flow)) = before.nth(step.who) else {
            return;
        };
        let (client, destination) = ends_of(&key);
        let wire = Self::wire(step, before, key.protocol, client, destination);
        let is_on_stack = flow.layer == Layer::Stack as u8;
        let way = if is_on_stack {
            Way::Departing
        } else {
            Way::Uplink
        };
        self.send(before, way, step, &wire);
    }

    /// A backend's packet, to where a client's has come from.
    fn answer(&mut self, step: Step, before: &Snapshot) {
        let Some((key, flow)) = before.nth(step.who) else {
            return;
        };
        if Layer::is_untranslated(flow.layer) {
            return;
        }
        let reply_key = key.reply_key(&flow);
        let (backend, nat) = (
            at(reply_key.backend, reply_key.backend_port),
            at(reply_key.nat, reply_key.nat_port),
        );
        let mut wire = Self::wire(step, before, key.protocol, backend, nat);
        wire.is_reply = true;
        let way = if flow.layer == Layer::Local as u8 {
            Way::Leaving
        } else {
            Way::Cluster
        };
        self.send(before, way, step, &wire);
    }

    /// A packet that the kernel has routed to a pod.
    fn departs(&mut self, step: Step, before: &Snapshot) {
        let client = at(
            [PC, LAPTOP, OUTSIDER, NODE][usize::from(step.who) % 4],
            20_000 + u16::from(step.who >> 4),
        );
        let pods = [POD, ROUTED_POD, LOCAL_POD, LOST_POD];
        let protocol = [TCP, UDP, ICMP, 50][usize::from(step.target >> 4) % 4];
        let port = if matches!(protocol, TCP | UDP) { 80 } else { 0 };
        let destination = at(pods[usize::from(step.target) % 4], port);
        let wire = Self::wire(step, before, protocol, client, destination);
        self.send(before, Way::Departing, step, &wire);
    }

    /// A pod's own packet to the office.
    fn pod(&mut self, step: Step, before: &Snapshot) {
        let pods = [POD, ROUTED_POD, LOCAL_POD, LOST_POD];
        let protocol = [TCP, UDP, ICMP, 50][usize::from(step.target >> 4) % 4];
        let pod = at(pods[usize::from(step.target) % 4], 40_000);
        let host = at([PC, LAPTOP, OUTSIDER][usize::from(step.who) % 3], 80);
        let wire = Self::wire(step, before, protocol, pod, host);
        let way = if step.who & 0x80 == 0 {
            Way::Cluster
        } else {
            Way::Uplink
        };
        self.send(before, way, step, &wire);
    }

    /// An ICMP error about a packet of a flow.
    fn error(&mut self, step: Step, before: &Snapshot) {
        let Some((key, flow)) = before.nth(step.who) else {
            return;
        };
        let (client, destination) = ends_of(&key);
        let kind = [[3, 4], [3, 1], [11, 0], [12, 0], [3, 3]][usize::from(step.flags) % 5];
        let is_from_pods = step.target & 1 == 0;
        // What the sender of the error has seen of the flow.
        let (sender, receiver) = if is_from_pods {
            (
                at(flow.nat, flow.nat_port),
                at(flow.backend, flow.backend_port),
            )
        } else {
            (destination, client)
        };
        let mut wire = Self::wire(step, before, key.protocol, sender, receiver);
        wire.is_reply = !is_from_pods;
        let quoted = wire.bytes();
        let len = if step.target & 2 == 0 {
            28
        } else {
            quoted.len()
        };
        let router = if step.target & 4 == 0 {
            receiver.address
        } else {
            [10, 60, 20, 1]
        };
        let bytes = icmp_error(router, kind, &quoted[..len.min(quoted.len())]);
        let way = match (is_from_pods, flow.layer == Layer::Stack as u8) {
            (true, _) if flow.layer == Layer::Local as u8 => Way::Leaving,
            (true, _) => Way::Cluster,
            (false, true) => Way::Departing,
            (false, false) => Way::Uplink,
        };
        let outcome = self.passes(before, way, &bytes, step);
        let after = Snapshot::of(&self.fast);
        assert_eq!(
            before.flows, after.flows,
            "an error neither refreshes nor ends a flow"
        );
        assert_eq!(before.replies, after.replies);
        if let (Outcome::Sent(bytes) | Outcome::Continued(bytes), true) = (outcome, is_from_pods) {
            let sent = View::of(&bytes).expect("what is sent is IPv4");
            assert_eq!(
                sent.destination(),
                key.client,
                "an error goes to the client"
            );
        }
    }

    /// Garbage collection, or the end of a session whose backend is gone.
    fn collect(&mut self, step: Step, before: &Snapshot) {
        let ended = (step.flags & 1 != 0)
            .then(|| before.nth(step.who))
            .flatten();
        for world in self.worlds() {
            let now = world.clock.get();
            let timeouts = world.settings.timeouts;
            for (key, flow) in &before.flows {
                let reply_key = key.reply_key(flow);
                let is_over = if Layer::is_untranslated(flow.layer) {
                    since(now, flow.last_seen)
                        >= untranslated_timeout(key.protocol, flow, &timeouts)
                } else {
                    let reply = before.replies[&reply_key];
                    is_expired(key.protocol, flow, &reply, now, &timeouts)
                };
                if is_over {
                    world.remove_flow(key);
                    world.remove_reply(&reply_key);
                }
            }
            let Some((key, flow)) = ended else {
                continue;
            };
            if key.protocol != TCP || Layer::is_untranslated(flow.layer) {
                continue;
            }
            world.remove_reply(&key.reply_key(&flow));
            if let Some(slot) = world.flow(&key) {
                slot.with(|flow| {
                    flow.layer = Layer::Ended as u8;
                    flow.tcp_seen = Seen::RST;
                    flow.last_seen = now;
                });
            }
        }
    }

    /// Something changes in the cluster, or on the node.
    fn changes(&mut self, step: Step) {
        for world in self.worlds() {
            match step.flags % 6 {
                0 => {
                    for service in world
                        .services
                        .values_mut()
                        .filter(|service| service.id == 1)
                    {
                        service.backend_count = u32::from(step.who % 5);
                    }
                }
                1 => {
                    let (_, _, tunnel) = &mut world.routes[2];
                    tunnel.flags ^= Route::UNREACHABLE;
                    tunnel.next_hop = if tunnel.is_unreachable() { 0 } else { 2 };
                    world.fast_path.epoch += 1;
                }
                2 => {
                    let until = world.fast_path.valid_until;
                    let now = world.clock.get();
                    world.fast_path.valid_until = if until == u32::MAX { now } else { u32::MAX };
                }
                3 => world.settings.stack_only ^= 1,
                4 => world.answer_tokens.set(u32::from(step.who)),
                _ => world.settings.authoritative ^= 1,
            }
        }
    }

    /// The packet that a step means, between these two.
    fn wire(step: Step, before: &Snapshot, protocol: u8, from: Endpoint, to: Endpoint) -> Wire {
        let (mut from, mut to) = (from, to);
        match protocol {
            ICMP if from.port != 0 => to.port = 0,
            TCP | UDP | ICMP => {}
            _ => (from.port, to.port) = (0, 0),
        }
        let mut wire = Wire::new(protocol, from, to);
        wire.flags = step.flags;
        wire.is_reply = protocol == ICMP && from.port == 0 && to.port != 0;
        wire.payload = vec![0x5A; usize::from(step.size & 0x3F)];
        wire.ttl = if step.extra & 0x3F00 == 0x0100 { 1 } else { 64 };
        (wire.sequence, wire.acknowledgement) =
            expected(before, protocol, from, to).unwrap_or((u32::from(step.extra), 0));
        let extra = u32::from(step.extra);
        let displaced = |number: u32, how: u8| match how & 3 {
            0 => number,
            1 => number.wrapping_add(extra),
            2 => number.wrapping_sub(extra),
            _ => number.wrapping_add(FAR + extra),
        };
        wire.sequence = displaced(wire.sequence, step.numbers);
        wire.acknowledgement = displaced(wire.acknowledgement, step.numbers >> 2);
        match step.size >> 6 {
            2 => {
                wire.fragment = MORE_FRAGMENTS;
                wire.payload.resize(24, 0);
            }
            3 => wire.fragment = 4,
            _ => {}
        }
        wire
    }

    /// Sends a packet, and checks what has become of it and of the flows.
    fn send(&mut self, before: &Snapshot, way: Way, step: Step, wire: &Wire) {
        let mut bytes = wire.bytes();
        let has_wrong_checksum =
            step.numbers & 0x80 != 0 && wire.protocol == TCP && !wire.is_later_fragment();
        if has_wrong_checksum {
            bytes[36] ^= 0x55;
        }
        let outcome = self.passes(before, way, &bytes, step);
        let after = Snapshot::of(&self.fast);
        self.owns(before, &after, wire, &outcome);
        self.leaves_others_alone(before, &after, wire, way);
        if wire.protocol == TCP && wire.fragment == 0 {
            who_guesses_ends_nothing(before, &after, wire, has_wrong_checksum);
        }
    }

    /// Gives a packet to both worlds.
    fn passes(&mut self, before: &Snapshot, way: Way, bytes: &[u8], step: Step) -> Outcome {
        self.fast.random_state.set(self.random);
        let outcome = if let Some(outcome) = by_xdp(&self.fast, way, bytes, step) {
            outcome
        } else {
            // What XDP has drawn to no avail TC draws again.
            self.fast.random_state.set(self.random);
            without_xdp(&self.fast, way, bytes)
        };
        if let Some(slow) = &self.slow {
            slow.random_state.set(self.random);
            let expected = without_xdp(slow, way, bytes);
            assert_eq!(outcome, expected, "XDP does what TC does");
        }
        let counted = Counted::of(&self.fast);
        let before = before.counted;
        let is_sent = matches!(outcome, Outcome::Sent(_) | Outcome::Continued(_));
        assert_eq!(
            counted.forwarded - before.forwarded,
            u64::from(is_sent),
            "{outcome:?}"
        );
        let is_ping = counted.pings > before.pings;
        let is_dropped = matches!(outcome, Outcome::Dropped | Outcome::Reflected(_)) && !is_ping;
        assert_eq!(
            counted.dropped - before.dropped,
            u64::from(is_dropped),
            "{outcome:?}"
        );
        assert!(counted.opened - before.opened <= 1);
        outcome
    }

    /// A flow belongs to who has opened it, and its answers go there.
    fn owns(&mut self, before: &Snapshot, after: &Snapshot, wire: &Wire, outcome: &Outcome) {
        let (Outcome::Sent(bytes) | Outcome::Continued(bytes)) = outcome else {
            return self.notes_owners(before, after, wire);
        };
        let sent = View::of(bytes).expect("what is sent is IPv4");
        let (source, destination) = sent.endpoints();
        let has_ports = !wire.is_later_fragment();
        let reply_key = ReplyKey {
            backend: wire.source.address,
            nat: wire.destination.address,
            backend_port: wire.source.port,
            nat_port: wire.destination.port,
            protocol: wire.protocol,
            pad: 0,
            pad2: 0,
        };
        if let (Some(owner), true) = (self.owners.get(&reply_key), has_ports)
            && before.replies.contains_key(&reply_key)
        {
            let (client, addressed) = ends_of(owner);
            assert_eq!(
                (source, destination),
                (addressed, client),
                "an answer goes to who has asked"
            );
        } else if has_ports && let Some(flow) = after.flows.get(&key_of(wire)) {
            assert_eq!(source, at(flow.nat, flow.nat_port));
            assert_eq!(destination, at(flow.backend, flow.backend_port));
        }
        self.notes_owners(before, after, wire);
    }

    fn notes_owners(&mut self, before: &Snapshot, after: &Snapshot, wire: &Wire) {
        for (key, flow) in &after.flows {
            if Layer::is_untranslated(flow.layer) {
                continue;
            }
            let reply_key = key.reply_key(flow);
            let is_known = before
                .flows
                .get(key)
                .is_some_and(|old| key.reply_key(old) == reply_key);
            if is_known && self.owners.get(&reply_key) == Some(key) {
                continue;
            }
            assert!(is_of(key, wire), "{wire:?} has opened {key:?}");
            self.owners.insert(reply_key, *key);
        }
    }

    /// No packet changes, ends or refreshes a flow of others, unless that has run out or may be taken over.
    fn leaves_others_alone(&self, before: &Snapshot, after: &Snapshot, wire: &Wire, way: Way) {
        let now = self.fast.clock.get();
        let timeouts = &self.fast.settings.timeouts;
        for (key, flow) in &before.flows {
            let reply = before.reply_of(key, flow);
            let reply_key = key.reply_key(flow);
            let is_own = is_of(key, wire)
                || wire.source.address == reply_key.backend && wire.destination.address == reply_key.nat
                // Who answers a pod, or is asked by it.
                || wire.source.address == key.destination && wire.destination.address == key.client;
            if is_own {
                continue;
            }
            let may_go = reply.is_none_or(|reply| {
                is_expired(key.protocol, flow, &reply, now, timeouts)
                    || is_reusable(key.protocol, flow, &reply, now)
            });
            if may_go && !Layer::is_untranslated(flow.layer) {
                continue;
            }
            assert_eq!(after.flows.get(key), Some(flow), "{way:?} {wire:?}");
            // What is not translated has no reply entry, and another flow may have that key.
            if !Layer::is_untranslated(flow.layer) {
                assert_eq!(after.reply_of(key, flow), reply, "{way:?} {wire:?}");
            }
        }
    }

    /// Both worlds have the same flows.
    fn agrees(&self) {
        let Some(slow) = &self.slow else {
            return;
        };
        // The packet that XDP has marked a connection of others by is counted by TC, which without XDP only marks it.
        for (key, slot) in slow.flows.borrow().iter() {
            if slot.with(|flow| flow.layer == Layer::Kernel as u8)
                && let Some(same) = self.fast.flow(key)
                && same.with(|flow| flow.layer == Layer::Kernel as u8)
            {
                *slot.borrow_mut() = *same.borrow();
            }
        }
        let (fast, slow) = (Snapshot::of(&self.fast), Snapshot::of(slow));
        assert_eq!(fast.flows, slow.flows, "flows with XDP and without");
        assert_eq!(fast.replies, slow.replies, "replies with XDP and without");
        assert_eq!(fast.counted, slow.counted, "counters with XDP and without");
    }

    /// What holds whatever has happened.
    fn is_consistent(&self, before: &Snapshot) {
        let now = Snapshot::of(&self.fast);
        for (key, flow) in &now.flows {
            assert!(
                self.fast.is_office(key.client),
                "a flow of {:?}",
                key.client
            );
            if Layer::is_untranslated(flow.layer) {
                continue;
            }
            let reply_key = key.reply_key(flow);
            let reply = now.replies.get(&reply_key);
            let reply = reply.unwrap_or_else(|| panic!("{key:?} has no reply entry"));
            assert_eq!(
                reply_key.flow_key(reply),
                *key,
                "both entries belong together"
            );
            assert_eq!(reply.layer(), flow.layer, "both are of one layer");
            let kind = self.fast.destination(flow.nat);
            let is_local = flow.layer == Layer::Local as u8;
            assert!(
                is_local || kind == Some(DestinationKind::Nat),
                "answers come to us"
            );
        }
        for (key, reply) in &now.replies {
            let flow = now.flows.get(&key.flow_key(reply));
            let flow = flow.unwrap_or_else(|| panic!("{key:?} has no forward entry"));
            assert_eq!(
                key.flow_key(reply).reply_key(flow),
                *key,
                "two flows with one reply key"
            );
        }
        assert!(now.flows.len() <= self.fast.capacity);
        assert!(now.counted.forwarded >= before.counted.forwarded);
        assert!(now.counted.dropped >= before.counted.dropped);
    }
}

/// What a client addresses in a step, and by which protocol.
fn target(step: Step) -> (u8, Endpoint) {
    let targets = [
        (TCP, MYSQL),
        (UDP, DNS),
        (TCP, at(POD, 80)),
        (TCP, at(ROUTED_POD, 80)),
        (UDP, at(POD, 53)),
        (ICMP, at(POD, 0)),
        (TCP, API),
        (TCP, EMPTY),
        (ICMP, at(VIP, 0)),
        (ICMP, at(EMPTY_VIP, 0)),
        (UDP, at(LOCAL_POD, 53)),
        (TCP, at(LOST_POD, 80)),
        (50, at(ROUTED_POD, 0)),
        (50, at(VIP, 0)),
        (UDP, at(POD, 40_000)),
        (TCP, at(POD, 40_000)),
        (UDP, at(VIP, step.extra)),
        (TCP, at(NAT, step.extra)),
        (UDP, at(ROUTED_POD, step.extra)),
    ];
    targets[usize::from(step.target) % targets.len()]
}

const fn ends_of(key: &FlowKey) -> (Endpoint, Endpoint) {
    (
        at(key.client, key.client_port),
        at(key.destination, key.destination_port),
    )
}

const fn key_of(wire: &Wire) -> FlowKey {
    FlowKey {
        client: wire.source.address,
        destination: wire.destination.address,
        client_port: wire.source.port,
        destination_port: wire.destination.port,
        protocol: wire.protocol,
        pad: 0,
        pad2: 0,
    }
}

/// Whether a packet from a client is of this flow, or may be: a later fragment has no ports.
fn is_of(key: &FlowKey, wire: &Wire) -> bool {
    let own = key_of(wire);
    let is_later = wire.is_later_fragment();
    own == *key
        || is_later
            && (own.client, own.destination, own.protocol)
                == (key.client, key.destination, key.protocol)
}

/// The flow that a packet belongs to, and whether its client has sent it.
fn flow_of<'a>(at: &'a Snapshot, wire: &Wire) -> Option<(&'a FlowKey, &'a Flow, Reply, bool)> {
    let own = key_of(wire);
    at.flows.iter().find_map(|(key, flow)| {
        if Layer::is_untranslated(flow.layer) {
            return None;
        }
        let reply_key = key.reply_key(flow);
        let is_answer = reply_key.backend == own.client
            && reply_key.nat == own.destination
            && reply_key.backend_port == own.client_port
            && reply_key.nat_port == own.destination_port
            && reply_key.protocol == own.protocol;
        let reply = at.reply_of(key, flow)?;
        (own == *key || is_answer).then_some((key, flow, reply, !is_answer))
    })
}

/// The sequence and acknowledgement number of the next segment between two.
fn expected(at: &Snapshot, protocol: u8, from: Endpoint, to: Endpoint) -> Option<(u32, u32)> {
    let (_, flow, reply, is_clients) = flow_of(at, &Wire::new(protocol, from, to))?;
    let numbers = (flow.tcp_next, reply.tcp_next);
    Some(if is_clients {
        numbers
    } else {
        (numbers.1, numbers.0)
    })
}

/// A segment whose numbers do not fit, or whose checksum is wrong, ends no established session and moves it nowhere.
fn who_guesses_ends_nothing(
    before: &Snapshot,
    after: &Snapshot,
    wire: &Wire,
    has_wrong_checksum: bool,
) {
    let Some((key, flow, reply, is_clients)) = flow_of(before, wire) else {
        return;
    };
    let established = FlowState::Tcp(State::Established);
    let has_both = flow.tcp_seen & Seen::ACK != 0 && reply.tcp_seen() & Seen::ACK != 0;
    if FlowState::of(TCP, flow, &reply) != established || !has_both {
        return;
    }
    let (own, other) = if is_clients {
        (flow.tcp_next, reply.tcp_next)
    } else {
        (reply.tcp_next, flow.tcp_next)
    };
    let distance = wire.sequence.wrapping_sub(own);
    let is_near = distance.min(distance.wrapping_neg()) < FAR / 2;
    let acknowledges =
        wire.flags & tcp_flag::ACK != 0 && other.wrapping_sub(wire.acknowledgement) < FAR / 2;
    let is_exact =
        distance == 0 || wire.flags & tcp_flag::SYN != 0 && wire.sequence.wrapping_add(1) == own;
    let fits = is_exact || is_near && acknowledges;
    let is_decisive = wire.flags & (tcp_flag::RST | tcp_flag::FIN) != 0;
    let is_refuted = has_wrong_checksum && is_decisive && wire.payload.is_empty();
    if fits && !is_refuted {
        return;
    }
    let seen = |seen: u8| seen & !(Seen::ASKS | Seen::CLOSED_BY_OTHER);
    let now = after
        .flows
        .get(key)
        .zip(after.replies.get(&key.reply_key(flow)));
    // What has been silent for too long may go with any packet.
    let Some((now, then)) = now else {
        return;
    };
    assert_eq!(
        seen(now.tcp_seen),
        seen(flow.tcp_seen),
        "who guesses ends nothing: {wire:?}"
    );
    assert_eq!(
        seen(then.tcp_seen()),
        seen(reply.tcp_seen()),
        "who guesses ends nothing: {wire:?}"
    );
    assert_eq!(
        (now.tcp_next, then.tcp_next),
        (flow.tcp_next, reply.tcp_next),
        "who guesses moves nothing: {wire:?}"
    );
}

/// What XDP makes of a packet; `None` if that is for the others.
fn by_xdp(world: &SimTables, way: Way, bytes: &[u8], step: Step) -> Option<Outcome> {
    let view = View::of(bytes)?;
    let frame = match (way, view.source()) {
        (Way::Uplink, _) => frame(UPLINK, bytes),
        (Way::Cluster, [10, 244, 1, _]) => frame(
            if step.target & 0x40 == 0 { NIC } else { UPLINK },
            &tunnelled(bytes),
        ),
        (Way::Cluster, [10, 244, 2, _]) => frame(NIC, bytes),
        _ => return None,
    };
    let mut after = frame.clone();
    let done = xdp::handle(&mut after, world);
    let sent = packet_of_sent(done, &after, frame.bytes.len());
    if sent.is_none() {
        assert_eq!(frame, after, "what is left to TC is untouched");
    }
    let sent = sent?.to_vec();
    sound::translated(
        &SimPacket::new(bytes.to_vec()),
        &SimPacket::new(sent.clone()),
        1,
    );
    Some(Outcome::Sent(sent))
}

/// What becomes of a packet that the kernel has made a socket buffer of.
fn without_xdp(world: &SimTables, way: Way, bytes: &[u8]) -> Outcome {
    let before = SimPacket::new(bytes.to_vec());
    let mut after = before.clone();
    let verdict = match way {
        Way::Uplink => tc::run(&mut after, world, Side::Uplink),
        Way::Cluster => tc::run(&mut after, world, Side::Cluster),
        Way::Departing => stack::run(&mut after, world),
        Way::Leaving => local::run(&mut after, world),
    };
    sound::outcome(verdict, &before, &after);
    match verdict {
        Verdict::ToStack if way == Way::Uplink => {
            // The kernel routes it on, unless kube-proxy would have to translate it first.
            let is_pods = View::of(bytes).is_some_and(|view| {
                world.destination(view.destination()) == Some(DestinationKind::Pod)
            });
            if is_pods {
                without_xdp(world, Way::Departing, bytes)
            } else {
                Outcome::ToStack
            }
        }
        Verdict::ToStack => Outcome::ToStack,
        Verdict::Forward { .. } => Outcome::Sent(after.bytes),
        Verdict::Continue => Outcome::Continued(after.bytes),
        Verdict::Reflect => {
            // The identification is a random number, which depends on what else was drawn.
            after.bytes[4..6].fill(0);
            after.bytes[10..12].fill(0);
            Outcome::Reflected(after.bytes)
        }
        Verdict::Drop(_) => Outcome::Dropped,
        _ => Outcome::Passed,
    }
}
