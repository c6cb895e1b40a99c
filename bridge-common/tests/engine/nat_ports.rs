//! Which NAT port a flow gets, and what happens when there is none.

use crate::fixture::{
    LAPTOP, LOCAL_POD, NAT, PC, POD, TUNNEL, UPLINK, advance, fixture, flow_key, flows, forward,
    in_sequence, only_flow, replies, send,
};
use crate::packets::{Wire, assert_sound, at, endpoints, icmp_kind, identifier};
use bridge_common::abi::EventKind;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::TCP;
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::verdict::Verdict;
use proptest::prelude::*;

const WEB: Endpoint = at(POD, 80);

#[test]
fn the_clients_port_is_kept_where_it_is_free() {
    let tables = fixture();
    assert_eq!(connect(&tables, at(PC, 20_000)), 20_000);
    // Free towards another pod, too.
    let bytes = Wire::tcp(at(LAPTOP, 20_000), at(LOCAL_POD, 80), SYN).bytes();
    let (_, bytes) = send(&tables, Side::Uplink, bytes);
    assert_eq!(endpoints(&bytes).0.port, 20_000);
}

#[test]
fn an_identifier_is_kept_whatever_ports_are_reserved() {
    let tables = with_ports(&[]);
    let bytes = forward(
        &tables,
        Side::Uplink,
        Wire::ping(PC, POD, 80).bytes(),
        TUNNEL,
    );
    assert_eq!(identifier(&bytes), 80);
}

#[test]
fn a_port_that_the_node_uses_is_never_chosen() {
    let tables = fixture();
    for port in (0..=u16::MAX)
        .step_by(7)
        .chain([8472, 30_880, 32_768, 60_999])
    {
        let nat_port = connect(&tables, at(PC, port));
        let reserved = tables.nat_ports[usize::from(nat_port)].reserved != 0;
        assert!(!reserved, "client port {port} became {nat_port}");
        if tables.nat_ports[usize::from(port)].reserved == 0 {
            continue;
        }
        assert_ne!(nat_port, port);
    }
}

#[test]
fn two_flows_never_share_a_tuple() {
    let tables = fixture();
    for host in 1..=200 {
        for port in [1, 443, 20_000, 20_001] {
            connect(&tables, at([192, 168, 2, host], port));
        }
    }
    assert_eq!((flows(&tables).len(), replies(&tables).len()), (800, 800));
}

#[test]
fn exhausted_ports_are_told_to_the_client_and_to_userspace() {
    let tables = with_ports(&[20_000]);
    assert_eq!(connect(&tables, at(PC, 20_000)), 20_000);
    refused(
        &tables,
        at(LAPTOP, 20_000),
        EventKind::NoNatPort,
        DropReason::NoNatPort,
    );
}

#[test]
fn no_candidate_at_all_is_exhaustion() {
    let tables = with_ports(&[]);
    refused(
        &tables,
        at(PC, 20_000),
        EventKind::NoNatPort,
        DropReason::NoNatPort,
    );
}

#[test]
fn a_full_table_is_told_to_the_client_and_to_userspace() {
    for full_replies_only in [false, true] {
        let mut tables = fixture();
        tables.capacity = 1;
        connect(&tables, at(PC, 20_000));
        if full_replies_only {
            tables.flows.borrow_mut().clear();
        } else {
            // Half a flow was swept: there is room for a reply entry, and none for its other half.
            tables.replies.borrow_mut().clear();
        }
        refused(
            &tables,
            at(LAPTOP, 20_000),
            EventKind::TableFull,
            DropReason::TableFull,
        );
    }
}

#[test]
fn an_expired_flow_gives_its_port_up() {
    let tables = with_ports(&[20_000]);
    connect(&tables, at(PC, 20_000));
    advance(&tables, tables.settings.timeouts.tcp_transitory);
    assert_eq!(connect(&tables, at(LAPTOP, 20_000)), 20_000);
    let (key, ..) = only_flow(&tables);
    assert_eq!(key, flow_key(TCP, at(LAPTOP, 20_000), WEB));
}

