//! Service addresses: balance, refusals, pings.

use crate::fixture::{
    BACKENDS, DNS, DNS_BACKEND_PORT, EMPTY, EMPTY_VIP, LOST_POD, MYSQL, MYSQL_BACKEND_PORT, NAT,
    PC, TUNNEL, UPLINK, VIP, backend, fixture, flows, forward, send, to_stack,
};
use crate::packets::{
    Wire, addresses, assert_sound, at, endpoints, header_len, icmp_kind, identifier, protocol,
};
use bridge_common::abi::{Ipv4, Layer};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::ICMP;
use bridge_common::packet::parse::tcp_flag::{ACK, RST, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::verdict::Verdict;
use std::collections::HashMap;

const UNKNOWN: Endpoint = at([10, 96, 99, 99], 80);

#[test]
fn a_session_stays_with_one_backend_and_comes_back_as_the_service() {
    let tables = fixture();
    let client = at(PC, 20_000);
    let syn = Wire::tcp(client, MYSQL, SYN).bytes();
    let (nat, chosen) = endpoints(&forward(&tables, Side::Uplink, syn, TUNNEL));
    assert_eq!((nat.address, chosen.port), (NAT, MYSQL_BACKEND_PORT));
    for _ in 0..20 {
        let ack = Wire::tcp(client, MYSQL, ACK).bytes();
        let bytes = forward(&tables, Side::Uplink, ack, TUNNEL);
        assert_eq!(endpoints(&bytes), (nat, chosen));
    }
    let back = Wire::tcp(chosen, nat, SYN | ACK).bytes();
    let bytes = forward(&tables, Side::Cluster, back, UPLINK);
    assert_eq!(endpoints(&bytes), (MYSQL, client));
}

#[test]
fn new_sessions_are_spread_over_all_backends() {
    let tables = fixture();
    let mut share: HashMap<Ipv4, u32> = HashMap::new();
    let total = 4000;
    for n in 0..total {
        let bytes = Wire::udp(at(PC, 1024 + n), DNS).bytes();
        let (_, chosen) = endpoints(&forward(&tables, Side::Uplink, bytes, TUNNEL));
        assert_eq!(chosen.port, DNS_BACKEND_PORT);
        *share.entry(chosen.address).or_default() += 1;
    }
    let fair = u32::from(total) / BACKENDS;
    for slot in 0..BACKENDS {
        let got = share.get(&backend(slot)).copied().unwrap_or(0);
        assert!(
            got.abs_diff(fair) < fair / 5,
            "backend {slot} got {got} of {total}"
        );
    }
}

#[test]
fn an_unknown_service_is_rejected_by_whoever_knows_them_all() {
    let tables = fixture();
    reset(&tables, &Wire::tcp(at(PC, 20_000), UNKNOWN, SYN));
    refused(&tables, &Wire::udp(at(PC, 20_000), UNKNOWN), [3, 3]);
    refused(&tables, &Wire::ping(PC, UNKNOWN.address, 1), [3, 1]);
    assert_eq!(tables.counted(Count::Drop(DropReason::NoService)), 3);
}

#[test]
fn a_known_service_on_another_port_or_protocol_is_unknown() {
    let tables = fixture();
    reset(&tables, &Wire::tcp(at(PC, 20_000), DNS, SYN));
    refused(&tables, &Wire::udp(at(PC, 20_000), MYSQL), [3, 3]);
}

#[test]
fn services_are_kube_proxys_where_we_do_not_know_them() {
    let tables = beside_kube_proxy();
    for wire in [
        Wire::tcp(at(PC, 20_000), UNKNOWN, SYN),
        Wire::tcp(at(PC, 20_000), UNKNOWN, ACK),
        Wire::tcp(at(PC, 20_000), MYSQL, SYN),
        Wire::udp(at(PC, 20_000), DNS),
        Wire::ping(PC, VIP, 1),
    ] {
        to_stack(&tables, wire.bytes());
    }
    // Marked, so that they stay with kube-proxy when the service becomes known.
    let marks = flows(&tables);
    assert_eq!(marks.len(), 3);
    assert!(
        marks
            .iter()
            .all(|(_, flow)| flow.layer == Layer::Kernel as u8)
    );
}

#[test]
fn a_service_without_a_ready_backend_refuses() {
    let tables = fixture();
    reset(&tables, &Wire::tcp(at(PC, 20_000), EMPTY, SYN));
    refused(&tables, &Wire::udp(at(PC, 20_000), EMPTY), [3, 3]);
    refused(&tables, &Wire::ping(PC, EMPTY_VIP, 1), [3, 1]);
    assert_eq!(tables.counted(Count::Drop(DropReason::NoBackend)), 3);
}

#[test]
fn a_backend_list_that_was_just_replaced_refuses() {
    let mut tables = fixture();
    tables.backends.clear();
    refused(&tables, &Wire::udp(at(PC, 20_000), DNS), [3, 3]);
}

#[test]
fn a_backend_without_a_way_to_it_is_unreachable() {
    let mut tables = fixture();
    for backend in tables.backends.values_mut() {
        backend.address = LOST_POD;
    }
    refused(&tables, &Wire::udp(at(PC, 20_000), DNS), [3, 1]);
    assert_eq!(tables.counted(Count::Drop(DropReason::NoRoute)), 1);
    refused(
        &tables,
        &Wire::udp(at(PC, 20_000), at(LOST_POD, 53)),
        [3, 1],
    );
}

#[test]
fn a_backend_on_the_node_itself_is_not_ours_to_reach() {
    let mut tables = fixture();
    for backend in tables.backends.values_mut() {
        backend.address = NAT;
    }
    let (verdict, _) = send(
        &tables,
        Side::Uplink,
        Wire::udp(at(PC, 20_000), DNS).bytes(),
    );
    assert_eq!(verdict, Verdict::Drop(DropReason::LocalBackend));
    assert!(flows(&tables).is_empty());
}

#[test]
fn a_ping_to_a_service_with_a_backend_is_answered() {
    let tables = fixture();
    let wire = Wire::ping(PC, VIP, 77).ttl(3);
    let (verdict, bytes) = send(&tables, Side::Uplink, wire.bytes());
    assert_eq!(verdict, Verdict::Reflect);
    let expected = wire.reply().ttl(64);
    assert_eq!(bytes, expected.bytes());
    assert_eq!(identifier(&bytes), 77);
    assert_eq!(tables.counted(Count::PingAnswered), 1);
    assert!(flows(&tables).is_empty());
}

#[test]
fn a_ping_to_a_service_is_dropped_where_answers_are_off() {
    let mut tables = fixture();
    tables.settings.answer_ping = 0;
    let (verdict, _) = send(&tables, Side::Uplink, Wire::ping(PC, VIP, 1).bytes());
    assert_eq!(verdict, Verdict::Drop(DropReason::UnsupportedProtocol));
}

#[test]
fn other_icmp_to_a_service_goes_no_further() {
    let tables = fixture();
    let (verdict, bytes) = send(&tables, Side::Uplink, Wire::pong(PC, VIP, 5).bytes());
    assert!(
        matches!(verdict, Verdict::Reflect | Verdict::Drop(_)),
        "{verdict:?}"
    );
    assert_eq!(protocol(&bytes), ICMP);
    assert!(flows(&tables).is_empty());
}

/// Tables of a node whose services only kube-proxy knows.
fn beside_kube_proxy() -> SimTables {
    let mut tables = fixture();
    tables.settings.authoritative = 0;
    tables
}

#[track_caller]
fn refused(tables: &SimTables, wire: &Wire, kind: [u8; 2]) {
    let (verdict, bytes) = send(tables, Side::Uplink, wire.bytes());
    assert_eq!(verdict, Verdict::Reflect);
    assert_sound(&bytes);
    assert_eq!(addresses(&bytes).1, wire.source.address);
    assert_eq!(icmp_kind(&bytes), kind);
    assert!(flows(tables).is_empty());
}

#[track_caller]
fn reset(tables: &SimTables, wire: &Wire) {
    let (verdict, bytes) = send(tables, Side::Uplink, wire.bytes());
    assert_eq!(verdict, Verdict::Reflect);
    assert_sound(&bytes);
    assert_eq!(endpoints(&bytes), (wire.destination, wire.source));
    assert_eq!(bytes[header_len(&bytes) + 13], RST | ACK);
    assert!(flows(tables).is_empty());
}
