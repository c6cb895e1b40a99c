//! The life of a flow: what opens one, what keeps it, what ends it, and what happens when half of it is gone.

use crate::fixture::{
    LAPTOP, LOCAL_POD, MYSQL, NAT, PC, POD, TUNNEL, UPLINK, advance, fixture, flow_key, flows,
    forward, in_sequence, only_flow, pass, replies, send,
};
use crate::packets::{Wire, addresses, assert_sound, at, endpoints, identifier};
use bridge_common::abi::{Affinity, AffinityKey, Backend, Flow, FlowKey, Reply, ServiceKey};
use bridge_common::conntrack::tcp_state::{Seen, State};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::tables::Tables;
use bridge_common::verdict::Verdict;

const CLIENT: Endpoint = at(PC, 20_000);
const WEB: Endpoint = at(POD, 80);

#[test]
fn a_handshake_establishes_one_flow_and_counts_it() {
    let tables = fixture();
    establish(&tables);
    let (key, flow, reply) = only_flow(&tables);
    assert_eq!(key, flow_key(TCP, CLIENT, WEB));
    assert_eq!((flow.nat, flow.backend), (NAT, POD));
    assert_eq!(state(&flow, &reply), State::Established);
    assert_eq!((flow.packets, reply.packets), (2, 1));
    let len = Wire::tcp(CLIENT, WEB, SYN).payload([]).bytes().len() as u64;
    assert_eq!((flow.bytes(), u64::from(reply.bytes)), (2 * len, len));
    assert_eq!(opened(&tables), 1);
    assert_eq!(tables.counted(Count::ToBackend), 2);
    assert_eq!(tables.counted(Count::ToClient), 1);
}

#[test]
fn segments_of_an_unknown_connection_open_nothing() {
    let tables = fixture();
    for destination in [WEB, MYSQL] {
        for flags in [FIN | ACK, FIN, 0, SYN | RST, RST, RST | ACK] {
            let bytes = Wire::tcp(CLIENT, destination, flags).bytes();
            let (verdict, _) = send(&tables, Side::Uplink, bytes);
            let expected = if flags & RST == 0 {
                Verdict::Reflect
            } else {
                Verdict::Drop(DropReason::NoFlow)
            };
            assert_eq!(verdict, expected, "flags {flags:#x} to {destination:?}");
        }
    }
    assert_eq!(tables.counted(Count::Drop(DropReason::NoFlow)), 12);
    assert!(flows(&tables).is_empty() && replies(&tables).is_empty());
    assert_eq!(opened(&tables), 0);
}

#[test]
fn a_connection_that_the_tables_have_lost_goes_on() {
    let mut tables = fixture();
    let nat = establish(&tables);
    tables.flows.borrow_mut().clear();
    tables.replies.borrow_mut().clear();
    // The node has rebooted. Either end may speak first, and the backend's segment finds nobody yet.
    assert_eq!(from_client(&tables, ACK), nat);
    from_backend(&tables, nat, ACK);
    let (_, flow, reply) = only_flow(&tables);
    assert_eq!(state(&flow, &reply), State::Established);
    assert_eq!(
        (opened(&tables), tables.counted(Count::FlowAdopted)),
        (1, 1)
    );
    // Its port may not be had again: what is left is to say so.
    tables.flows.borrow_mut().clear();
    tables.replies.borrow_mut().clear();
    reserve_all_ports(&mut tables);
    is_reset(&tables, ACK);
    assert_eq!(tables.counted(Count::FlowAdopted), 1);
}

#[test]
fn a_connection_to_a_service_goes_on_where_its_backend_can_be_told() {
    let mut tables = fixture();
    let ack = || Wire::tcp(CLIENT, MYSQL, ACK).bytes();
    assert_eq!(send(&tables, Side::Uplink, ack()).0, Verdict::Reflect);
    let key = ServiceKey {
        vip: MYSQL.address,
        port: MYSQL.port,
        protocol: TCP,
        pad: 0,
    };
    let only = Backend {
        address: POD,
        port: 3306,
        pad: [0; 2],
    };
    let service = tables.services.get_mut(&key).unwrap();
    (service.backend_count, service.only) = (1, only);
    let bytes = forward(&tables, Side::Uplink, ack(), TUNNEL);
    assert_eq!(endpoints(&bytes).1, at(POD, 3306));
    // Where clients come back to the same backend, that is the one.
    tables.flows.borrow_mut().clear();
    tables.replies.borrow_mut().clear();
    let service = tables.services.get_mut(&key).unwrap();
    (service.backend_count, service.affinity_seconds) = (4, 60);
    let client = AffinityKey {
        client: CLIENT.address,
        service: key,
    };
    let last = Affinity {
        backend: only,
        last_used: 0,
    };
    tables.set_affinity(&client, &last);
    let bytes = forward(&tables, Side::Uplink, ack(), TUNNEL);
    assert_eq!(endpoints(&bytes).1, at(POD, 3306));
}

