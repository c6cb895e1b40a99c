//! The stack path: what the kernel routes, around netfilter.

use crate::fixture::{
    DNS, EMPTY, LAPTOP, MYSQL, NAT, OFFICE_ROUTER, OUTSIDER, PC, POD, ROUTED_POD, VIP, WORKER,
    advance, depart, fixture, flow_key, flows, only_flow, pass, replies, send, to_stack,
};
use crate::packets::{
    Wire, addresses, assert_header_is_sound, assert_sound, at, endpoints, header_len, icmp_error,
    icmp_kind, identifier, ip_packet, quote, reassemble,
};
use bridge_common::abi::{Ipv4, Layer};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};
use bridge_common::packet::parse::{SCTP, TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::verdict::Verdict;

/// `IPPROTO_UDPLITE` (linux/in.h).
const UDP_LITE: u8 = 136;

/// For experimentation (RFC 3692 section 2.1).
const EXPERIMENTAL: u8 = 253;

/// An address that no service has.
const NOBODY: Endpoint = at([10, 96, 99, 99], 80);

/// A port that no service has, at an address that one has.
const NO_PORT: Endpoint = at(VIP, 9999);

#[test]
fn the_source_is_translated_on_the_way_out_and_back_on_the_way_in() {
    for tables in [fixture(), stack_only()] {
        let (client, pod) = (at(PC, 20_000), at(POD, 3306));
        let syn = Wire::tcp(client, pod, SYN).ttl(7);
        let out = departs(&tables, syn.bytes());
        assert_eq!(endpoints(&out), (at(NAT, 20_000), pod));
        assert_eq!(out[8], 7, "the kernel has counted the TTL down");
        let (key, flow, reply) = only_flow(&tables);
        assert_eq!(key, flow_key(TCP, client, pod));
        assert_eq!(
            [flow.layer, reply.layer()],
            [Layer::Stack as u8; 2],
            "both entries name the layer"
        );
        let back = Wire::tcp(pod, at(NAT, 20_000), SYN | ACK).ttl(1).bytes();
        let back = arrives(&tables, back);
        assert_eq!(endpoints(&back), (pod, client));
        assert_eq!(back[8], 1, "the kernel counts the TTL down");
        assert_eq!(tables.counted(Count::ToBackend), 1);
        assert_eq!(tables.counted(Count::ToClient), 1);
    }
}

#[test]
fn two_clients_on_one_port_get_two() {
    let tables = fixture();
    let pod = at(POD, 53);
    let one = departs(&tables, Wire::udp(at(PC, 20_000), pod).bytes());
    let other = departs(&tables, Wire::udp(at(LAPTOP, 20_000), pod).bytes());
    assert_ne!(endpoints(&one).0, endpoints(&other).0);
    let back = arrives(&tables, Wire::udp(pod, endpoints(&other).0).bytes());
    assert_eq!(endpoints(&back), (pod, at(LAPTOP, 20_000)));
}

#[test]
fn what_netfilter_has_masqueraded_is_left_alone() {
    let tables = fixture();
    leaves_untouched(
        &tables,
        Wire::tcp(at(NAT, 40_000), at(POD, 80), SYN).bytes(),
    );
    pass(
        &tables,
        Side::Cluster,
        Wire::tcp(at(POD, 80), at(NAT, 40_000), SYN | ACK).bytes(),
    );
    assert!(flows(&tables).is_empty());
}

#[test]
fn what_is_not_from_the_office_to_a_pod_is_left_alone() {
    let tables = fixture();
    for (source, destination) in [(PC, OUTSIDER), (OUTSIDER, POD), (POD, PC), (PC, VIP)] {
        leaves_untouched(
            &tables,
            Wire::udp(at(source, 5), at(destination, 6)).bytes(),
        );
        leaves_untouched(&tables, Wire::ping(source, destination, 7).bytes());
    }
    assert!(flows(&tables).is_empty());
}

#[test]
fn pings_are_told_apart_by_their_identifiers() {
    let tables = fixture();
    let one = departs(&tables, Wire::ping(PC, POD, 1).bytes());
    let other = departs(&tables, Wire::ping(LAPTOP, POD, 1).bytes());
    assert_ne!(identifier(&one), identifier(&other));
    let back = arrives(&tables, Wire::pong(POD, NAT, identifier(&other)).bytes());
    assert_eq!(addresses(&back), (POD, LAPTOP));
    assert_eq!(identifier(&back), 1);
}

#[test]
fn a_protocol_without_ports_is_translated_by_its_addresses() {
    let tables = fixture();
    let payload = [9; 40];
    let (verdict, out) = depart(&tables, portless(SCTP, PC, POD, &payload));
    assert_eq!((verdict, addresses(&out)), (Verdict::Continue, (NAT, POD)));
    assert_header_is_sound(&out);
    assert_eq!(out[20..], payload);
    let answer = portless(SCTP, POD, NAT, &payload);
    let (verdict, back) = send(&tables, Side::Cluster, answer);
    assert_eq!((verdict, addresses(&back)), (Verdict::Continue, (POD, PC)));
    assert_header_is_sound(&back);
    let error = icmp_error(WORKER, NAT, [3, 4], [0, 0, 5, 0], &out);
    let (verdict, error) = send(&tables, Side::Cluster, error);
    assert_eq!(
        (verdict, addresses(&error)),
        (Verdict::Continue, (WORKER, PC))
    );
    assert_sound(&error);
    assert_eq!(quote(&error), portless(SCTP, PC, POD, &payload));
    // There is nothing to tell a second client by.
    let (verdict, _) = depart(&tables, portless(SCTP, LAPTOP, POD, &payload));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoNatPort));
    let (verdict, _) = depart(&tables, portless(SCTP, LAPTOP, ROUTED_POD, &payload));
    assert_eq!(verdict, Verdict::Continue);
    // Its checksum covers the addresses, at a place that is not known here.
    leaves_untouched(&tables, portless(UDP_LITE, PC, POD, &payload));
}

