//! Fragments: only the first has ports, and all of them go the same way.

use std::collections::VecDeque;

use crate::fixture::{
    DNS, LAPTOP, MYSQL, NAT, OUTSIDER, PC, POD, TUNNEL, UPLINK, VIP, advance, fixture, flows,
    forward, pass, send, to_stack,
};
use crate::packets::{
    Wire, addresses, assert_header_is_sound, assert_sound, at, endpoints, identifier, ip_packet,
    reassemble,
};
use bridge_common::conntrack::fragments;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::SYN;
use bridge_common::packet::parse::{Datagram, TCP, UDP};
use bridge_common::path::held;
use bridge_common::path::tc::{self, Side};
use bridge_common::sim::{SimPacket, SimTables};
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
fn every_order_of_fragments_arrives_whole_in_both_directions() {
    for wire in [
        Wire::udp(at(PC, 80), DNS),
        Wire::udp(at(PC, 20_000), at(POD, 53)),
        Wire::tcp(at(PC, 20_000), at(POD, 80), SYN),
    ] {
        for order in ORDERS {
            let tables = fixture();
            let wire = big(wire.clone());
            let sent = in_order(&wire.fragments(SIZE), order);
            let whole = reassemble(&arrive(&tables, Side::Uplink, sent, TUNNEL));
            assert_sound(&whole);
            let (nat, backend) = endpoints(&whole);
            let expected = wire.between(nat, backend).ttl(wire.ttl - 1);
            assert_eq!(whole, expected.bytes(), "{order:?}");
            assert_eq!(tables.counted(Count::FlowOpened), 1);

            let answer = wire.between(backend, nat);
            let sent = in_order(&answer.fragments(SIZE), order);
            let whole = reassemble(&arrive(&tables, Side::Cluster, sent, UPLINK));
            let expected = wire.reply().ttl(wire.ttl - 1);
            assert_eq!(whole, expected.bytes(), "{order:?} back");
            let held = 2 * order.iter().position(|&index| index == 0).unwrap() as u64;
            assert_eq!(tables.counted(Count::FragmentHeld), held);
            assert_eq!(tables.counted(Count::FragmentReleased), held);
            assert_nothing_is_left(&tables);
        }
    }
}

#[test]
fn a_big_ping_in_any_order_arrives_whole_and_a_services_is_answered() {
    for order in ORDERS {
        let tables = fixture();
        let request = big(Wire::ping(PC, POD, 7));
        let sent = in_order(&request.fragments(SIZE), order);
        let whole = reassemble(&arrive(&tables, Side::Uplink, sent, TUNNEL));
        assert_sound(&whole);
        let answer = big(Wire::pong(POD, NAT, identifier(&whole)));
        let sent = in_order(&answer.fragments(SIZE), order);
        let whole = reassemble(&arrive(&tables, Side::Cluster, sent, UPLINK));
        assert_eq!(whole, request.reply().ttl(answer.ttl - 1).bytes());

        let request = big(Wire::ping(PC, VIP, 7));
        let sent = in_order(&request.fragments(SIZE), order);
        let mut answers = all(&tables, Side::Uplink, sent, |verdict| {
            verdict == Verdict::Reflect
        });
        answers.sort_by_key(|bytes| offset(bytes));
        let whole = reassemble(&answers);
        assert_eq!(whole, request.reply().ttl(64).bytes(), "{order:?}");
        assert_eq!(held(&tables), 0);
    }
}

#[test]
fn clients_whose_fragments_come_between_each_others_are_all_served() {
    for order in ORDERS {
        let tables = fixture();
        let wires = [
            big(Wire::udp(at(PC, 20_000), at(POD, 53))),
            big(Wire::udp(at(LAPTOP, 20_000), at(POD, 53))).fragmentable(0x4343),
            big(Wire::udp(at(PC, 20_001), at(POD, 53))).fragmentable(0x4444),
            big(Wire::udp(at(LAPTOP, 20_001), DNS)).fragmentable(0x4545),
        ];
        let all: Vec<_> = wires
            .iter()
            .map(|wire| in_order(&wire.fragments(SIZE), order))
            .collect();
        let interleaved = (0..3).flat_map(|index| all.iter().map(move |one| one[index].clone()));
        let arrived = arrive(&tables, Side::Uplink, interleaved.collect(), TUNNEL);
        for wire in &wires {
            let own: Vec<_> = arrived
                .iter()
                .filter(|bytes| bytes[4..6] == wire.identification.to_be_bytes())
                .cloned()
                .collect();
            let whole = reassemble(&own);
            assert_sound(&whole);
            let (nat, backend) = endpoints(&whole);
            let expected = wire.between(nat, backend).ttl(wire.ttl - 1);
            assert_eq!(whole, expected.bytes(), "{order:?}");
        }
        assert_nothing_is_left(&tables);
    }
}

