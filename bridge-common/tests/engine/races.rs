//! Two CPUs at once. The second one's whole packet is handled at every single table operation of the first.

use crate::fixture::{
    DNS, LAPTOP, MYSQL, PC, POD, TUNNEL, advance, fixture, flows, forward, only_flow, replies, send,
};
use crate::packets::{Wire, at, endpoints};
use bridge_common::abi::{
    Affinity, AffinityKey, Backend, BackendKey, CachedHop, Client, ClientPort, DestinationKind,
    Event, FastPath, Flow, FlowKey, Fragment, FragmentKey, FragmentParts, HeldFound, HeldFragment,
    HeldIndex, HeldPorts, Ipv4, NatPort, NextHop, PortPool, PortSearch, Reply, ReplyKey, Route,
    Seconds, Service, ServiceKey, Settings, Vtep,
};
use bridge_common::counters::Count;
use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::held;
use bridge_common::path::tc::{Side, run};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::tables::{Insertion, Tables};
use bridge_common::verdict::Verdict;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

#[test]
fn two_cpus_that_open_one_flow_use_one_mapping() {
    for destination in [MYSQL, at(POD, 3306)] {
        // A port that is kept, and one that is not.
        for port in [20_000, 80] {
            let syn = Wire::tcp(at(PC, port), destination, SYN);
            in_every_order(fixture, &syn, &syn, |tables, first, second| {
                assert_eq!(endpoints(first), endpoints(second));
                let (_, flow, _) = only_flow(tables);
                assert_eq!(endpoints(first).0, at(flow.nat, flow.nat_port));
            });
        }
    }
}

#[test]
fn two_queries_of_one_socket_go_to_one_backend() {
    // A and AAAA of one resolver at once: the second must not be lost (kubernetes#56903).
    let query = Wire::udp(at(PC, 20_000), DNS);
    let other = query.clone().payload([1, 2, 3]);
    in_every_order(fixture, &query, &other, |tables, first, second| {
        assert_eq!(endpoints(first), endpoints(second));
        only_flow(tables);
    });
}

#[test]
fn two_clients_that_want_one_port_at_once_get_two() {
    let pod = at(POD, 80);
    let first = Wire::tcp(at(PC, 20_000), pod, SYN);
    let second = Wire::tcp(at(LAPTOP, 20_000), pod, SYN);
    in_every_order(fixture, &first, &second, |tables, first, second| {
        assert_ne!(endpoints(first).0, endpoints(second).0);
        assert_eq!((flows(tables).len(), replies(tables).len()), (2, 2));
    });
}

#[test]
fn two_clients_that_reuse_one_expired_port_do_not_both_keep_it() {
    let pod = at(POD, 80);
    let expired = || {
        let tables = fixture();
        let old = Wire::tcp(at([192, 168, 2, 1], 20_000), pod, SYN).bytes();
        forward(&tables, Side::Uplink, old, TUNNEL);
        advance(&tables, tables.settings.timeouts.tcp_transitory);
        tables
    };
    let first = Wire::tcp(at(PC, 20_000), pod, SYN);
    let second = Wire::tcp(at(LAPTOP, 20_000), pod, SYN);
    in_every_order(expired, &first, &second, |tables, one, other| {
        if endpoints(one).0 != endpoints(other).0 {
            return;
        }
        // No lock is worth this: both found the port expired, and the second one's fresh claim went with
        // the old one. It is noticed at the next confirmation, and only one of them keeps the port.
        advance(tables, 8);
        let verdicts = [&first, &second].map(|syn| {
            let ack = Wire::tcp(syn.source, syn.destination, ACK).bytes();
            send(tables, Side::Uplink, ack).0
        });
        assert_eq!(
            verdicts,
            [Verdict::Forward { ifindex: TUNNEL }, Verdict::Reflect]
        );
        only_flow(tables);
    });
}

#[test]
fn two_cpus_that_rebuild_half_a_flow_both_go_on() {
    let (client, pod): (Endpoint, Endpoint) = (at(PC, 20_000), at(POD, 80));
    let halved = || {
        let tables = fixture();
        forward(
            &tables,
            Side::Uplink,
            Wire::tcp(client, pod, SYN).bytes(),
            TUNNEL,
        );
        tables.replies.borrow_mut().clear();
        advance(&tables, 8);
        tables
    };
    let ack = Wire::tcp(client, pod, ACK);
    in_every_order(halved, &ack, &ack, |tables, first, second| {
        assert_eq!(endpoints(first), endpoints(second));
        only_flow(tables);
    });
}

