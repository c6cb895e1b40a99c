//! What one client may take from the others.

use crate::fixture::{LAPTOP, MYSQL, PC, POD, TUNNEL, advance, fixture, flows, forward, send};
use crate::packets::{Wire, at};
use bridge_common::abi::{Client, ClientLimits, ClientPort, HeldPorts, Ipv4};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::UDP;
use bridge_common::packet::parse::tcp_flag::SYN;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::tables::{Slot, Tables};
use bridge_common::verdict::Verdict;

fn limited(clients: ClientLimits) -> SimTables {
    let mut tables = fixture();
    tables.settings.clients = clients;
    tables
}

fn opens(tables: &SimTables, client: Ipv4, port: u16) -> bool {
    let wire = Wire::udp(at(client, port), at(POD, 5_000));
    matches!(
        send(tables, Side::Uplink, wire.bytes()).0,
        Verdict::Forward { .. }
    )
}

fn known(tables: &SimTables, client: Ipv4) -> Client {
    tables.client(client).unwrap().with(|client| *client)
}

#[test]
fn a_client_opens_so_many_flows_a_second() {
    let tables = limited(ClientLimits {
        flow_rate: 3,
        ..ClientLimits::default()
    });
    let opened: Vec<bool> = (0..5).map(|n| opens(&tables, PC, 20_000 + n)).collect();
    assert_eq!(opened, [true, true, true, false, false]);
    assert_eq!(tables.counted(Count::Drop(DropReason::ClientLimit)), 2);
    assert_eq!(known(&tables, PC).refused, 2);
    assert!(opens(&tables, PC, 20_000), "what is open goes on");
    assert!(opens(&tables, LAPTOP, 20_000), "another client has its own");
    advance(&tables, 1);
    assert!(opens(&tables, PC, 20_004));
}

#[test]
fn a_client_has_so_many_flows_until_some_are_found_spent() {
    let tables = limited(ClientLimits {
        flows: 2,
        ..ClientLimits::default()
    });
    let opened: Vec<bool> = (0..3).map(|n| opens(&tables, PC, 20_000 + n)).collect();
    assert_eq!(opened, [true, true, false]);
    advance(&tables, 5);
    assert!(!opens(&tables, PC, 20_003));
    assert!(opens(&tables, LAPTOP, 20_000));
    // As garbage collection does.
    tables.client(PC).unwrap().with(|client| client.flows = 1);
    assert!(opens(&tables, PC, 20_003));
    assert_eq!(known(&tables, PC).flows, 2);
}

#[test]
fn a_client_has_so_many_ports_of_a_backend() {
    let tables = limited(ClientLimits {
        nat_ports: 2,
        ..ClientLimits::default()
    });
    assert!(opens(&tables, PC, 20_000) && opens(&tables, PC, 20_001));
    assert!(!opens(&tables, PC, 20_002));
    assert!(opens(&tables, LAPTOP, 20_002));
    let port = ClientPort {
        client: PC,
        backend: POD,
        backend_port: 5_000,
        protocol: UDP,
        pad: 0,
    };
    let held = tables.client_port(&port).unwrap();
    assert_eq!(held.with(|held| *held), HeldPorts { count: 2 });
    // Garbage collection finds that one of them leads elsewhere.
    held.with(|held| held.count = 1);
    assert!(opens(&tables, PC, 20_002));
    assert!(!opens(&tables, PC, 20_003));
}

#[test]
fn a_client_gets_so_many_answers_a_second() {
    let tables = limited(ClientLimits {
        answer_rate: 2,
        ..ClientLimits::default()
    });
    let ask = |client| {
        let wire = Wire::tcp(at(client, 20_000), at(MYSQL.address, 9), SYN);
        send(&tables, Side::Uplink, wire.bytes()).0
    };
    assert_eq!([ask(PC), ask(PC)], [Verdict::Reflect; 2]);
    assert_eq!(ask(PC), Verdict::Drop(DropReason::NoService));
    assert_eq!(ask(LAPTOP), Verdict::Reflect);
    assert_eq!(tables.counted(Count::AnswerSuppressed), 1);
    assert_eq!(known(&tables, PC).refused, 1);
    advance(&tables, 1);
    assert_eq!(ask(PC), Verdict::Reflect);
}

#[test]
fn without_limits_all_are_served() {
    let tables = limited(ClientLimits::default());
    for port in 0..500 {
        let wire = Wire::udp(at(PC, 20_000 + port), at(POD, 5_000));
        forward(&tables, Side::Uplink, wire.bytes(), TUNNEL);
    }
    assert_eq!(flows(&tables).len(), 500);
}