#[test]
fn what_waits_in_vain_is_dropped_and_counted() {
    for (destination, seconds, is_late) in [
        (DNS, 2, false),
        (DNS, 3, true),
        (at(POD, 53), 2, false),
        (at(POD, 53), 3, true),
    ] {
        let tables = fixture();
        let fragments = big(Wire::udp(at(PC, 20_000), destination)).fragments(SIZE);
        hold(&tables, Side::Uplink, fragments[1].clone());
        assert!(flows(&tables).is_empty());
        advance(&tables, seconds);
        let arrived = arrive(&tables, Side::Uplink, vec![fragments[0].clone()], TUNNEL);
        assert_eq!(arrived.len(), if is_late { 1 } else { 2 });
        let late = u64::from(is_late);
        assert_eq!(
            tables.counted(Count::Drop(DropReason::FragmentUnknown)),
            late
        );
        assert_eq!(tables.counted(Count::FragmentReleased), 1 - late);
    }
}

#[test]
fn what_never_gets_a_first_is_counted_when_the_next_one_is_held() {
    let tables = fixture();
    for identification in 1..=3 {
        hold(&tables, Side::Uplink, later(identification));
    }
    advance(&tables, 3);
    hold(&tables, Side::Uplink, later(4));
    hold(&tables, Side::Uplink, later(5));
    assert_eq!(tables.counted(Count::Drop(DropReason::FragmentUnknown)), 3);
    assert_eq!(held(&tables), 2);
}

#[test]
fn a_flood_without_firsts_takes_room_from_itself() {
    let tables = fixture();
    let [first, second, third] = big(Wire::udp(at(LAPTOP, 20_000), at(POD, 53)))
        .fragments(SIZE)
        .try_into()
        .unwrap();
    for identification in 0..1_000 {
        hold(&tables, Side::Uplink, later(identification));
    }
    hold(&tables, Side::Uplink, third.clone());
    for identification in 1_000..1_500 {
        hold(&tables, Side::Uplink, later(identification));
    }
    let arrived = arrive(
        &tables,
        Side::Uplink,
        vec![first.clone(), second.clone()],
        TUNNEL,
    );
    assert_eq!(arrived.len(), 3);
    // Whoever is later than that is lost, and whoever is in order is not concerned.
    let whole = arrive(
        &tables,
        Side::Uplink,
        vec![first.clone(), second.clone(), third.clone()],
        TUNNEL,
    );
    assert_eq!(whole.len(), 3);
    hold(&tables, Side::Uplink, third);
    for identification in 1_500..2_100 {
        hold(&tables, Side::Uplink, later(identification));
    }
    let arrived = arrive(&tables, Side::Uplink, vec![first, second], TUNNEL);
    assert_eq!(arrived.len(), 2);
    // None vanishes.
    let count = |count| tables.counted(count);
    assert_eq!(
        count(Count::FragmentHeld),
        count(Count::FragmentReleased)
            + count(Count::Drop(DropReason::FragmentUnknown))
            + held(&tables) as u64
    );
}

#[test]
fn a_slot_that_another_cpu_works_at_is_left_alone() {
    let tables = fixture();
    tables.held_locks.borrow_mut().extend([0, 1]);
    hold(&tables, Side::Uplink, later(1));
    assert_eq!(tables.held_index.borrow().slots[2].key.identification, 1);
    tables.held_locks.borrow_mut().extend(3..7);
    let (verdict, _) = send(&tables, Side::Uplink, later(2));
    assert_eq!(verdict, Verdict::Drop(DropReason::FragmentUnknown));
}