#[test]
fn fragments_that_meet_at_any_moment_all_go_on() {
    let wire = Wire::udp(at(PC, 20_000), at(POD, 53))
        .fragmentable(7)
        .payload([7; 2_000]);
    let whole = wire.fragments(800);
    for (one, other, rest) in [
        (1, 0, 2),
        (0, 1, 2),
        (2, 0, 1),
        (0, 2, 1),
        (1, 2, 0),
        (2, 1, 0),
    ] {
        for uses in 0.. {
            let tables = fixture();
            let mut packet = SimPacket::new(whole[one].clone());
            let raced = Raced::new(&tables, uses, SimPacket::new(whole[other].clone()));
            let verdict = run(&mut packet, &raced, Side::Uplink);
            let Some(others) = raced.others_result.take() else {
                assert!(uses > 1, "there was something to race with");
                break;
            };
            let third = SimPacket::new(whole[rest].clone());
            let mut waiting = VecDeque::from([(verdict, packet), others]);
            let mut arriving = VecDeque::from([third]);
            let mut forwarded = Vec::new();
            loop {
                while let Some((verdict, packet)) = waiting.pop_front() {
                    arriving.extend(packet.requeued.into_iter().map(SimPacket::new));
                    match verdict {
                        Verdict::Held => {}
                        Verdict::Forward { .. } => forwarded.push(packet.bytes),
                        verdict => panic!("{one} and {other} at use {uses}: {verdict:?}"),
                    }
                }
                let Some(mut packet) = arriving.pop_front() else {
                    break;
                };
                waiting.push_back((run(&mut packet, &tables, Side::Uplink), packet));
            }
            assert_eq!(forwarded.len(), 3, "{one} and {other} at use {uses}");
            assert!(tables.held_locks.borrow().is_empty());
        }
    }
}

#[test]
fn a_fragment_that_was_about_to_be_held_is_released_by_its_first() {
    let wire = Wire::udp(at(PC, 20_000), at(POD, 53))
        .fragmentable(7)
        .payload([7; 1_000]);
    let [first, second] = wire.fragments(800).try_into().unwrap();
    for uses in 0.. {
        let tables = fixture();
        let mut raced = Raced::new(&tables, uses, SimPacket::new(second.clone()));
        // It has looked for the ports already.
        raced.others_work = |packet, tables| held::hold(packet, tables).into();
        let mut packet = SimPacket::new(first.clone());
        let verdict = run(&mut packet, &raced, Side::Uplink);
        let Some((others_verdict, others)) = raced.others_result.take() else {
            assert!(uses > 1, "there was something to race with");
            break;
        };
        assert_eq!(others_verdict, Verdict::Held, "at use {uses}");
        assert!(others.requeued.is_empty());
        assert_eq!(verdict, Verdict::Held, "at use {uses}");
        let requeued = [first.clone(), second.clone()];
        assert_eq!(packet.requeued, requeued, "at use {uses}");
    }
}

/// Tables at whose n-th use another CPU handles a packet.
struct Raced<'a> {
    shared: &'a SimTables,
    uses_left: Cell<u32>,
    others_packet: RefCell<Option<SimPacket>>,
    others_work: fn(&mut SimPacket, &SimTables) -> Verdict,
    others_result: RefCell<Option<(Verdict, SimPacket)>>,
}

impl<'a> Raced<'a> {
    fn new(shared: &'a SimTables, uses: u32, other: SimPacket) -> Self {
        Self {
            shared,
            uses_left: Cell::new(uses),
            others_packet: RefCell::new(Some(other)),
            others_work: |packet, tables| run(packet, tables, Side::Uplink),
            others_result: RefCell::default(),
        }
    }

    fn used(&self) -> &SimTables {
        let left = self.uses_left.get();
        self.uses_left.set(left.saturating_sub(1));
        if left == 0
            && let Some(mut packet) = self.others_packet.take()
        {
            let verdict = (self.others_work)(&mut packet, self.shared);
            self.others_result.replace(Some((verdict, packet)));
        }
        self.shared
    }
}