#[test]
fn a_flow_knows_whether_its_client_waits_for_an_answer() {
    let tables = fixture();
    let data = [1; 10];
    for (flags, payload, asks) in [
        (SYN, &[][..], true),
        (ACK, &[], false),
        (ACK, &data, true),
        (ACK, &[], false),
        (FIN | ACK, &[], true),
    ] {
        let segment = Wire::tcp(CLIENT, WEB, flags).payload(payload);
        forward(&tables, Side::Uplink, segment.bytes(), TUNNEL);
        let (_, flow, _) = only_flow(&tables);
        assert_eq!(flow.tcp_seen & Seen::ASKS != 0, asks, "{flags:#x}");
    }
}

#[test]
fn an_echo_reply_opens_nothing() {
    let tables = fixture();
    pass(&tables, Side::Uplink, Wire::pong(PC, POD, 1).bytes());
    assert!(flows(&tables).is_empty());
}

#[test]
fn a_retransmitted_syn_stays_on_its_flow() {
    let tables = fixture();
    let nat = from_client(&tables, SYN);
    for _ in 0..3 {
        advance(&tables, 3);
        assert_eq!(from_client(&tables, SYN), nat);
    }
    assert_eq!(opened(&tables), 1);
}

#[test]
fn a_syn_after_both_sides_closed_opens_another_flow() {
    let tables = fixture();
    let nat = establish(&tables);
    from_client(&tables, FIN | ACK);
    from_backend(&tables, nat, FIN | ACK);
    from_client(&tables, ACK);
    let (_, flow, reply) = only_flow(&tables);
    assert_eq!(state(&flow, &reply), State::Closing);
    advance(&tables, 1);
    let nat = from_client(&tables, SYN);
    from_backend(&tables, nat, SYN | ACK);
    from_client(&tables, ACK);
    let (_, flow, reply) = only_flow(&tables);
    assert_eq!(state(&flow, &reply), State::Established);
    assert_eq!(opened(&tables), 2);
    assert_eq!(flow.packets, 2, "counted from the new SYN on");
}

#[test]
fn a_syn_after_a_reset_opens_another_flow() {
    for client_resets in [true, false] {
        let tables = fixture();
        let nat = establish(&tables);
        if client_resets {
            from_client(&tables, RST);
        } else {
            from_backend(&tables, nat, RST | ACK);
        }
        let (_, flow, reply) = only_flow(&tables);
        assert_eq!(state(&flow, &reply), State::Reset);
        from_client(&tables, SYN);
        let (_, flow, reply) = only_flow(&tables);
        assert_eq!(state(&flow, &reply), State::Opening);
        assert_eq!(opened(&tables), 2);
    }
}

#[test]
fn a_syn_on_an_established_flow_changes_nothing() {
    // The backend answers it with a challenge ACK (RFC 9293 3.10.7.4).
    let tables = fixture();
    let nat = establish(&tables);
    assert_eq!(from_client(&tables, SYN), nat);
    assert_eq!(opened(&tables), 1);
}

#[test]
fn data_after_a_reset_still_goes_through() {
    // The backend may have found the reset out of its window.
    let tables = fixture();
    let nat = establish(&tables);
    from_client(&tables, RST);
    from_client(&tables, ACK);
    from_backend(&tables, nat, ACK);
}

#[test]
fn repeated_resets_do_not_keep_a_flow() {
    let mut tables = fixture();
    establish(&tables);
    from_client(&tables, RST);
    let transitory = tables.settings.timeouts.tcp_transitory;
    for _ in 0..4 {
        advance(&tables, transitory / 4);
        send(&tables, Side::Uplink, Wire::tcp(CLIENT, WEB, RST).bytes());
    }
    reserve_all_ports(&mut tables);
    is_reset(&tables, ACK);
    assert!(flows(&tables).is_empty() && replies(&tables).is_empty());
}

#[test]
fn an_idle_session_is_there_in_the_morning() {
    let tables = fixture();
    let nat = establish(&tables);
    advance(&tables, 12 * 3600);
    from_backend(&tables, nat, ACK);
    advance(&tables, 12 * 3600);
    assert_eq!(from_client(&tables, ACK), nat);
}

