//! The fast path: what it sends on is what the TC path would have sent, and what it can't finish is left as it was.

use crate::fixture::{
    DNS, EMPTY, LAPTOP, LOCAL_POD, MTU, MYSQL, NAT, NIC, NODE, OFFICE_ROUTER, OUTSIDER, PC, POD,
    ROUTED_POD, TUNNEL_MTU, UPLINK, advance, fixture, only_flow, send,
};
use crate::packets::{Wire, assert_header_is_sound, assert_sound, at, endpoints, icmp_error};
use bridge_common::abi::{FastPath, Ipv4, Layer, Mac, NextHop, Tunnel, Vtep, XdpPort};
use bridge_common::counters::Count;
use bridge_common::packet::parse::UDP;
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::path::xdp::{Step, handle};
use bridge_common::sim::{SimFrame, SimTables};
use etherparse::{Ethernet2Slice, Ipv4Header, Ipv4HeaderSlice, UdpHeaderSlice};
use proptest::prelude::*;

const UPLINK_MAC: Mac = [2, 0, 0, 0, 0, 2];
const NIC_MAC: Mac = [2, 0, 0, 0, 0, 7];
const ROUTER_MAC: Mac = [2, 0, 0, 0, 1, 1];
const WORKER_MAC: Mac = [2, 0, 0, 0, 1, 2];
const VXLAN_MAC: Mac = [2, 0, 0, 0, 0, 5];
const REMOTE_VXLAN_MAC: Mac = [2, 0, 0, 0, 1, 5];
const REMOTE: Ipv4 = [10, 60, 20, 31];
const VNI: u32 = 0x01_02_03;
const VXLAN_PORT: u16 = 8472;

/// Numbers of next hops.
const TO_ROUTER: u16 = 1;
const TO_TUNNEL: u16 = 2;
const TO_WORKER: u16 = 3;
const TO_NIC: Step = Step::Redirect { ifindex: NIC };
const TO_UPLINK: Step = Step::Redirect { ifindex: UPLINK };
const CLIENT: Endpoint = at(PC, 40_000);

#[test]
fn a_request_leaves_as_the_tc_path_would_send_it() {
    let (fast, slow) = (fast_world(), fast_world());
    for flags in [SYN, ACK, ACK | FIN] {
        let wire = Wire::tcp(CLIENT, at(ROUTED_POD, 80), flags).payload(b"hello");
        let (_, expected) = send(&slow, Side::Uplink, wire.bytes());
        let result = run(&fast, frame(UPLINK, &wire.bytes()));
        let packet = sent(&result, TO_NIC, WORKER_MAC, NIC_MAC);
        assert_eq!(packet, expected);
        assert_sound(&packet);
    }
    let (key, flow, _) = only_flow(&fast);
    assert_eq!((key, flow.backend), (only_flow(&slow).0, ROUTED_POD));
    assert_eq!((flow.packets, flow.layer), (3, Layer::Tc as u8));
    assert_eq!(flow.bytes(), only_flow(&slow).1.bytes());
    let counters = fast.counters.borrow();
    assert_eq!(counters.get(&Count::XdpToBackend.index()), Some(&3));
    assert_eq!(counters.get(&Count::ToBackend.index()), None);
}

#[test]
fn a_request_to_a_service_behind_the_tunnel_is_encapsulated() {
    let (fast, slow) = (fast_world(), fast_world());
    for wire in [
        Wire::udp(CLIENT, DNS).payload(b"query"),
        Wire::tcp(CLIENT, MYSQL, SYN),
        Wire::ping(PC, POD, 7),
    ] {
        let (_, expected) = send(&slow, Side::Uplink, wire.bytes());
        let inner = out_of_tunnel(&run(&fast, frame(UPLINK, &wire.bytes())));
        assert_eq!(inner, expected);
        assert_sound(&inner);
    }
}