#[test]
fn fragments_follow_their_first_in_both_directions() {
    let tables = fixture();
    let (client, pod) = (at(PC, 20_000), at(POD, 53));
    let big = Wire::udp(client, pod).fragmentable(7).payload([1; 3000]);
    let out: Vec<Vec<u8>> = big
        .fragments(1480)
        .into_iter()
        .map(|fragment| depart(&tables, fragment))
        .map(|(verdict, bytes)| {
            assert_eq!(verdict, Verdict::Continue);
            bytes
        })
        .collect();
    let whole = reassemble(&out);
    assert_sound(&whole);
    assert_eq!(endpoints(&whole), (at(NAT, 20_000), pod));
    let answer = Wire::udp(pod, at(NAT, 20_000))
        .fragmentable(8)
        .payload([2; 3000]);
    let back: Vec<Vec<u8>> = answer
        .fragments(1480)
        .into_iter()
        .map(|fragment| send(&tables, Side::Cluster, fragment).1)
        .collect();
    let whole = reassemble(&back);
    assert_sound(&whole);
    assert_eq!(endpoints(&whole), (pod, client));
}

#[test]
fn errors_are_translated_where_their_flow_is() {
    let tables = fixture();
    let (client, pod) = (at(PC, 20_000), at(POD, 53));
    let out = departs(&tables, Wire::udp(client, pod).bytes());
    // A router behind the tunnel complains about what the client sent.
    let error = icmp_error(WORKER, NAT, [3, 4], [0, 0, 5, 0], &out);
    let error = arrives(&tables, error);
    assert_eq!(addresses(&error), (WORKER, PC));
    assert_eq!(endpoints(quote(&error)), (client, pod));
    // The client complains about what the pod sent: up to the kernel as it is, translated where it leaves.
    let answer = Wire::udp(pod, client).bytes();
    for source in [PC, OFFICE_ROUTER] {
        let error = icmp_error(source, POD, [3, 3], [0; 4], &answer);
        to_stack(&tables, error.clone());
        let error = departs(&tables, error);
        assert_eq!(addresses(&error), (NAT, POD));
        assert_eq!(endpoints(quote(&error)), (pod, at(NAT, 20_000)));
    }
    let stranger = Wire::udp(at(POD, 54), client).bytes();
    leaves_untouched(&tables, icmp_error(PC, POD, [3, 3], [0; 4], &stranger));
}

#[test]
fn the_rest_of_a_connection_that_is_no_more_is_reset() {
    let tables = fixture();
    let (client, pod) = (at(PC, 20_000), at(POD, 80));
    let (verdict, bytes) = depart(&tables, Wire::tcp(client, pod, ACK | FIN).bytes());
    assert_eq!(verdict, Verdict::Reflect);
    assert_sound(&bytes);
    assert_eq!(endpoints(&bytes), (pod, client));
    assert_eq!(bytes[header_len(&bytes) + 13] & RST, RST);
    let (verdict, _) = depart(&tables, Wire::tcp(client, pod, RST).bytes());
    assert_eq!(verdict, Verdict::Drop(DropReason::NoFlow));
    assert!(flows(&tables).is_empty());
}

