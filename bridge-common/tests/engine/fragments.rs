//! Fragments: only the first has ports, and all of them go the same way.

use crate::fixture::{
    DNS, LAPTOP, NAT, OUTSIDER, PC, POD, TUNNEL, UPLINK, advance, fixture, flows, forward, pass,
    send, to_stack,
};
use crate::packets::{
    Wire, addresses, assert_header_is_sound, assert_sound, at, endpoints, identifier, reassemble,
};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::SYN;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::verdict::Verdict;

const SIZE: usize = 1400;

#[test]
fn a_datagram_in_fragments_arrives_whole_in_both_directions() {
    for wire in [
        Wire::udp(at(PC, 80), DNS),
        Wire::udp(at(PC, 20_000), at(POD, 53)),
        Wire::tcp(at(PC, 80), at(POD, 80), SYN),
    ] {
        let tables = fixture();
        let wire = big(wire);
        let whole = forward_all(&tables, Side::Uplink, wire.fragments(SIZE), TUNNEL);
        assert_sound(&whole);
        let (nat, backend) = endpoints(&whole);
        let expected = wire.between(nat, backend).ttl(wire.ttl - 1);
        assert_eq!(whole, expected.bytes());
        assert_eq!(tables.counted(Count::FlowOpened), 1);

        let answer = wire.between(backend, nat);
        let whole = forward_all(&tables, Side::Cluster, answer.fragments(SIZE), UPLINK);
        let expected = wire.reply().ttl(wire.ttl - 1);
        assert_eq!(whole, expected.bytes());
    }
}

#[test]
fn a_big_ping_arrives_whole_and_is_answered() {
    let tables = fixture();
    // Another client's identifier is in the way.
    forward(
        &tables,
        Side::Uplink,
        Wire::ping(LAPTOP, POD, 1).bytes(),
        TUNNEL,
    );
    let request = big(Wire::ping(PC, POD, 1));
    let whole = forward_all(&tables, Side::Uplink, request.fragments(SIZE), TUNNEL);
    assert_sound(&whole);
    assert_eq!(addresses(&whole), (NAT, POD));
    assert_ne!(identifier(&whole), 1);
    let answer = big(Wire::pong(POD, NAT, identifier(&whole)));
    let whole = forward_all(&tables, Side::Cluster, answer.fragments(SIZE), UPLINK);
    assert_eq!(whole, request.reply().ttl(answer.ttl - 1).bytes());
}

#[test]
fn fragments_may_come_in_any_order_after_the_first() {
    let tables = fixture();
    let wire = big(Wire::udp(at(PC, 20_000), at(POD, 53)));
    let [first, second, third] = wire.fragments(SIZE).try_into().unwrap();
    for fragment in [first, third, second] {
        forward(&tables, Side::Uplink, fragment, TUNNEL);
    }
}

#[test]
fn a_fragment_that_overtakes_its_first_is_dropped_and_counted() {
    for destination in [DNS, at(POD, 53)] {
        let tables = fixture();
        let fragments = big(Wire::udp(at(PC, 20_000), destination)).fragments(SIZE);
        let (verdict, _) = send(&tables, Side::Uplink, fragments[1].clone());
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentUnknown));
        assert_eq!(tables.counted(Count::Drop(DropReason::FragmentUnknown)), 1);
        assert!(flows(&tables).is_empty());
        // The rest of the datagram goes through nevertheless.
        forward(&tables, Side::Uplink, fragments[0].clone(), TUNNEL);
        forward(&tables, Side::Uplink, fragments[2].clone(), TUNNEL);
    }
}

#[test]
fn an_unknown_fragment_that_is_not_ours_passes() {
    let tables = fixture();
    let later = |from, to| big(Wire::udp(from, to)).fragments(SIZE).remove(1);
    pass(&tables, Side::Uplink, later(at(OUTSIDER, 1), at(POD, 53)));
    pass(&tables, Side::Cluster, later(at(POD, 53), at(NAT, 20_000)));
    let mut beside_kube_proxy = fixture();
    beside_kube_proxy.settings.authoritative = 0;
    to_stack(&beside_kube_proxy, later(at(PC, 20_000), DNS));
}