#[test]
fn an_expired_connection_counts_as_absent_for_the_client() {
    let mut tables = fixture();
    establish(&tables);
    advance(&tables, tables.settings.timeouts.tcp_established);
    reserve_all_ports(&mut tables);
    is_reset(&tables, ACK);
    assert!(flows(&tables).is_empty() && replies(&tables).is_empty());
}

#[test]
fn an_expired_connection_counts_as_absent_for_the_backend() {
    let tables = fixture();
    let nat = establish(&tables);
    advance(&tables, tables.settings.timeouts.tcp_established);
    pass(&tables, Side::Cluster, Wire::tcp(WEB, nat, ACK).bytes());
}

#[test]
fn a_flow_lives_by_either_direction() {
    let tables = fixture();
    let (client, pod) = (at(PC, 20_000), at(POD, 5_353));
    let bytes = forward(
        &tables,
        Side::Uplink,
        Wire::udp(client, pod).bytes(),
        TUNNEL,
    );
    let nat = endpoints(&bytes).0;
    for _ in 0..5 {
        advance(&tables, 110);
        forward(&tables, Side::Cluster, Wire::udp(pod, nat).bytes(), UPLINK);
    }
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(client, pod).bytes(),
        TUNNEL,
    );
    assert_eq!(opened(&tables), 1);
    advance(&tables, tables.settings.timeouts.udp);
    pass(&tables, Side::Cluster, Wire::udp(pod, nat).bytes());
}

#[test]
fn an_expired_udp_flow_is_opened_anew() {
    let tables = fixture();
    let wire = Wire::udp(at(PC, 20_000), at(POD, 53));
    for count in 1..=3 {
        forward(&tables, Side::Uplink, wire.bytes(), TUNNEL);
        assert_eq!(opened(&tables), count);
        only_flow(&tables);
        advance(&tables, tables.settings.timeouts.udp_unreplied);
    }
}

#[test]
fn two_clients_with_the_same_port_keep_both_sessions() {
    let tables = fixture();
    let clients = [at(PC, 20_000), at(LAPTOP, 20_000)];
    let nats = clients.map(|client| {
        let bytes = Wire::tcp(client, WEB, SYN).bytes();
        endpoints(&forward(&tables, Side::Uplink, bytes, TUNNEL)).0
    });
    assert_ne!(nats[0], nats[1]);
    for (client, nat) in clients.into_iter().zip(nats) {
        let bytes = Wire::tcp(WEB, nat, SYN | ACK).bytes();
        let bytes = forward(&tables, Side::Cluster, bytes, UPLINK);
        assert_eq!(endpoints(&bytes), (WEB, client));
    }
}

#[test]
fn two_pings_with_the_same_identifier_keep_both_answers() {
    let tables = fixture();
    let clients = [PC, LAPTOP];
    let ids = clients.map(|client| {
        let bytes = Wire::ping(client, POD, 1).bytes();
        identifier(&forward(&tables, Side::Uplink, bytes, TUNNEL))
    });
    assert_ne!(ids[0], ids[1]);
    for (client, id) in clients.into_iter().zip(ids) {
        let bytes = forward(
            &tables,
            Side::Cluster,
            Wire::pong(POD, NAT, id).bytes(),
            UPLINK,
        );
        assert_eq!(addresses(&bytes), (POD, client));
        assert_eq!(identifier(&bytes), 1);
        assert_sound(&bytes);
    }
}

#[test]
fn one_client_pings_two_pods_with_one_identifier() {
    let tables = fixture();
    forward(
        &tables,
        Side::Uplink,
        Wire::ping(PC, POD, 1).bytes(),
        TUNNEL,
    );
    send(&tables, Side::Uplink, Wire::ping(PC, LOCAL_POD, 1).bytes());
    let keys: Vec<FlowKey> = flows(&tables).into_iter().map(|(key, _)| key).collect();
    assert!(keys.contains(&flow_key(ICMP, at(PC, 1), at(POD, 0))));
    assert!(keys.contains(&flow_key(ICMP, at(PC, 1), at(LOCAL_POD, 0))));
    // Towards different pods nothing collides, so both keep the client's identifier.
    assert!(replies(&tables).iter().all(|(key, _)| key.nat_port == 1));
}

#[test]
fn a_lost_reply_entry_is_put_back() {
    let tables = fixture();
    let nat = establish(&tables);
    tables.replies.borrow_mut().clear();
    advance(&tables, 8);
    assert_eq!(from_client(&tables, ACK), nat);
    from_backend(&tables, nat, ACK);
    let (_, flow, reply) = only_flow(&tables);
    assert_eq!(state(&flow, &reply), State::Established);
    assert_eq!(opened(&tables), 1);
}

