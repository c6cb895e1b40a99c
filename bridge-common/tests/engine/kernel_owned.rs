//! Connections that pods open to the office: the kernel's, in both directions.

use bridge_common::abi::Layer;
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, SYN};
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::path::tc::Side;
use bridge_common::verdict::Verdict;

use crate::fixture::{
    LOCAL_POD, OUTSIDER, PC, POD, TUNNEL, VIP, advance, fixture, flow_key, flows, forward, pass,
    replies, send,
};
use crate::packets::{Wire, at, endpoints, icmp_error};

#[test]
fn the_answers_to_a_pods_own_connection_pass() {
    let tables = fixture();
    let (pod, client) = (at(LOCAL_POD, 40_000), at(PC, 8080));
    pass(&tables, Side::Cluster, Wire::tcp(pod, client, SYN).bytes());
    pass(
        &tables,
        Side::Uplink,
        Wire::tcp(client, pod, SYN | ACK).bytes(),
    );
    pass(&tables, Side::Cluster, Wire::tcp(pod, client, ACK).bytes());
    pass(&tables, Side::Uplink, Wire::tcp(client, pod, ACK).bytes());
    let all = flows(&tables);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0, flow_key(TCP, client, pod));
    assert_eq!(all[0].1.layer, Layer::Kernel as u8);
    assert!(replies(&tables).is_empty());
}

#[test]
fn the_answers_to_a_pod_whose_syn_took_another_way_are_sent_on_as_they_are() {
    let tables = fixture();
    let (pod, client) = (at(POD, 40_000), at(PC, 8080));
    for flags in [SYN | ACK, ACK, ACK, FIN | ACK] {
        let bytes = Wire::tcp(client, pod, flags).bytes();
        let sent = forward(&tables, Side::Uplink, bytes, TUNNEL);
        assert_eq!(endpoints(&sent), (client, pod));
    }
    let (_, flow) = flows(&tables)[0];
    assert_eq!((flow.layer, flow.packets), (Layer::Passed as u8, 4));
    assert!(replies(&tables).is_empty());
}

#[test]
fn what_can_not_be_an_answer_to_a_pod_is_translated() {
    let tables = fixture();
    // A client's port, or a server's in the cluster.
    for (client, pod) in [(40_000, 40_000), (8080, 8081)] {
        let wire = Wire::udp(at(PC, client), at(POD, pod));
        let sent = forward(&tables, Side::Uplink, wire.bytes(), TUNNEL);
        assert_ne!(endpoints(&sent).0.address, PC);
        let wire = Wire::tcp(at(PC, client), at(POD, pod), SYN);
        let sent = forward(&tables, Side::Uplink, wire.bytes(), TUNNEL);
        assert_ne!(endpoints(&sent).0.address, PC);
    }
    // A resolver of the office answers a pod.
    let answer = Wire::udp(at(PC, 53), at(POD, 40_000)).bytes();
    let sent = forward(&tables, Side::Uplink, answer, TUNNEL);
    assert_eq!(endpoints(&sent), (at(PC, 53), at(POD, 40_000)));
}

#[test]
fn a_session_of_a_pod_that_was_there_before_goes_on() {
    let tables = fixture();
    let (pod, client) = (at(POD, 40_000), at(PC, 8080));
    let ack = Wire::tcp(client, pod, ACK).bytes();
    let sent = forward(&tables, Side::Uplink, ack, TUNNEL);
    assert_eq!(endpoints(&sent), (client, pod));
}

#[test]
fn an_answer_to_a_service_is_none() {
    let tables = fixture();
    let wire = Wire::tcp(at(PC, 8080), at(VIP, 40_000), SYN | ACK);
    assert_eq!(
        send(&tables, Side::Uplink, wire.bytes()).0,
        Verdict::Reflect
    );
    assert!(flows(&tables).is_empty());
}

#[test]
fn the_answers_to_a_pods_own_datagrams_and_pings_pass() {
    let tables = fixture();
    let (pod, client) = (at(LOCAL_POD, 40_000), at(PC, 53));
    pass(&tables, Side::Cluster, Wire::udp(pod, client).bytes());
    pass(&tables, Side::Uplink, Wire::udp(client, pod).bytes());
    pass(&tables, Side::Cluster, Wire::ping(LOCAL_POD, PC, 9).bytes());
    pass(&tables, Side::Uplink, Wire::pong(PC, LOCAL_POD, 9).bytes());
    assert!(replies(&tables).is_empty());
    assert!(
        flows(&tables)
            .iter()
            .all(|(_, flow)| flow.layer == Layer::Kernel as u8)
    );
}

#[test]
fn a_pods_ping_to_a_host_does_not_claim_that_hosts_pings() {
    let tables = fixture();
    pass(&tables, Side::Cluster, Wire::ping(POD, PC, 1).bytes());
    let (verdict, _) = send(&tables, Side::Uplink, Wire::ping(PC, POD, 1).bytes());
    assert_eq!(verdict, Verdict::Forward { ifindex: TUNNEL });
}