#[test]
fn a_first_that_comes_while_a_later_one_is_stored_takes_it_along() {
    let tables = fixture();
    let [first, second, third] = big(Wire::udp(at(PC, 20_000), at(POD, 53)))
        .fragments(SIZE)
        .try_into()
        .unwrap();
    // Another CPU has handled the first between the look-up and the insertion of the second's.
    forward(&tables, Side::Uplink, first, TUNNEL);
    let ports = tables.fragments.borrow_mut().drain().next().unwrap();
    let mut packet = SimPacket::new(second.clone());
    let datagram = Datagram::parse(&packet).unwrap();
    assert_eq!(
        Verdict::from(held::hold(&packet, &tables)),
        Verdict::Held,
        "without ports there is no use in another round"
    );
    tables.fragments.borrow_mut().insert(ports.0, ports.1);
    assert!(!fragments::wait_for_first(&tables, &datagram));
    assert_eq!(
        Verdict::from(held::release(&mut packet, &tables)),
        Verdict::Held
    );
    assert_eq!(packet.requeued, std::slice::from_ref(&second));
    forward(&tables, Side::Uplink, second, TUNNEL);
    forward(&tables, Side::Uplink, third, TUNNEL);
}

#[test]
fn a_fragment_too_large_to_be_held_is_dropped_or_passed() {
    let tables = fixture();
    let jumbo = |from, to| big(Wire::udp(from, to)).fragments(2_400).remove(1);
    let wire = |from, to| {
        let mut fragment = jumbo(from, to);
        fragment.resize(20 + 1_900, 0);
        fragment[2..4].copy_from_slice(&1_920_u16.to_be_bytes());
        fragment[6] &= !0x20;
        fragment
    };
    let (verdict, _) = send(&tables, Side::Uplink, wire(at(PC, 20_000), at(POD, 53)));
    assert_eq!(verdict, Verdict::Drop(DropReason::FragmentUnknown));
    pass(&tables, Side::Cluster, wire(at(POD, 53), at(NAT, 20_000)));
    assert_eq!(held(&tables), 0);
}

#[test]
fn what_follows_a_refused_first_goes_no_further() {
    for refused in [at(VIP, 9), at([10, 244, 9, 9], 53)] {
        let tables = fixture();
        let fragments = big(Wire::udp(at(PC, 20_000), refused)).fragments(SIZE);
        hold(&tables, Side::Uplink, fragments[1].clone());
        let (verdict, _) = send(&tables, Side::Uplink, fragments[0].clone());
        assert_eq!(verdict, Verdict::Reflect, "the client is told");
        hold(&tables, Side::Uplink, fragments[2].clone());
        advance(&tables, 3);
        hold(&tables, Side::Uplink, later(1));
        assert_eq!(tables.counted(Count::Drop(DropReason::FragmentUnknown)), 2);
    }
}

#[test]
fn an_unknown_fragment_that_is_not_ours_passes() {
    let tables = fixture();
    let later = |from, to| big(Wire::udp(from, to)).fragments(SIZE).remove(1);
    pass(&tables, Side::Uplink, later(at(OUTSIDER, 1), at(POD, 53)));
    pass(
        &tables,
        Side::Cluster,
        later(at(OUTSIDER, 53), at(NAT, 20_000)),
    );
    let mut beside_kube_proxy = fixture();
    beside_kube_proxy.settings.authoritative = 0;
    to_stack(&beside_kube_proxy, later(at(PC, 20_000), DNS));
}

#[test]
fn what_a_pod_sends_to_the_node_itself_passes_in_any_order_and_again() {
    for order in ORDERS {
        let tables = fixture();
        let wire = big(Wire::udp(at(POD, 53), at(NAT, 20_000)));
        let sent = in_order(&wire.fragments(SIZE), order);
        let mut passed = all(&tables, Side::Cluster, sent, |verdict| {
            verdict == Verdict::Pass
        });
        passed.sort_by_key(|bytes| offset(bytes));
        assert_eq!(passed, wire.fragments(SIZE), "{order:?}");
        // A bridge and its port both have the program.
        for fragment in wire.fragments(SIZE) {
            pass(&tables, Side::Cluster, fragment);
        }
        assert_eq!(tables.counted(Count::Drop(DropReason::FragmentOverlap)), 0);
    }
}