#[test]
fn a_reply_entry_lost_long_ago_resets_the_connection() {
    let mut tables = fixture();
    establish(&tables);
    tables.replies.borrow_mut().clear();
    advance(&tables, tables.settings.timeouts.tcp_transitory);
    reserve_all_ports(&mut tables);
    is_reset(&tables, ACK);
    assert!(flows(&tables).is_empty());
}

#[test]
fn a_reply_entry_that_became_anothers_resets_the_connection() {
    let mut tables = fixture();
    let nat = establish(&tables);
    let (_, flow, _) = only_flow(&tables);
    let reply_key = flow_key(TCP, CLIENT, WEB).reply_key(&flow);
    tables.replies.borrow()[&reply_key].borrow_mut().client = LAPTOP;
    advance(&tables, 8);
    reserve_all_ports(&mut tables);
    is_reset(&tables, ACK);
    assert!(flows(&tables).is_empty());
    // The other's session goes on.
    let bytes = forward(
        &tables,
        Side::Cluster,
        Wire::tcp(WEB, nat, ACK).bytes(),
        UPLINK,
    );
    assert_eq!(endpoints(&bytes).1, at(LAPTOP, CLIENT.port));
}

#[test]
fn a_lost_forward_entry_resets_a_tcp_connection() {
    let mut tables = fixture();
    establish(&tables);
    tables.flows.borrow_mut().clear();
    reserve_all_ports(&mut tables);
    is_reset(&tables, ACK);
}

#[test]
fn a_lost_forward_entry_of_udp_is_rebuilt_on_the_same_port() {
    let tables = fixture();
    let wire = Wire::udp(at(PC, 20_000), at(POD, 53));
    let before = endpoints(&forward(&tables, Side::Uplink, wire.bytes(), TUNNEL)).0;
    tables.flows.borrow_mut().clear();
    let after = endpoints(&forward(&tables, Side::Uplink, wire.bytes(), TUNNEL)).0;
    assert_eq!(before, after);
    let (key, ..) = only_flow(&tables);
    assert_eq!(key, flow_key(UDP, wire.source, wire.destination));
}

#[test]
fn a_connection_on_what_another_left_behind_starts_afresh() {
    // The reply entry still says that the backend has closed and reset.
    let tables = fixture();
    let nat = establish(&tables);
    from_backend(&tables, nat, FIN | ACK);
    from_backend(&tables, nat, RST);
    tables.flows.borrow_mut().clear();
    establish(&tables);
    let (_, flow, reply) = only_flow(&tables);
    assert_eq!(state(&flow, &reply), State::Established);
}

fn from_client(tables: &SimTables, flags: u8) -> Endpoint {
    let bytes = in_sequence(tables, Wire::tcp(CLIENT, WEB, flags).payload([]));
    endpoints(&forward(tables, Side::Uplink, bytes, TUNNEL)).0
}

fn from_backend(tables: &SimTables, nat: Endpoint, flags: u8) {
    let bytes = forward(
        tables,
        Side::Cluster,
        in_sequence(tables, Wire::tcp(WEB, nat, flags).payload([])),
        UPLINK,
    );
    assert_eq!(endpoints(&bytes), (WEB, CLIENT));
}

/// A connection on which data may flow; gives its NAT endpoint.
fn establish(tables: &SimTables) -> Endpoint {
    let nat = from_client(tables, SYN);
    from_backend(tables, nat, SYN | ACK);
    assert_eq!(from_client(tables, ACK), nat);
    nat
}

fn state(flow: &Flow, reply: &Reply) -> State {
    State::of(Seen(flow.tcp_seen), Seen(reply.tcp_seen()))
}

fn opened(tables: &SimTables) -> u64 {
    tables.counted(Count::FlowOpened)
}

/// Sends a segment of a connection that is no more: the client is told.
#[track_caller]
fn is_reset(tables: &SimTables, flags: u8) {
    let (verdict, bytes) = send(tables, Side::Uplink, Wire::tcp(CLIENT, WEB, flags).bytes());
    assert_eq!(verdict, Verdict::Reflect);
    assert_eq!(endpoints(&bytes), (WEB, CLIENT));
    assert_sound(&bytes);
}

/// From now on no flow can have its client's port.
fn reserve_all_ports(tables: &mut SimTables) {
    tables.set_nat_ports(|_| true);
}