#[test]
fn the_answers_to_a_pods_own_connection_leave_as_they_are() {
    let tables = fixture();
    let (pod, client) = (at(POD, 40_000), at(PC, 8080));
    pass(&tables, Side::Cluster, Wire::tcp(pod, client, SYN).bytes());
    leaves_untouched(&tables, Wire::tcp(client, pod, SYN | ACK).bytes());
    leaves_untouched(&tables, Wire::tcp(client, pod, ACK).bytes());
    leaves_untouched(&tables, Wire::pong(PC, POD, 9).bytes());
    // Even where the pod's own packets took another way.
    let other = at(POD, 40_001);
    leaves_untouched(&tables, Wire::tcp(client, other, SYN | ACK).bytes());
    leaves_untouched(&tables, Wire::tcp(client, other, ACK).bytes());
}

#[test]
fn with_the_stack_path_alone_the_uplink_leaves_everything_to_the_kernel() {
    let tables = stack_only();
    let (client, pod) = (at(PC, 20_000), at(POD, 80));
    to_stack(&tables, Wire::tcp(client, pod, SYN).bytes());
    to_stack(&tables, Wire::tcp(client, pod, ACK).bytes());
    to_stack(&tables, Wire::udp(client, pod).bytes());
    to_stack(&tables, Wire::ping(PC, POD, 1).bytes());
    let big = Wire::udp(client, at(POD, 53))
        .fragmentable(7)
        .payload([0; 3000]);
    for fragment in big.fragments(1480) {
        to_stack(&tables, fragment);
    }
    assert!(flows(&tables).is_empty());
}

#[test]
fn what_no_service_serves_is_refused_on_the_stack_path_too() {
    let tables = informed();
    let client = at(PC, 20_000);
    let answer = |wire: &Wire| {
        let (verdict, bytes) = send(&tables, Side::Uplink, wire.bytes());
        assert_eq!(verdict, Verdict::Reflect);
        assert_sound(&bytes);
        assert_eq!(addresses(&bytes).1, PC);
        bytes
    };
    for nobody in [NOBODY, NO_PORT] {
        for flags in [SYN, ACK] {
            let reset = answer(&Wire::tcp(client, nobody, flags));
            assert_eq!(endpoints(&reset), (nobody, client));
            assert_eq!(reset[header_len(&reset) + 13] & RST, RST);
        }
        let error = answer(&Wire::udp(client, nobody));
        assert_eq!(icmp_kind(&error), [3, 3]);
    }
    let error = answer(&Wire::ping(PC, NOBODY.address, 1));
    assert_eq!(icmp_kind(&error), [3, 1]);
    assert_eq!(tables.counted(Count::Drop(DropReason::NoService)), 5);
    assert_eq!(tables.counted(Count::Drop(DropReason::NoFlow)), 2);

    let reset = Wire::tcp(client, NOBODY, RST).bytes();
    dropped(&tables, reset, DropReason::NoFlow);
    let received = Wire::udp(NOBODY, client).bytes();
    let error = icmp_error(PC, NOBODY.address, [3, 3], [0; 4], &received);
    dropped(&tables, error, DropReason::IcmpUnmatched);
    let strange = portless(EXPERIMENTAL, PC, NOBODY.address, &[1; 40]);
    dropped(&tables, strange, DropReason::UnsupportedProtocol);
    assert!(flows(&tables).is_empty());
}

#[test]
fn no_fragment_to_what_no_service_serves_goes_on() {
    for (identification, nobody) in (7..).zip([NOBODY, NO_PORT]) {
        let tables = informed();
        let big = Wire::udp(at(PC, 20_000), nobody)
            .fragmentable(identification)
            .payload([0; 4000]);
        let fragments = big.fragments(1480);
        let (verdict, _) = send(&tables, Side::Uplink, fragments[0].clone());
        assert_eq!(verdict, Verdict::Reflect);
        for later in &fragments[1..] {
            let (verdict, _) = send(&tables, Side::Uplink, later.clone());
            assert_eq!(verdict, Verdict::Held);
        }
    }
    let lost = Wire::udp(at(PC, 20_000), NOBODY)
        .fragmentable(9)
        .payload([0; 3000]);
    let (verdict, _) = send(&informed(), Side::Uplink, lost.fragments(1480).remove(1));
    assert_eq!(verdict, Verdict::Held);
}