#[test]
fn packets_of_a_flow_leave_by_one_source_port_and_flows_by_many() {
    let tables = fast_world();
    let port = |client, payload: &[u8]| {
        let wire = Wire::udp(at(PC, client), DNS).payload(payload);
        let (_, bytes) = run(&tables, frame(UPLINK, &wire.bytes()));
        u16::from_be_bytes([bytes[34], bytes[35]])
    };
    assert_eq!(port(40_000, b"a"), port(40_000, b"bcd"));
    let ports: std::collections::BTreeSet<u16> =
        (40_000..40_100).map(|client| port(client, b"")).collect();
    assert!(ports.len() > 95, "{}", ports.len());
}

#[test]
fn what_pads_a_short_frame_goes_along() {
    let tables = fast_world();
    let mut short = frame(UPLINK, &Wire::udp(CLIENT, DNS).payload([]).bytes());
    short.bytes.resize(60, 0);
    let inner = out_of_tunnel(&run(&tables, short));
    assert_eq!(inner.len(), 46);
    assert_sound(&inner[..28]);
}

#[test]
fn congestion_marks_go_into_the_tunnel_and_stay_out_of_the_way_back() {
    let tables = fast_world();
    let outer_tos = |inner_tos: u8| {
        let mut bytes = Wire::udp(CLIENT, DNS).bytes();
        bytes[1] = inner_tos;
        run(&tables, frame(UPLINK, &with_header_checksum(bytes))).1[15]
    };
    assert_eq!(outer_tos(0xB8), 0);
    assert_eq!(outer_tos(0xB9), 1);
    assert_eq!(outer_tos(0xBB), 2, "INET_ECN_encapsulate hides CE");
}

#[test]
fn a_native_reply_goes_home() {
    let (fast, slow) = (fast_world(), fast_world());
    let request = Wire::tcp(CLIENT, at(ROUTED_POD, 80), SYN);
    run(&fast, frame(UPLINK, &request.bytes()));
    send(&slow, Side::Uplink, request.bytes());
    let (backend, nat) = answer_to_only_flow(&fast);
    for flags in [SYN | ACK, ACK] {
        let wire = Wire::tcp(backend, nat, flags);
        let (_, expected) = send(&slow, Side::Cluster, wire.bytes());
        let result = run(&fast, frame(NIC, &wire.bytes()));
        let packet = sent(&result, TO_UPLINK, ROUTER_MAC, UPLINK_MAC);
        assert_eq!(packet, expected);
        assert_eq!(endpoints(&packet), (at(ROUTED_POD, 80), CLIENT));
    }
    let (_, _, reply) = only_flow(&fast);
    assert_eq!(reply.packets, 2);
}

#[test]
fn a_reply_by_the_uplink_goes_back_by_it() {
    let mut tables = fast_world();
    let request = Wire::udp(CLIENT, at(ROUTED_POD, 53));
    tables.next_hops[usize::from(TO_WORKER)].ifindex = UPLINK;
    let result = run(&tables, frame(UPLINK, &request.bytes()));
    assert_eq!(result.0, Step::Reflect);
    let (backend, nat) = answer_to_only_flow(&tables);
    let result = run(&tables, frame(UPLINK, &Wire::udp(backend, nat).bytes()));
    sent(&result, Step::Reflect, ROUTER_MAC, UPLINK_MAC);
}

#[test]
fn a_reply_out_of_the_tunnel_is_decapsulated() {
    let (fast, slow) = (fast_world(), fast_world());
    let request = Wire::udp(CLIENT, DNS);
    run(&fast, frame(UPLINK, &request.bytes()));
    send(&slow, Side::Uplink, request.bytes());
    let (backend, nat) = answer_to_only_flow(&fast);
    assert_eq!(nat.address, NAT);
    let wire = Wire::udp(backend, nat).payload(b"answer");
    let (_, expected) = send(&slow, Side::Cluster, wire.bytes());
    let result = run(&fast, frame(NIC, &tunnelled(&wire.bytes())));
    let packet = sent(&result, TO_UPLINK, ROUTER_MAC, UPLINK_MAC);
    assert_eq!(packet, expected);
    assert_sound(&packet);
}

