//! `sessionAffinity: ClientIP`.

use crate::fixture::{DNS, LAPTOP, MYSQL, PC, TUNNEL, advance, backend, fixture, forward};
use crate::packets::{Wire, at, endpoints};
use bridge_common::abi::{BackendKey, Ipv4, Seconds, ServiceKey};
use bridge_common::packet::parse::tcp_flag::SYN;
use bridge_common::packet::parse::{TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use std::collections::HashSet;

const TIMEOUT: Seconds = 600;

#[test]
fn a_client_comes_to_the_same_backend_each_time() {
    let tables = sticky_world();
    let mut all = HashSet::new();
    for last in 1..=40 {
        let client = [192, 168, 0, last];
        let first = chosen(&tables, client, 20_000);
        for port in 20_001..20_020 {
            assert_eq!(chosen(&tables, client, port), first);
        }
        all.insert(first);
    }
    assert_eq!(all.len(), 4, "other clients come to other backends");
}

#[test]
fn affinity_ends_when_the_client_stays_away_and_is_renewed_by_each_new_flow() {
    let tables = sticky_world();
    let first = chosen(&tables, PC, 20_000);
    for n in 1..20 {
        advance(&tables, TIMEOUT - 1);
        assert_eq!(chosen(&tables, PC, 20_000 + n), first);
    }
    let after_a_pause: HashSet<Ipv4> = (0..40)
        .map(|n| {
            advance(&tables, TIMEOUT);
            chosen(&tables, PC, 30_000 - n)
        })
        .collect();
    assert_eq!(after_a_pause.len(), 4);
}

#[test]
fn affinity_outlives_a_change_of_the_backend_list() {
    let mut tables = sticky_world();
    let clients: Vec<Ipv4> = (1..=40).map(|last| [192, 168, 0, last]).collect();
    let before: Vec<Ipv4> = clients
        .iter()
        .map(|&client| chosen(&tables, client, 20_000))
        .collect();
    // As userspace does it: a new list, in another order and with one backend more.
    let mut list: Vec<_> = (0..4)
        .map(|slot| {
            tables.backends[&BackendKey {
                service_id: 1,
                slot,
            }]
        })
        .collect();
    list.reverse();
    let mut added = list[0];
    added.address = backend(50);
    list.insert(1, added);
    let service = tables.services.get_mut(&key(MYSQL, TCP)).unwrap();
    service.id = 77;
    service.backend_count = 5;
    for (slot, backend) in (0..).zip(list) {
        tables.backends.insert(
            BackendKey {
                service_id: 77,
                slot,
            },
            backend,
        );
    }
    for (&client, &first) in clients.iter().zip(&before) {
        assert_eq!(chosen(&tables, client, 20_001), first);
    }
}

#[test]
fn each_port_and_protocol_of_a_service_has_an_affinity_of_its_own() {
    let tables = sticky_world();
    chosen(&tables, PC, 20_000);
    let query = Wire::udp(at(PC, 20_000), DNS).bytes();
    forward(&tables, Side::Uplink, query, TUNNEL);
    chosen(&tables, LAPTOP, 20_000);
    let affinity = tables.affinity.borrow();
    assert_eq!(affinity.len(), 3);
    assert!(
        affinity
            .keys()
            .any(|entry| entry.client == PC && entry.service == key(DNS, UDP))
    );
}

#[test]
fn without_a_backend_affinity_keeps_nobody_waiting() {
    let mut tables = sticky_world();
    chosen(&tables, PC, 20_000);
    tables
        .services
        .get_mut(&key(MYSQL, TCP))
        .unwrap()
        .backend_count = 0;
    let syn = Wire::tcp(at(PC, 20_001), MYSQL, SYN).bytes();
    let (verdict, _) = crate::fixture::send(&tables, Side::Uplink, syn);
    assert_eq!(verdict, bridge_common::verdict::Verdict::Reflect);
}

#[test]
fn services_without_affinity_remember_nobody() {
    let tables = fixture();
    chosen(&tables, PC, 20_000);
    assert!(tables.affinity.borrow().is_empty());
}

fn key(endpoint: Endpoint, protocol: u8) -> ServiceKey {
    ServiceKey {
        vip: endpoint.address,
        port: endpoint.port,
        protocol,
        pad: 0,
    }
}

fn sticky_world() -> SimTables {
    let mut tables = fixture();
    for key in [key(MYSQL, TCP), key(DNS, UDP)] {
        tables.services.get_mut(&key).unwrap().affinity_seconds = TIMEOUT;
    }
    tables
}

fn chosen(tables: &SimTables, client: Ipv4, port: u16) -> Ipv4 {
    let syn = Wire::tcp(at(client, port), MYSQL, SYN).bytes();
    let bytes = forward(tables, Side::Uplink, syn, TUNNEL);
    endpoints(&bytes).1.address
}