impl Tables for Raced<'_> {
    type FlowSlot = Rc<RefCell<Flow>>;
    type ReplySlot = Rc<RefCell<Reply>>;
    type ClientSlot = Rc<RefCell<Client>>;
    type ClientPortSlot = Rc<RefCell<HeldPorts>>;
    type PartsSlot = Rc<RefCell<FragmentParts>>;
    type HeldSlot = Rc<RefCell<HeldFragment>>;
    type HeldIndexSlot = Rc<RefCell<HeldIndex>>;
    type HeldFoundSlot = Rc<RefCell<HeldFound>>;

    fn now(&self) -> Seconds {
        self.shared.now()
    }
    fn random(&self) -> u32 {
        self.shared.random()
    }
    fn settings(&self) -> Option<&Settings> {
        self.shared.settings()
    }
    fn destination(&self, address: Ipv4) -> Option<DestinationKind> {
        self.shared.destination(address)
    }
    fn is_office(&self, address: Ipv4) -> bool {
        self.shared.is_office(address)
    }
    fn route(&self, address: Ipv4) -> Option<Route> {
        self.shared.route(address)
    }
    fn fast_path(&self) -> Option<&FastPath> {
        self.shared.fast_path()
    }
    fn next_hop(&self, number: u16) -> Option<&NextHop> {
        self.shared.next_hop(number)
    }
    fn cached_hop(&self, index: u32) -> Option<CachedHop> {
        self.shared.cached_hop(index)
    }
    fn set_cached_hop(&self, index: u32, hop: CachedHop) {
        self.shared.set_cached_hop(index, hop);
    }
    fn vtep(&self, number: u32) -> Option<&Vtep> {
        self.shared.vtep(number)
    }
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.shared.service(key)
    }
    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.shared.backend(key)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.used().affinity(key)
    }
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        self.used().set_affinity(key, affinity);
    }
    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity) -> Insertion {
        self.used().insert_affinity(key, affinity)
    }
    fn port_search(&self, pool: &PortPool) -> Option<PortSearch> {
        self.used().port_search(pool)
    }

    fn set_port_search(&self, pool: &PortPool, search: &PortSearch) {
        self.used().set_port_search(pool, search);
    }

    fn nat_port(&self, port: u16) -> Option<NatPort> {
        self.shared.nat_port(port)
    }
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowSlot> {
        self.used().flow(key)
    }
    fn reply(&self, key: &ReplyKey) -> Option<Self::ReplySlot> {
        self.used().reply(key)
    }
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Insertion {
        self.used().insert_flow(key, flow)
    }
    fn insert_reply(&self, key: &ReplyKey, reply: &Reply) -> Insertion {
        self.used().insert_reply(key, reply)
    }
    fn remove_flow(&self, key: &FlowKey) {
        self.used().remove_flow(key);
    }
    fn remove_reply(&self, key: &ReplyKey) {
        self.used().remove_reply(key);
    }
    fn client(&self, address: Ipv4) -> Option<Self::ClientSlot> {
        self.shared.client(address)
    }
    fn insert_client(&self, address: Ipv4, client: &Client) -> Insertion {
        self.shared.insert_client(address, client)
    }
    fn client_port(&self, key: &ClientPort) -> Option<Self::ClientPortSlot> {
        self.shared.client_port(key)
    }
    fn insert_client_port(&self, key: &ClientPort, held: HeldPorts) {
        self.shared.insert_client_port(key, held);
    }
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.used().fragment(key)
    }
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.used().insert_fragment(key, fragment);
    }
    fn remove_fragment(&self, key: &FragmentKey) {
        self.used().remove_fragment(key);
    }
    fn fragment_parts(&self, key: &FragmentKey) -> Option<Self::PartsSlot> {
        self.used().fragment_parts(key)
    }
    fn insert_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) -> Insertion {
        self.used().insert_fragment_parts(key, parts)
    }
    fn set_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) {
        self.used().set_fragment_parts(key, parts);
    }
    fn remove_fragment_parts(&self, key: &FragmentKey) {
        self.used().remove_fragment_parts(key);
    }
    fn held_index(&self) -> Option<Self::HeldIndexSlot> {
        self.used().held_index()
    }
    fn held_found(&self) -> Option<Self::HeldFoundSlot> {
        self.used().held_found()
    }
    fn list_held(&self, found: &Self::HeldFoundSlot, slot: u32) {
        self.shared.list_held(found, slot);
    }
    fn held_fragment(&self, number: u32) -> Option<Self::HeldSlot> {
        self.used().held_fragment(number)
    }
    fn lock_held(&self, number: u32) -> bool {
        self.used().lock_held(number)
    }
    fn unlock_held(&self, number: u32) {
        self.used().unlock_held(number);
    }
    fn count(&self, count: Count, packets: u32, bytes: u32) {
        self.shared.count(count, packets, bytes);
    }
    fn count_other_source(&self, source: Ipv4) {
        self.shared.count_other_source(source);
    }
    fn take_answer_token(&self) -> bool {
        self.shared.take_answer_token()
    }
    fn event(&self, event: &Event) {
        self.shared.event(event);
    }
}

/// Handles `first`, and `second` on another CPU, in every order of the first one's table operations.
/// Gives to `check` the tables and both packets as they were forwarded.
fn in_every_order(
    prepare: impl Fn() -> SimTables,
    first: &Wire,
    second: &Wire,
    check: impl Fn(&SimTables, &[u8], &[u8]),
) {
    for uses in 0.. {
        let tables = prepare();
        let raced = Raced::new(&tables, uses, second.packet());
        let mut packet = first.packet();
        let verdict = run(&mut packet, &raced, Side::Uplink);
        let Some((others_verdict, others_packet)) = raced.others_result.take() else {
            assert!(uses > 1, "there was something to race with");
            return;
        };
        let forwarded = Verdict::Forward { ifindex: TUNNEL };
        assert_eq!(verdict, forwarded, "first, raced at use {uses}");
        assert_eq!(others_verdict, forwarded, "second, raced at use {uses}");
        check(&tables, &packet.bytes, &others_packet.bytes);
    }
}