#[test]
fn other_packets_of_the_tunnel_are_left_alone() {
    let tables = fast_world();
    run(&tables, frame(UPLINK, &Wire::udp(CLIENT, DNS).bytes()));
    let (backend, nat) = answer_to_only_flow(&tables);
    let reply = Wire::udp(backend, nat).bytes();
    let good = tunnelled(&reply);
    let change = |at: usize, by: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= by;
        with_header_checksum(bytes)
    };
    for (what, bytes) in [
        (
            "a wrong outer checksum",
            [&good[..10], &[0, 0], &good[12..]].concat(),
        ),
        ("a wrong outer length", change(25, 1)),
        ("reserved bits before the VNI", change(31, 1)),
        ("reserved bits behind the VNI", change(35, 1)),
        ("bytes behind it", [&good[..], &[0; 4]].concat()),
        ("another node's", change(19, 1)),
        ("another port", change(23, 1)),
        ("no VNI", change(28, 8)),
        ("extensions", change(28, 0x80)),
        ("another VNI", change(34, 1)),
        ("another inner station", change(41, 1)),
        ("no IPv4 inside", change(48, 0x80)),
        ("congestion met", change(1, 3)),
        (
            "a pod's own",
            tunnelled(&Wire::udp(backend, at(OUTSIDER, 53)).bytes()),
        ),
        (
            "no flow",
            tunnelled(&Wire::udp(backend, at(NAT, nat.port ^ 1)).bytes()),
        ),
        (
            "an error",
            tunnelled(&icmp_error(POD, NAT, [3, 3], [0; 4], &reply)),
        ),
        ("cut short", good[..60].to_vec()),
        ("an outer packet that ends inside", change(3, 0x40)),
    ] {
        println!("{what}");
        left_alone(&tables, frame(NIC, &bytes));
    }
    let (step, _) = run(&tables, frame(NIC, &good));
    assert_eq!(step, TO_UPLINK);
}

#[test]
fn what_needs_more_than_translation_is_left_to_tc() {
    let tables = fast_world();
    let to = at(ROUTED_POD, 80);
    run(&tables, frame(UPLINK, &Wire::udp(CLIENT, to).bytes()));
    let udp = || Wire::udp(CLIENT, to);
    let large = udp().payload(vec![7; 1480]);
    for wire in [
        udp().ttl(1),
        udp().ip_options(&[1, 1, 1, 1]),
        large,
        Wire::udp(CLIENT, at(LOCAL_POD, 80)),
        Wire::tcp(CLIENT, EMPTY, SYN),
        Wire::tcp(CLIENT, at(ROUTED_POD, 81), ACK),
        Wire::udp(at(OUTSIDER, 1), to),
        Wire::udp(CLIENT, at(OUTSIDER, 53)),
    ] {
        left_alone(&tables, frame(UPLINK, &wire.bytes()));
    }
    let whole = Wire::udp(CLIENT, to).payload([7; 64]).fragmentable(9);
    for fragment in whole.fragments(32) {
        left_alone(&tables, frame(UPLINK, &fragment));
    }
    let error = icmp_error(
        OFFICE_ROUTER,
        ROUTED_POD,
        [3, 4],
        [0, 0, 5, 0],
        &udp().bytes(),
    );
    left_alone(&tables, frame(UPLINK, &error));
}

#[test]
fn frames_that_are_not_for_this_node_are_left_alone() {
    let tables = fast_world();
    let packet = Wire::udp(CLIENT, at(ROUTED_POD, 80)).bytes();
    let change = |at: usize, by: u8| {
        let mut frame = frame(UPLINK, &packet);
        frame.bytes[at] ^= by;
        frame
    };
    left_alone(&tables, change(5, 1));
    left_alone(&tables, change(12, 0x80));
    left_alone(&tables, frame(NIC, &packet));
    let mut elsewhere = frame(UPLINK, &packet);
    elsewhere.ingress = 99;
    left_alone(&tables, elsewhere);
    let mut runt = frame(UPLINK, &packet);
    for len in 0..runt.bytes.len() {
        runt.bytes.truncate(len);
        left_alone(&tables, runt);
        runt = frame(UPLINK, &packet);
    }
}