#[test]
fn on_the_stack_path_known_services_are_kube_proxys() {
    let tables = informed();
    let client = at(PC, 20_000);
    for (flags, service) in [(SYN, MYSQL), (ACK, MYSQL), (SYN, EMPTY)] {
        to_stack(&tables, Wire::tcp(client, service, flags).bytes());
    }
    to_stack(&tables, Wire::udp(client, DNS).bytes());
    let big = Wire::udp(at(PC, 20_001), DNS)
        .fragmentable(7)
        .payload([0; 3000]);
    for fragment in big.fragments(1480) {
        to_stack(&tables, fragment);
    }
    assert!(
        flows(&tables)
            .iter()
            .all(|(_, flow)| flow.layer == Layer::Kernel as u8)
    );
    // What it knows by other means than the table of services.
    for vip in [VIP, NOBODY.address] {
        to_stack(&tables, portless(SCTP, PC, vip, &[1; 40]));
    }
    to_stack(&tables, portless(EXPERIMENTAL, PC, VIP, &[1; 40]));
    let stranger = Wire::udp(at(VIP, 54), client).bytes();
    pass(
        &tables,
        Side::Uplink,
        icmp_error(PC, VIP, [3, 3], [0; 4], &stranger),
    );
}

#[test]
fn on_the_stack_path_a_ping_to_a_service_is_answered_by_whoever_knows_them_all() {
    let tables = informed();
    let ping = Wire::ping(PC, VIP, 77);
    let (verdict, bytes) = send(&tables, Side::Uplink, ping.bytes());
    assert_eq!((verdict, bytes), (Verdict::Reflect, ping.reply().bytes()));
    assert!(flows(&tables).is_empty());
}

#[test]
fn beside_a_kube_proxy_that_alone_knows_services_nothing_is_refused() {
    let tables = stack_only();
    let client = at(PC, 20_000);
    for service in [MYSQL, EMPTY, NOBODY, NO_PORT] {
        to_stack(&tables, Wire::tcp(client, service, SYN).bytes());
        to_stack(&tables, Wire::tcp(at(PC, 20_001), service, ACK).bytes());
        to_stack(&tables, Wire::udp(client, service).bytes());
        to_stack(&tables, Wire::ping(PC, service.address, 1).bytes());
        let strange = portless(EXPERIMENTAL, PC, service.address, &[1; 40]);
        to_stack(&tables, strange);
    }
}

#[test]
fn a_flow_of_the_tc_path_stays_there_when_only_the_stack_path_opens_new_ones() {
    let mut tables = fixture();
    let client = at(PC, 20_000);
    let syn = Wire::tcp(client, MYSQL, SYN).bytes();
    assert!(matches!(
        send(&tables, Side::Uplink, syn).0,
        Verdict::Forward { .. }
    ));
    tables.settings = stack_only().settings;
    let ack = Wire::tcp(client, MYSQL, ACK).bytes();
    assert!(matches!(
        send(&tables, Side::Uplink, ack).0,
        Verdict::Forward { .. }
    ));
    assert_eq!(only_flow(&tables).1.layer, Layer::Tc as u8);
}

#[test]
fn a_flow_of_the_stack_path_stays_there_when_its_service_becomes_known() {
    let mut tables = stack_only();
    let pod = at(POD, 3306);
    let tcp = [at(PC, 20_000), at(PC, 20_001)];
    let through = |tables: &SimTables, client: Endpoint, flags| {
        to_stack(tables, Wire::tcp(client, MYSQL, flags).bytes());
        // kube-proxy's translation is between the two.
        departs(tables, Wire::tcp(client, pod, flags).bytes());
    };
    for client in tcp {
        through(&tables, client, SYN);
        through(&tables, client, ACK);
    }
    let query = at(PC, 20_002);
    to_stack(&tables, Wire::udp(query, DNS).bytes());
    departs(&tables, Wire::udp(query, at(POD, 53)).bytes());

    tables.settings = fixture().settings;
    advance(&tables, 60);
    for client in tcp {
        through(&tables, client, ACK);
    }
    to_stack(&tables, Wire::udp(query, DNS).bytes());
    departs(&tables, Wire::udp(query, at(POD, 53)).bytes());
    let error = icmp_error(
        PC,
        VIP,
        [3, 4],
        [0, 0, 5, 0],
        &Wire::tcp(MYSQL, tcp[0], ACK).bytes(),
    );
    to_stack(&tables, error);
    assert!(
        flows(&tables)
            .iter()
            .all(|(_, flow)| flow.layer != Layer::Tc as u8)
    );

    // A new connection goes the new way, one from the same port too.
    for client in [tcp[1], at(PC, 20_003)] {
        let syn = Wire::tcp(client, MYSQL, SYN).bytes();
        assert!(matches!(
            send(&tables, Side::Uplink, syn).0,
            Verdict::Forward { .. }
        ));
    }
    let (_, flow) = flows(&tables)
        .into_iter()
        .find(|(key, _)| *key == flow_key(TCP, tcp[1], MYSQL))
        .unwrap();
    assert_eq!(flow.layer, Layer::Tc as u8);
}