#[test]
fn answers_in_fragments_pass_whole() {
    let tables = fixture();
    pass(
        &tables,
        Side::Cluster,
        Wire::udp(at(LOCAL_POD, 40_000), at(PC, 53)).bytes(),
    );
    pass(&tables, Side::Cluster, Wire::ping(LOCAL_POD, PC, 9).bytes());
    let big = [7; 3000];
    for answer in [
        Wire::udp(at(PC, 53), at(LOCAL_POD, 40_000)).fragmentable(1),
        Wire::pong(PC, LOCAL_POD, 9).fragmentable(2),
        Wire::pong(PC, POD, 10).fragmentable(3),
    ] {
        for fragment in answer.payload(big).fragments(1480) {
            pass(&tables, Side::Uplink, fragment);
        }
    }
}

#[test]
fn errors_about_a_pods_own_connection_pass() {
    let tables = fixture();
    let (pod, client) = (at(LOCAL_POD, 40_000), at(PC, 8080));
    let syn = Wire::tcp(pod, client, SYN).bytes();
    pass(&tables, Side::Cluster, syn.clone());
    pass(
        &tables,
        Side::Uplink,
        icmp_error(PC, LOCAL_POD, [3, 3], [0; 4], &syn),
    );
}

#[test]
fn a_host_that_connects_back_on_the_same_ports_gets_a_flow() {
    let tables = fixture();
    let (pod, client) = (at(POD, 40_000), at(PC, 8080));
    forward(
        &tables,
        Side::Uplink,
        Wire::tcp(client, pod, SYN | ACK).bytes(),
        TUNNEL,
    );
    forward(
        &tables,
        Side::Uplink,
        Wire::tcp(client, pod, SYN).bytes(),
        TUNNEL,
    );
    assert_eq!(flows(&tables)[0].1.layer, Layer::Tc as u8);
}

#[test]
fn a_pods_packet_keeps_its_connection_and_silence_ends_it() {
    let tables = fixture();
    let (pod, client) = (at(LOCAL_POD, 40_000), at(PC, 5_353));
    let timeout = tables.settings.timeouts.udp;
    pass(&tables, Side::Cluster, Wire::udp(pod, client).bytes());
    for _ in 0..3 {
        advance(&tables, timeout - 1);
        pass(&tables, Side::Cluster, Wire::udp(pod, client).bytes());
    }
    advance(&tables, timeout - 1);
    pass(&tables, Side::Uplink, Wire::udp(client, pod).bytes());
    advance(&tables, timeout);
    let (verdict, _) = send(&tables, Side::Uplink, Wire::udp(client, pod).bytes());
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
}

#[test]
fn a_pods_answer_to_a_translated_flow_leaves_it_alone() {
    let tables = fixture();
    let (pod, client) = (at(POD, 53), at(PC, 20_000));
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(client, pod).bytes(),
        TUNNEL,
    );
    pass(&tables, Side::Cluster, Wire::udp(pod, client).bytes());
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(client, pod).bytes(),
        TUNNEL,
    );
    assert_eq!(flows(&tables)[0].1.layer, Layer::Tc as u8);
}

#[test]
fn only_pods_own_connections_are_noted() {
    let tables = fixture();
    // Not from a pod, not to the office, and not the start of anything.
    pass(
        &tables,
        Side::Cluster,
        Wire::udp(at(OUTSIDER, 1), at(PC, 53)).bytes(),
    );
    pass(
        &tables,
        Side::Cluster,
        Wire::udp(at(POD, 1), at(OUTSIDER, 53)).bytes(),
    );
    pass(
        &tables,
        Side::Cluster,
        Wire::tcp(at(POD, 1), at(PC, 80), ACK).bytes(),
    );
    pass(&tables, Side::Cluster, Wire::pong(POD, PC, 1).bytes());
    assert!(flows(&tables).is_empty());
}

#[test]
fn a_full_table_does_not_stop_a_pods_connection() {
    let mut tables = fixture();
    tables.capacity = 0;
    let (pod, client) = (at(LOCAL_POD, 40_000), at(PC, 8080));
    pass(&tables, Side::Cluster, Wire::tcp(pod, client, SYN).bytes());
    let (verdict, _) = send(
        &tables,
        Side::Uplink,
        Wire::tcp(client, pod, SYN | ACK).bytes(),
    );
    assert_eq!(verdict, Verdict::Pass);
}

#[test]
fn each_protocol_is_noted_by_the_key_that_its_answer_has() {
    let tables = fixture();
    pass(
        &tables,
        Side::Cluster,
        Wire::udp(at(POD, 1000), at(PC, 53)).bytes(),
    );
    pass(&tables, Side::Cluster, Wire::ping(POD, PC, 9).bytes());
    let keys: Vec<_> = flows(&tables).into_iter().map(|(key, _)| key).collect();
    assert!(keys.contains(&flow_key(UDP, at(PC, 53), at(POD, 1000))));
    assert!(keys.contains(&flow_key(ICMP, at(PC, 0), at(POD, 9))));
}