#[test]
fn a_frame_without_headroom_is_left_to_tc() {
    let tables = fast_world();
    let mut tight = frame(UPLINK, &Wire::udp(CLIENT, DNS).bytes());
    tight.headroom = 49;
    left_alone(&tables, tight);
}

#[test]
fn without_a_next_hop_the_flow_is_tcs() {
    let tables = fast_world();
    let wire = Wire::udp(CLIENT, at(LOCAL_POD, 53));
    left_alone(&tables, frame(UPLINK, &wire.bytes()));
    let (_, flow, _) = only_flow(&tables);
    assert_eq!(flow.packets, 0);
}

#[test]
fn a_next_hop_counts_in_its_epoch_only() {
    let mut tables = fast_world();
    let wire = Wire::udp(CLIENT, at(ROUTED_POD, 80));
    let send = |tables: &SimTables| run(tables, frame(UPLINK, &wire.bytes()));
    sent(&send(&tables), TO_NIC, WORKER_MAC, NIC_MAC);

    // The pod network moves behind the tunnel.
    for (network, _, route) in &mut tables.routes {
        if *network == [10, 244, 2, 0] {
            route.next_hop = TO_TUNNEL;
        }
    }
    sent(&send(&tables), TO_NIC, WORKER_MAC, NIC_MAC);
    tables.fast_path.epoch += 1;
    out_of_tunnel(&send(&tables));

    tables.next_hops[usize::from(TO_TUNNEL)] = NextHop::default();
    left_alone(&tables, frame(UPLINK, &wire.bytes()));
}

#[test]
fn next_hops_that_nobody_mirrors_any_more_are_not_believed() {
    let mut tables = fast_world();
    tables.fast_path.valid_until = tables.clock.get() + 3;
    let request = frame(UPLINK, &Wire::udp(CLIENT, DNS).bytes());
    out_of_tunnel(&run(&tables, request.clone()));
    let (backend, nat) = answer_to_only_flow(&tables);
    let reply = frame(NIC, &tunnelled(&Wire::udp(backend, nat).bytes()));
    advance(&tables, 3);
    out_of_tunnel(&run(&tables, request.clone()));
    assert_eq!(run(&tables, reply.clone()).0, TO_UPLINK);
    advance(&tables, 1);
    left_alone(&tables, request);
    left_alone(&tables, reply);
}

#[test]
fn a_silent_flow_is_looked_at_by_tc_first() {
    let tables = fast_world();
    run(&tables, frame(UPLINK, &Wire::udp(CLIENT, DNS).bytes()));
    let (backend, nat) = answer_to_only_flow(&tables);
    let reply = tunnelled(&Wire::udp(backend, nat).bytes());
    advance(&tables, 8);
    left_alone(&tables, frame(NIC, &reply));
    send(&tables, Side::Cluster, Wire::udp(backend, nat).bytes());
    assert_eq!(run(&tables, frame(NIC, &reply)).0, TO_UPLINK);
}

#[test]
fn full_counters_of_replies_are_poured_into_the_flows() {
    let tables = fast_world();
    run(&tables, frame(UPLINK, &Wire::udp(CLIENT, DNS).bytes()));
    let (backend, nat) = answer_to_only_flow(&tables);
    let wire = Wire::udp(backend, nat).payload(vec![1; 1_000]);
    let reply = tunnelled(&wire.bytes());
    let count = 70_000;
    for _ in 0..count {
        assert_eq!(run(&tables, frame(NIC, &reply)).0, TO_UPLINK);
    }
    let (_, flow, reply) = only_flow(&tables);
    assert_eq!(flow.packets + u32::from(reply.packets), 1 + count);
    assert!(reply.packets > 0, "an answered flow stays one");
    let len = u64::try_from(wire.bytes().len()).unwrap();
    let request = u64::try_from(Wire::udp(CLIENT, DNS).bytes().len()).unwrap();
    assert_eq!(
        flow.bytes() + u64::from(reply.bytes),
        request + u64::from(count) * len
    );
}