#[test]
fn where_no_port_is_free_one_that_has_run_out_is_found() {
    let ports = [20_000, 20_001, 20_002, 20_003];
    let tables = with_ports(&ports);
    for port in &ports[1..] {
        connect(&tables, at(PC, *port));
    }
    advance(&tables, tables.settings.timeouts.tcp_transitory);
    assert_eq!(connect(&tables, at(PC, 20_000)), 20_000);
    let taken = connect(&tables, at(LAPTOP, 20_000));
    assert!(ports[1..].contains(&taken), "{taken}");
}

#[test]
fn a_living_flow_keeps_its_port() {
    let tables = with_ports(&[20_000]);
    connect(&tables, at(PC, 20_000));
    advance(&tables, tables.settings.timeouts.tcp_transitory - 1);
    refused(
        &tables,
        at(LAPTOP, 20_000),
        EventKind::NoNatPort,
        DropReason::NoNatPort,
    );
}

#[test]
fn a_reply_entry_without_its_other_half_gives_its_port_up_after_a_moment() {
    let tables = with_ports(&[20_000]);
    connect(&tables, at(PC, 20_000));
    tables.flows.borrow_mut().clear();
    // Another CPU may be just about to add the forward entry.
    let bytes = Wire::tcp(at(LAPTOP, 20_000), WEB, SYN).bytes();
    let (verdict, _) = send(&tables, Side::Uplink, bytes);
    assert_eq!(verdict, Verdict::Reflect);
    advance(&tables, 2);
    assert_eq!(connect(&tables, at(LAPTOP, 20_000)), 20_000);
}

#[test]
fn a_reply_entry_that_its_flow_no_longer_uses_gives_its_port_up() {
    let tables = with_ports(&[20_000]);
    connect(&tables, at(PC, 20_000));
    for flow in tables.flows.borrow().values() {
        flow.borrow_mut().nat_port = 20_001;
    }
    assert_eq!(connect(&tables, at(LAPTOP, 20_000)), 20_000);
    assert_eq!(flows(&tables).len(), 2, "the other flow stays");
}

#[test]
fn a_reset_flow_keeps_its_port_for_four_minutes_while_others_are_free() {
    let tables = with_ports(&[20_000, 20_001]);
    connect_and_reset(&tables);
    advance(&tables, 239);
    assert_eq!(connect(&tables, at(LAPTOP, 20_000)), 20_001);
    advance(&tables, 1);
    let other = [192, 168, 0, 77];
    assert_eq!(connect(&tables, at(other, 20_000)), 20_000);
}

#[test]
fn a_reset_flow_gives_its_port_up_after_a_minute_if_no_other_is_free() {
    let tables = with_ports(&[20_000]);
    connect_and_reset(&tables);
    advance(&tables, 59);
    let bytes = Wire::tcp(at(LAPTOP, 20_000), WEB, SYN).bytes();
    assert_eq!(send(&tables, Side::Uplink, bytes).0, Verdict::Reflect);
    advance(&tables, 1);
    assert_eq!(connect(&tables, at(LAPTOP, 20_000)), 20_000);
}

#[test]
fn a_connection_that_the_client_has_closed_first_gives_its_port_up_at_once_if_no_other_is_free() {
    for client_first in [true, false] {
        let tables = with_ports(&[20_000]);
        connect(&tables, at(PC, 20_000));
        let (client, nat) = (at(PC, 20_000), at(NAT, 20_000));
        let mut segments = [
            (Side::Cluster, Wire::tcp(WEB, nat, SYN | ACK)),
            (Side::Uplink, Wire::tcp(client, WEB, ACK)),
            (Side::Uplink, Wire::tcp(client, WEB, FIN | ACK)),
            (Side::Cluster, Wire::tcp(WEB, nat, FIN | ACK)),
        ];
        if !client_first {
            segments.swap(2, 3);
        }
        for (side, segment) in segments {
            let (verdict, _) = send(&tables, side, in_sequence(&tables, segment));
            assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        }
        let bytes = Wire::tcp(at(LAPTOP, 20_000), WEB, SYN).bytes();
        assert_eq!(send(&tables, Side::Uplink, bytes).0, Verdict::Reflect);
        advance(&tables, 2);
        if !client_first {
            let bytes = Wire::tcp(at(LAPTOP, 20_000), WEB, SYN).bytes();
            assert_eq!(send(&tables, Side::Uplink, bytes).0, Verdict::Reflect);
            advance(&tables, 58);
        }
        assert_eq!(connect(&tables, at(LAPTOP, 20_000)), 20_000);
    }
}