#[test]
fn a_fragment_that_overlaps_another_is_dropped_and_counted() {
    let overlaps = |tables: &SimTables, side, wire: &Wire, (start, len): (usize, usize)| {
        let mut payload = wire.bytes().split_off(20);
        payload.resize((1 << 16) + 8, 0);
        let piece = &payload[start..start + len];
        let (verdict, _) = send(tables, side, ip_packet(wire, UDP, piece, start, true));
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentOverlap));
    };
    let pieces = [
        (0, 16),
        (8, 8),
        (SIZE - 8, 16),
        (2 * SIZE - 8, 16),
        (2 * SIZE, 1_208),
        (2 * SIZE + 1_200, 800),
        (4_016, 8),
        (65_512, 32),
    ];
    let request = big(Wire::udp(at(PC, 20_000), DNS));
    let tables = fixture();
    let [first, second, third] = request.fragments(SIZE).try_into().unwrap();
    let mut arrived = arrive(&tables, Side::Uplink, vec![first, third], TUNNEL);
    for piece in pieces {
        overlaps(&tables, Side::Uplink, &request, piece);
    }
    // Nor does what comes of it take anything from the datagram.
    let other_ports = ip_packet(&request, UDP, &[0xEE; 16], 0, true);
    let (verdict, _) = send(&tables, Side::Uplink, other_ports);
    assert_eq!(verdict, Verdict::Reflect, "no service has this port");
    arrived.insert(1, forward(&tables, Side::Uplink, second, TUNNEL));
    let whole = reassemble(&arrived);
    assert_sound(&whole);
    let (nat, backend) = endpoints(&whole);

    let answer = big(request.between(backend, nat));
    let [first, second, third] = answer.fragments(SIZE).try_into().unwrap();
    let mut arrived = arrive(&tables, Side::Cluster, vec![first, third], UPLINK);
    for piece in pieces {
        overlaps(&tables, Side::Cluster, &answer, piece);
    }
    arrived.insert(1, forward(&tables, Side::Cluster, second, UPLINK));
    assert_sound(&reassemble(&arrived));
    let count = tables.counted(Count::Drop(DropReason::FragmentOverlap));
    assert_eq!(count, 2 * pieces.len() as u64);
    assert_nothing_is_left(&tables);
}

#[test]
fn what_is_held_is_looked_at_for_overlaps_too() {
    let tables = fixture();
    let wire = big(Wire::udp(at(PC, 20_000), at(POD, 53)));
    let [first, second, third] = wire.fragments(SIZE).try_into().unwrap();
    hold(&tables, Side::Uplink, second.clone());
    hold(&tables, Side::Uplink, second);
    hold(
        &tables,
        Side::Uplink,
        ip_packet(&wire, UDP, &[0xEE; 8], 8, true),
    );
    let arrived = all(&tables, Side::Uplink, vec![first], |verdict| {
        matches!(
            verdict,
            Verdict::Forward { .. } | Verdict::Drop(DropReason::FragmentOverlap)
        )
    });
    assert_eq!(arrived.len(), 4);
    assert_eq!(tables.counted(Count::Drop(DropReason::FragmentOverlap)), 2);
    forward(&tables, Side::Uplink, third, TUNNEL);
    assert_eq!(tables.counted(Count::ToBackend), 3);
}