#[test]
fn a_client_port_that_the_tc_path_has_towards_the_pod_is_refused() {
    let tables = fixture();
    let (client, pod) = (at(PC, 20_000), at(POD, 80));
    let syn = Wire::tcp(client, pod, SYN).bytes();
    assert!(matches!(
        send(&tables, Side::Uplink, syn.clone()).0,
        Verdict::Forward { .. }
    ));
    // The same to a service, which kube-proxy has translated to the same pod.
    let (verdict, bytes) = depart(&tables, syn);
    assert_eq!(verdict, Verdict::Reflect);
    assert_eq!(endpoints(&bytes), (pod, client));
    assert_eq!(tables.counted(Count::Drop(DropReason::NoNatPort)), 1);
    assert_eq!(only_flow(&tables).1.packets, 1, "the flow is not touched");
}

#[test]
fn a_pods_own_packets_of_other_protocols_keep_their_answers_untouched() {
    let tables = fixture();
    pass(&tables, Side::Cluster, portless(SCTP, POD, PC, &[1; 40]));
    leaves_untouched(&tables, portless(SCTP, PC, POD, &[2; 40]));
}

#[test]
fn a_lost_reply_entry_comes_back_on_its_own_layer() {
    let tables = fixture();
    let (client, pod) = (at(PC, 20_000), at(POD, 53));
    departs(&tables, Wire::udp(client, pod).bytes());
    tables.replies.borrow_mut().clear();
    advance(&tables, 8);
    departs(&tables, Wire::udp(client, pod).bytes());
    let (key, _, reply) = only_flow(&tables);
    assert_eq!(key, flow_key(UDP, client, pod));
    assert_eq!(reply.layer(), Layer::Stack as u8);
}

#[test]
fn a_full_table_refuses_and_counts() {
    let mut tables = fixture();
    tables.capacity = 0;
    let (verdict, _) = depart(&tables, Wire::udp(at(PC, 5), at(POD, 6)).bytes());
    assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
    let (verdict, bytes) = depart(&tables, Wire::tcp(at(PC, 5), at(POD, 6), SYN).bytes());
    assert_eq!(verdict, Verdict::Reflect, "TCP can be told");
    assert_eq!(endpoints(&bytes), (at(POD, 6), at(PC, 5)));
    assert_eq!(tables.counted(Count::Drop(DropReason::TableFull)), 2);
    assert!(replies(&tables).is_empty());
}

/// Tables with `--datapath stack`, where all services are known.
fn informed() -> SimTables {
    let mut tables = fixture();
    tables.settings.stack_only = 1;
    tables
}

/// Tables with `--datapath stack`, where only kube-proxy knows services.
fn stack_only() -> SimTables {
    let mut tables = informed();
    tables.settings.authoritative = 0;
    tables
}

/// A packet of a protocol whose ports are not known here.
fn portless(protocol: u8, source: Ipv4, destination: Ipv4, payload: &[u8]) -> Vec<u8> {
    let addresses = Wire::udp(at(source, 0), at(destination, 0));
    ip_packet(&addresses, protocol, payload, 0, false)
}

#[track_caller]
fn departs(tables: &SimTables, bytes: Vec<u8>) -> Vec<u8> {
    let (verdict, bytes) = depart(tables, bytes);
    assert_eq!(verdict, Verdict::Continue);
    assert_sound(&bytes);
    bytes
}

#[track_caller]
fn arrives(tables: &SimTables, bytes: Vec<u8>) -> Vec<u8> {
    let (verdict, bytes) = send(tables, Side::Cluster, bytes);
    assert_eq!(verdict, Verdict::Continue);
    assert_sound(&bytes);
    bytes
}

#[track_caller]
fn leaves_untouched(tables: &SimTables, bytes: impl Into<Vec<u8>>) {
    let bytes = bytes.into();
    let (verdict, after) = depart(tables, bytes.clone());
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(after, bytes);
}

#[track_caller]
fn dropped(tables: &SimTables, bytes: Vec<u8>, reason: DropReason) {
    let before = tables.counted(Count::Drop(reason));
    let (verdict, _) = send(tables, Side::Uplink, bytes);
    assert_eq!(verdict, Verdict::Drop(reason));
    assert_eq!(tables.counted(Count::Drop(reason)), before + 1);
}