#[test]
fn more_exchanges_than_ports_go_on_for_ever() {
    const PORTS: u16 = 1_535;
    let ports: Vec<u16> = (40_000..40_000 + PORTS).collect();
    let tables = with_ports(&ports);
    let service = at(POD, 5_000);
    for number in 0..20_000_u16 {
        // A hundred a second.
        if number % 100 == 0 {
            advance(&tables, 1);
        }
        let client = at(PC, 1_024 + number);
        let asked = Wire::udp(client, service).bytes();
        let sent = forward(&tables, Side::Uplink, asked, TUNNEL);
        let nat = endpoints(&sent).0;
        assert!(ports.contains(&nat.port), "{nat:?}");
        let answer = Wire::udp(service, nat).bytes();
        let back = forward(&tables, Side::Cluster, answer, UPLINK);
        assert_eq!(endpoints(&back).1, client);
    }
    assert!(flows(&tables).len() <= usize::from(PORTS));
}

#[test]
fn refused_searches_are_few_a_second_and_the_rest_is_refused_without() {
    let tables = with_ports(&[20_000]);
    connect(&tables, at(PC, 20_000));
    let flood = || {
        for port in 1..=1_000 {
            let syn = Wire::tcp(at(LAPTOP, 20_000 + port), WEB, SYN).bytes();
            send(&tables, Side::Uplink, syn);
        }
        tables.events.borrow_mut().drain(..).count()
    };
    assert_eq!(flood(), 64);
    let dropped = Count::Drop(DropReason::NoNatPort);
    assert_eq!(tables.counted(dropped), 1_000);
    // Other pods' ports are none of its concern, and the next second is another one.
    let other = Wire::tcp(at(LAPTOP, 20_000), at(LOCAL_POD, 80), SYN).bytes();
    let (verdict, _) = send(&tables, Side::Uplink, other);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    advance(&tables, 1);
    assert_eq!(flood(), 64);
}

#[test]
fn a_privileged_port_stays_privileged() {
    let tables = fixture();
    assert_eq!(connect(&tables, at(PC, 700)), 700);
    for host in 1..=100 {
        let port = connect(&tables, at([192, 168, 2, host], 700));
        assert!((512..1_024).contains(&port), "{port}");
    }
    // 443 is the node's own.
    let port = connect(&tables, at(PC, 443));
    assert!((512..1_024).contains(&port), "{port}");
    assert!(connect(&tables, at(PC, 8_472)) >= 1_024);
}

#[test]
fn an_address_that_the_node_does_not_use_has_all_ports() {
    let mut tables = with_ports(&[]);
    tables.settings.snat_address_count = 2;
    tables.settings.snat_addresses[0] = [10, 60, 30, 0];
    tables.settings.snat_addresses[1] = [10, 60, 30, 1];
    tables.settings.exclusive = 1 << 1;
    let shared = [192, 168, 3, 2];
    let refused = Wire::tcp(at(shared, 40_000), WEB, SYN).bytes();
    assert_eq!(send(&tables, Side::Uplink, refused).0, Verdict::Reflect);
    assert_eq!(connect(&tables, at([192, 168, 3, 1], 40_000)), 40_000);
    for host in (3..=201).step_by(2) {
        let port = connect(&tables, at([192, 168, 3, host], 40_000));
        assert!(port >= 1_024 && port != 40_000, "{port}");
    }
}