#[test]
fn more_destinations_than_fit_are_looked_up() {
    use bridge_common::abi::{Destination, DestinationKind};
    let mut tables = fast_world();
    let wire = Wire::udp(CLIENT, at(ROUTED_POD, 80));
    let destination = |network, mask, kind: DestinationKind| Destination {
        network,
        mask,
        kind: kind as u32,
    };
    tables.fast_path.destinations[0] = destination(NODE, [255; 4], DestinationKind::Nat);
    left_alone(&tables, frame(UPLINK, &wire.bytes()));
    tables.fast_path.destinations[1] =
        destination([10, 244, 0, 0], [255, 255, 0, 0], DestinationKind::Pod);
    let (step, _) = run(&tables, frame(UPLINK, &wire.bytes()));
    assert_eq!(step, TO_NIC);
}

proptest! {
    #[test]
    fn whatever_bytes_come_in_are_sent_as_tc_would_or_left_alone(
        noise in proptest::collection::vec((0..80_usize, any::<u8>()), 0..4),
        tcp in any::<bool>(),
        flags in any::<u8>(),
        client in prop_oneof![Just(PC), Just(LAPTOP), Just(OUTSIDER)],
        destination in prop_oneof![
            Just(at(ROUTED_POD, 80)), Just(at(POD, 80)), Just(MYSQL), Just(DNS), Just(at(LOCAL_POD, 1)),
        ],
        inside in any::<bool>(),
    ) {
        let (fast, slow) = (fast_world(), fast_world());
        let client = at(client, 40_000);
        let wire = if tcp { Wire::tcp(client, destination, flags) } else { Wire::udp(client, destination) };
        let mut bytes = wire.bytes();
        if inside {
            bytes = tunnelled(&bytes);
        }
        for (at, value) in noise {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let ingress = if inside { NIC } else { UPLINK };
        let before = frame(ingress, &bytes);
        let (step, after) = run(&fast, before.clone());
        match step {
            Step::Pass => prop_assert_eq!(after, before.bytes),
            TO_NIC => {
                let (_, expected) = send(&slow, Side::Uplink, bytes);
                let at = after.len() - expected.len();
                prop_assert!(at == 14 || at == 64);
                prop_assert_eq!(&after[at..], &expected[..]);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

/// The fixture with next hops by its uplink and its other NIC.
fn fast_world() -> SimTables {
    let mut tables = fixture();
    for (network, prefix, route) in &mut tables.routes {
        route.next_hop = match (*network, *prefix) {
            ([192, 168, 0, 0], 22) => TO_ROUTER,
            ([10, 244, 1, 0], 24) => TO_TUNNEL,
            ([10, 244, 2, 0], 24) => TO_WORKER,
            _ => 0,
        };
    }
    let hop = |ifindex, vtep, mtu, destination, source| NextHop {
        ifindex,
        vtep,
        mtu,
        destination,
        source,
    };
    tables.next_hops = vec![
        NextHop::default(),
        hop(UPLINK, 0, MTU, ROUTER_MAC, UPLINK_MAC),
        hop(NIC, 1, TUNNEL_MTU, WORKER_MAC, NIC_MAC),
        hop(NIC, 0, MTU, WORKER_MAC, NIC_MAC),
    ];
    tables.vteps = vec![
        Vtep::default(),
        Vtep {
            remote: REMOTE,
            local: NODE,
            vni: VNI,
            port: VXLAN_PORT,
            source_port_min: 32_768,
            source_port_count: 28_232,
            ttl: 63,
            tos: 0,
            inner_destination: REMOTE_VXLAN_MAC,
            inner_source: VXLAN_MAC,
        },
    ];
    let mut fast = FastPath {
        epoch: 7,
        valid_until: 2_000,
        ..FastPath::default()
    };
    fast.ports[0] = XdpPort {
        ifindex: UPLINK,
        mac: UPLINK_MAC,
        is_uplink: 1,
        pad: 0,
    };
    fast.ports[1] = XdpPort {
        ifindex: NIC,
        mac: NIC_MAC,
        is_uplink: 0,
        pad: 0,
    };
    fast.tunnels[0] = Tunnel {
        local: NODE,
        vni: VNI,
        port: VXLAN_PORT,
        mac: VXLAN_MAC,
    };
    tables.fast_path = fast;
    tables
}

fn frame(ingress: u32, packet: &[u8]) -> SimFrame {
    let mac = if ingress == UPLINK {
        UPLINK_MAC
    } else {
        NIC_MAC
    };
    let header = [&mac[..], &ROUTER_MAC, &[8, 0]].concat();
    SimFrame::new(ingress, [&header, packet].concat())
}

/// What the other end of the tunnel sends for an inner packet.
fn tunnelled(packet: &[u8]) -> Vec<u8> {
    let inner = [&VXLAN_MAC[..], &REMOTE_VXLAN_MAC, &[8, 0], packet].concat();
    let vxlan = [&[8, 0, 0, 0, 1, 2, 3, 0][..], &inner].concat();
    Wire::udp(at(REMOTE, 50_000), at(NODE, VXLAN_PORT))
        .payload(vxlan)
        .bytes()
}

/// The packet with the checksum that its header should have.
fn with_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let (header, _) = Ipv4Header::from_slice(&packet).unwrap();
    packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    packet
}

fn run(tables: &SimTables, mut frame: SimFrame) -> (Step, Vec<u8>) {
    let step = handle(&mut frame, tables);
    (step, frame.bytes)
}

#[track_caller]
fn left_alone(tables: &SimTables, frame: SimFrame) {
    let before = frame.bytes.clone();
    let (step, after) = run(tables, frame);
    assert_eq!(step, Step::Pass);
    assert_eq!(after, before, "what is left to TC is not written to");
}

/// The packet in a frame that must have been sent by `step` to `destination` from `source`.
#[track_caller]
fn sent(result: &(Step, Vec<u8>), step: Step, destination: Mac, source: Mac) -> Vec<u8> {
    assert_eq!(result.0, step);
    let ethernet = Ethernet2Slice::from_slice_without_fcs(&result.1).unwrap();
    assert_eq!(ethernet.destination(), destination);
    assert_eq!(ethernet.source(), source);
    assert_eq!(u16::from(ethernet.ether_type()), 0x0800);
    result.1[14..].to_vec()
}

/// The packet in a tunnel's frame; checks everything in front of it.
#[track_caller]
fn out_of_tunnel(result: &(Step, Vec<u8>)) -> Vec<u8> {
    let outer = sent(result, TO_NIC, WORKER_MAC, NIC_MAC);
    assert_header_is_sound(&outer);
    let ip = Ipv4HeaderSlice::from_slice(&outer).unwrap();
    assert_eq!((ip.source(), ip.destination()), (NODE, REMOTE));
    assert_eq!((ip.ttl(), ip.protocol().0), (63, UDP));
    assert_eq!(usize::from(ip.total_len()), outer.len());
    let udp = UdpHeaderSlice::from_slice(&outer[20..]).unwrap();
    assert_eq!(udp.destination_port(), VXLAN_PORT);
    assert!((32_768..61_000).contains(&udp.source_port()));
    assert_eq!(usize::from(udp.length()), outer.len() - 20);
    assert_eq!(udp.checksum(), 0);
    assert_eq!(outer[28..36], [8, 0, 0, 0, 1, 2, 3, 0]);
    assert_eq!(
        outer[36..50],
        [&REMOTE_VXLAN_MAC[..], &VXLAN_MAC, &[8, 0]].concat()
    );
    outer[50..].to_vec()
}

/// The NAT endpoint and backend of the only flow, as the backend answers it.
fn answer_to_only_flow(tables: &SimTables) -> (Endpoint, Endpoint) {
    let (_, flow, _) = only_flow(tables);
    (
        at(flow.backend, flow.backend_port),
        at(flow.nat, flow.nat_port),
    )
}
