//! Services with a backend on the node itself: translated on the way in and out, by the node's own stack between.

use bridge_common::abi::{Layer, Route, Service, ServiceKey, Settings};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::packet::parse::{TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::local;
use bridge_common::path::tc::Side;
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::verdict::Verdict;

use crate::fixture::{NODE, PC, POD, VIP, fixture, flows, only_flow, pass, replies, send};
use crate::packets::{Wire, assert_sound, at, endpoints, icmp_error, identifier};

const CLIENT: Endpoint = at(PC, 50_000);
const API: Endpoint = at(VIP, 443);
const BACKEND: Endpoint = at(NODE, 6443);

fn with_local_backend() -> SimTables {
    let mut tables = fixture();
    tables.settings.flags = Settings::HAS_LOCAL_BACKENDS;
    let route = Route {
        flags: Route::LOCAL,
        ..Route::default()
    };
    tables.routes.push((NODE, 32, route));
    for protocol in [TCP, UDP] {
        let key = ServiceKey {
            vip: API.address,
            port: API.port,
            protocol,
            pad: 0,
        };
        let only = bridge_common::abi::Backend {
            address: BACKEND.address,
            port: BACKEND.port,
            pad: [0; 2],
        };
        let service = Service {
            id: 9,
            backend_count: 1,
            only,
            ..Service::default()
        };
        tables.services.insert(key, service);
    }
    tables
}

/// Sends a packet of the node's own out of the uplink.
fn leaves(tables: &SimTables, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut packet = SimPacket::new(bytes);
    let verdict = local::run(&mut packet, tables);
    (verdict, packet.bytes)
}

#[test]
fn a_client_talks_to_a_backend_on_the_node_and_sees_the_service() {
    let tables = with_local_backend();
    for (there, back) in [
        (
            Wire::tcp(CLIENT, API, SYN),
            Wire::tcp(BACKEND, CLIENT, SYN | ACK),
        ),
        (Wire::tcp(CLIENT, API, ACK), Wire::tcp(BACKEND, CLIENT, ACK)),
        (Wire::udp(CLIENT, API), Wire::udp(BACKEND, CLIENT)),
    ] {
        let (verdict, bytes) = send(&tables, Side::Uplink, there.bytes());
        assert_eq!(verdict, Verdict::Continue);
        assert_sound(&bytes);
        assert_eq!(endpoints(&bytes), (CLIENT, BACKEND));
        let (verdict, bytes) = leaves(&tables, back.bytes());
        assert_eq!(verdict, Verdict::Continue);
        assert_sound(&bytes);
        assert_eq!(endpoints(&bytes), (API, CLIENT));
    }
    assert!(
        flows(&tables)
            .iter()
            .all(|(_, flow)| flow.layer == Layer::Local as u8)
    );
    assert_eq!((flows(&tables).len(), replies(&tables).len()), (2, 2));
    assert_eq!(tables.counted(Count::ToBackend), 3);
    assert_eq!(tables.counted(Count::ToClient), 3);
}

#[test]
fn what_else_the_node_sends_leaves_as_it_is() {
    let tables = with_local_backend();
    send(&tables, Side::Uplink, Wire::tcp(CLIENT, API, SYN).bytes());
    for bytes in [
        Wire::tcp(at(NODE, 22), CLIENT, ACK).bytes(),
        Wire::tcp(BACKEND, at(PC, 50_001), ACK).bytes(),
        Wire::udp(BACKEND, CLIENT).bytes(),
        Wire::ping(NODE, PC, 1).bytes(),
    ] {
        assert_eq!(leaves(&tables, bytes.clone()), (Verdict::Pass, bytes));
    }
}

#[test]
fn the_nodes_own_ping_takes_its_identifier_back() {
    let tables = fixture();
    let ask = || {
        let (verdict, bytes) = send(&tables, Side::Uplink, Wire::ping(PC, POD, 1).bytes());
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        assert_eq!(identifier(&bytes), 1);
        only_flow(&tables).1.nat
    };
    let nat = ask();
    let own = Wire::ping(nat, POD, 1);
    assert_eq!(leaves(&tables, own.bytes()), (Verdict::Pass, own.bytes()));
    pass(&tables, Side::Cluster, own.reply().bytes());
    ask();
    // Others are nobody's loss.
    leaves(&tables, Wire::ping(nat, POD, 2).bytes());
    only_flow(&tables);
}

#[test]
fn errors_in_both_directions_are_about_the_service() {
    let tables = with_local_backend();
    let asked = Wire::udp(CLIENT, API).bytes();
    let (_, arrived) = send(&tables, Side::Uplink, asked.clone());
    let error = icmp_error(NODE, PC, [3, 3], [0; 4], &arrived);
    let (verdict, bytes) = leaves(&tables, error);
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!(bytes, icmp_error(VIP, PC, [3, 3], [0; 4], &asked));
    let answer = Wire::udp(BACKEND, CLIENT).bytes();
    let (_, answered) = leaves(&tables, answer.clone());
    let error = icmp_error(PC, VIP, [3, 4], [0, 0, 5, 0], &answered);
    let (verdict, bytes) = send(&tables, Side::Uplink, error);
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!(bytes, icmp_error(PC, NODE, [3, 4], [0, 0, 5, 0], &answer));
}

#[test]
fn without_the_way_out_nothing_is_let_in() {
    let mut tables = with_local_backend();
    tables.settings.flags = 0;
    let (verdict, _) = send(&tables, Side::Uplink, Wire::tcp(CLIENT, API, SYN).bytes());
    assert_eq!(verdict, Verdict::Drop(DropReason::LocalBackend));
}