proptest! {
    #[test]
    fn each_client_gets_one_address_of_the_pool(host in 1..=254_u8, count in 1..=8_u8, ports in prop::collection::vec(1024..30_000_u16, 2..6)) {
        let mut tables = fixture();
        tables.settings.snat_address_count = u16::from(count);
        for index in 0..count {
            tables.settings.snat_addresses[usize::from(index)] = [10, 60, 30, index];
        }
        let client = [192, 168, 3, host];
        for &port in &ports {
            for pod in [POD, LOCAL_POD] {
                let (verdict, _) = send(&tables, Side::Uplink, Wire::udp(at(client, port), at(pod, 53)).bytes());
                let forwarded = matches!(verdict, Verdict::Forward { .. });
                prop_assert!(forwarded);
            }
        }
        let mut used: Vec<_> = flows(&tables).iter().map(|(_, flow)| flow.nat).collect();
        used.dedup();
        prop_assert_eq!(used.len(), 1);
        prop_assert!(used[0][3] < count && used[0][..3] == [10, 60, 30]);
    }
}

#[test]
fn the_whole_pool_is_used() {
    let mut tables = fixture();
    tables.settings.snat_address_count = 3;
    for index in 0..3 {
        tables.settings.snat_addresses[usize::from(index)] = [10, 60, 30, index];
    }
    for host in 1..=9 {
        connect(&tables, at([192, 168, 3, host], 20_000));
    }
    for index in 0..3 {
        let users = flows(&tables)
            .iter()
            .filter(|(_, flow)| flow.nat == [10, 60, 30, index])
            .count();
        assert_eq!(users, 3);
    }
}

#[test]
fn without_a_pool_the_source_is_the_one_that_replies_come_home_to() {
    let tables = fixture();
    connect(&tables, at(PC, 20_000));
    let (_, flow, _) = only_flow(&tables);
    assert_eq!(flow.nat, NAT);
}

/// The NAT port of a new connection.
fn connect(tables: &SimTables, client: Endpoint) -> u16 {
    let bytes = Wire::tcp(client, WEB, SYN).bytes();
    endpoints(&forward(tables, Side::Uplink, bytes, TUNNEL))
        .0
        .port
}

/// Tables whose only NAT ports are `ports`.
fn with_ports(ports: &[u16]) -> SimTables {
    let mut tables = fixture();
    tables.set_nat_ports(|port| !ports.contains(&port));
    tables
}

/// A new connection that must be refused.
#[track_caller]
fn refused(tables: &SimTables, client: Endpoint, kind: EventKind, reason: DropReason) {
    let before = replies(tables).len();
    let (verdict, bytes) = send(tables, Side::Uplink, Wire::tcp(client, WEB, SYN).bytes());
    assert_eq!(verdict, Verdict::Reflect);
    assert_sound(&bytes);
    assert_eq!(icmp_kind(&bytes), [3, 13]);
    assert_eq!(tables.counted(Count::Drop(reason)), 1);
    let events = tables.events.borrow();
    let [event] = events[..] else {
        panic!("one event, not {events:?}");
    };
    assert_eq!(EventKind::from_number(event.kind), Some(kind));
    assert_eq!(
        (event.client, event.client_port),
        (client.address, client.port)
    );
    assert_eq!(
        (event.destination, event.destination_port),
        (WEB.address, WEB.port)
    );
    assert_eq!(event.protocol, TCP);
    assert_eq!(replies(tables).len(), before, "nothing is left behind");
}

/// A connection of the PC from its port 20,000, and its reset.
fn connect_and_reset(tables: &SimTables) {
    connect(tables, at(PC, 20_000));
    let reset = in_sequence(tables, Wire::tcp(at(PC, 20_000), WEB, RST));
    forward(tables, Side::Uplink, reset, TUNNEL);
}