#[test]
fn a_tiny_fragment_is_dropped_and_counted() {
    let syn = Wire::tcp(at(PC, 20_000), at(POD, 80), SYN);
    let udp = Wire::udp(at(PC, 20_000), at(POD, 53));
    let piece = |wire: &Wire, len: usize, start: usize, more: bool| {
        ip_packet(wire, wire.protocol(), &vec![0xEE; len], start, more)
    };
    let is_tiny = |tables: &SimTables, side, bytes: Vec<u8>| {
        let before = tables.counted(Count::Drop(DropReason::FragmentTiny));
        let (verdict, _) = send(tables, side, bytes.clone());
        assert_eq!(
            verdict,
            Verdict::Drop(DropReason::FragmentTiny),
            "{bytes:02x?}"
        );
        let after = tables.counted(Count::Drop(DropReason::FragmentTiny));
        assert_eq!(after, before + 1);
    };
    for destination in [at(POD, 80), MYSQL] {
        let tables = fixture();
        let syn = syn.between(at(PC, 20_000), destination);
        for len in [8, 16] {
            is_tiny(
                &tables,
                Side::Uplink,
                big(syn.clone()).fragments(len).remove(0),
            );
        }
        // In front of any first, and behind one.
        is_tiny(&tables, Side::Uplink, piece(&syn, 8, 8, true));
        is_tiny(&tables, Side::Uplink, piece(&syn, 8, 16, false));
        let fragments = big(syn.clone()).fragments(SIZE);
        let sent = forward(&tables, Side::Uplink, fragments[0].clone(), TUNNEL);
        let overwriting = ip_packet(&big(syn.clone()), TCP, &[0xEE; 8], 8, true);
        is_tiny(&tables, Side::Uplink, overwriting);
        // Of an answer the ports tell whose it is.
        let (nat, backend) = endpoints(&sent);
        let answer = big(syn.between(backend, nat));
        is_tiny(&tables, Side::Cluster, answer.fragments(16).remove(0));
        pass(
            &tables,
            Side::Cluster,
            big(syn.between(backend, at(NAT, 1)))
                .fragments(16)
                .remove(0),
        );
    }
    let tables = fixture();
    forward(
        &tables,
        Side::Uplink,
        big(udp.clone()).fragments(SIZE).remove(0),
        TUNNEL,
    );
    for identification in [0x4242, 0x4243] {
        let udp = udp.clone().fragmentable(identification);
        is_tiny(&tables, Side::Uplink, piece(&udp, 12, SIZE, true));
        is_tiny(&tables, Side::Uplink, piece(&udp, 0, SIZE, true));
        is_tiny(&tables, Side::Uplink, piece(&udp, 0, SIZE, false));
    }
    is_tiny(&tables, Side::Uplink, {
        let mut bytes = big(udp).fragments(SIZE).remove(0);
        bytes.truncate(20 + SIZE - 4);
        bytes[2..4].copy_from_slice(&u16::try_from(20 + SIZE - 4).unwrap().to_be_bytes());
        bytes
    });
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
    hold(&tables, Side::Uplink, fragments[2].clone());
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

const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

fn in_order(fragments: &[Vec<u8>], order: [usize; 3]) -> Vec<Vec<u8>> {
    assert_eq!(fragments.len(), 3);
    order.map(|index| fragments[index].clone()).to_vec()
}

/// Where a fragment stands in its datagram, in bytes.
fn offset(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[6] & 0x1F, bytes[7]])) * 8
}

/// A later fragment whose first never comes.
fn later(identification: u16) -> Vec<u8> {
    big(Wire::udp(at(PC, 20_000), at(POD, 53)))
        .fragmentable(identification)
        .fragments(SIZE)
        .remove(1)
}

/// Fragments in the ring.
fn held(tables: &SimTables) -> usize {
    let index = tables.held_index.borrow();
    index.slots.iter().filter(|slot| slot.seen != 0).count()
}

#[track_caller]
fn hold(tables: &SimTables, side: Side, bytes: Vec<u8>) {
    let (verdict, _) = send(tables, side, bytes);
    assert_eq!(verdict, Verdict::Held);
}

/// Lets packets arrive, and those that come in again behind them; gives what became of all that are not held, which has
/// to be as expected.
#[track_caller]
fn all(
    tables: &SimTables,
    side: Side,
    arriving: Vec<Vec<u8>>,
    is_expected: impl Fn(Verdict) -> bool,
) -> Vec<Vec<u8>> {
    let mut queue = VecDeque::from(arriving);
    let mut done = Vec::new();
    while let Some(bytes) = queue.pop_front() {
        let mut packet = SimPacket::new(bytes);
        let verdict = tc::run(&mut packet, tables, side);
        queue.extend(packet.requeued);
        if verdict != Verdict::Held {
            assert!(is_expected(verdict), "{verdict:?}");
            done.push(packet.bytes);
        }
    }
    assert!(tables.held_locks.borrow().is_empty());
    done
}

/// The same for packets that are forwarded, in the order of their offsets.
#[track_caller]
fn arrive(tables: &SimTables, side: Side, arriving: Vec<Vec<u8>>, ifindex: u32) -> Vec<Vec<u8>> {
    let mut arrived = all(tables, side, arriving, |verdict| {
        verdict == Verdict::Forward { ifindex }
    });
    arrived.sort_by_key(|bytes| offset(bytes));
    arrived
}

#[track_caller]
fn assert_nothing_is_left(tables: &SimTables) {
    assert_eq!(held(tables), 0);
    assert!(tables.fragments.borrow().is_empty());
    assert!(tables.fragment_parts.borrow().is_empty());
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