#[test]
fn fragments_of_two_datagrams_are_not_mixed_up() {
    let tables = fixture();
    let one = big(Wire::udp(at(PC, 20_000), at(POD, 53)));
    let other = big(Wire::udp(at(PC, 20_001), at(POD, 54))).fragmentable(0x4343);
    let from_elsewhere = big(Wire::udp(at(LAPTOP, 20_002), at(POD, 55)));
    let all = [one, other, from_elsewhere];
    let fragments: Vec<Vec<Vec<u8>>> = all.iter().map(|wire| wire.fragments(SIZE)).collect();
    let mut arrived = vec![Vec::new(); all.len()];
    for index in 0..fragments[0].len() {
        for (which, fragments) in fragments.iter().enumerate() {
            arrived[which].push(forward(
                &tables,
                Side::Uplink,
                fragments[index].clone(),
                TUNNEL,
            ));
        }
    }
    for (wire, fragments) in all.iter().zip(arrived) {
        let whole = reassemble(&fragments);
        assert_sound(&whole);
        assert_eq!(endpoints(&whole).0.port, wire.source.port);
        assert_eq!(endpoints(&whole).1, wire.destination);
    }
}

#[test]
fn a_first_fragment_is_forgotten_after_ten_seconds() {
    let tables = fixture();
    let fragments = big(Wire::udp(at(PC, 20_000), at(POD, 53))).fragments(SIZE);
    forward(&tables, Side::Uplink, fragments[0].clone(), TUNNEL);
    advance(&tables, 9);
    forward(&tables, Side::Uplink, fragments[1].clone(), TUNNEL);
    advance(&tables, 1);
    let (verdict, _) = send(&tables, Side::Uplink, fragments[2].clone());
    assert_eq!(verdict, Verdict::Drop(DropReason::FragmentUnknown));
}

#[test]
fn a_reused_identification_belongs_to_the_newer_datagram() {
    let tables = fixture();
    for port in [20_000, 20_001] {
        let wire = big(Wire::udp(at(PC, port), at(POD, 53)));
        let whole = forward_all(&tables, Side::Uplink, wire.fragments(SIZE), TUNNEL);
        assert_eq!(endpoints(&whole).0.port, port);
    }
    // Later fragments count for the flow of their own datagram.
    let fragments = big(Wire::udp(at(PC, 1), at(POD, 53))).fragments(SIZE).len();
    for (_, flow) in flows(&tables) {
        assert_eq!(usize::try_from(flow.packets).unwrap(), fragments);
    }
}

#[test]
fn a_first_fragment_too_short_for_its_header_passes_untouched() {
    let tables = fixture();
    let fragments = big(Wire::tcp(at(PC, 20_000), at(POD, 80), SYN)).fragments(16);
    pass(&tables, Side::Uplink, fragments[0].clone());
    assert!(flows(&tables).is_empty());
}

#[test]
fn whole_datagrams_leave_no_trace_among_the_fragments() {
    let tables = fixture();
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(at(PC, 20_000), at(POD, 53)).bytes(),
        TUNNEL,
    );
    assert!(tables.fragments.borrow().is_empty());
}

fn forward_all(tables: &SimTables, side: Side, fragments: Vec<Vec<u8>>, ifindex: u32) -> Vec<u8> {
    let translated: Vec<Vec<u8>> = fragments
        .into_iter()
        .map(|fragment| {
            let bytes = forward(tables, side, fragment, ifindex);
            assert_header_is_sound(&bytes);
            bytes
        })
        .collect();
    reassemble(&translated)
}

fn big(wire: Wire) -> Wire {
    wire.fragmentable(0x4242)
        .payload((0..=u8::MAX).cycle().take(4001).collect::<Vec<u8>>())
}
