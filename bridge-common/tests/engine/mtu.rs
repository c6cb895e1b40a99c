//! What fits where: tunnels, plain routes, segmented packets, the DF bit.

use crate::fixture::{
    LOCAL_POD, MTU, NIC, PC, POD, ROUTED_POD, TUNNEL, TUNNEL_MTU, fixture, forward, only_flow, pass,
};
use crate::packets::{Wire, at, quote};
use bridge_common::abi::Ipv4;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::Packet as _;
use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::{Side, run};
use bridge_common::sim::SimPacket;
use bridge_common::verdict::Verdict;

const CLIENT: Endpoint = at(PC, 20_000);

#[test]
fn a_packet_that_fits_exactly_goes() {
    let forwarded = |ifindex| Verdict::Forward { ifindex };
    assert_eq!(verdict(POD, TUNNEL_MTU, true), forwarded(TUNNEL));
    assert_eq!(verdict(POD, TUNNEL_MTU + 1, true), Verdict::Reflect);
    assert_eq!(verdict(ROUTED_POD, MTU, true), forwarded(NIC));
    assert_eq!(verdict(ROUTED_POD, MTU + 1, true), Verdict::Reflect);
    assert_eq!(verdict(LOCAL_POD, TUNNEL_MTU + 1, true), Verdict::Reflect);
}

#[test]
fn a_tunnel_takes_a_larger_packet_that_may_be_fragmented() {
    let forwarded = Verdict::Forward { ifindex: TUNNEL };
    assert_eq!(verdict(POD, TUNNEL_MTU + 50, false), forwarded);
}

#[test]
fn other_routes_take_none_since_nobody_would_fragment_it() {
    assert_eq!(verdict(ROUTED_POD, MTU + 1, false), Verdict::Reflect);
    assert_eq!(verdict(LOCAL_POD, TUNNEL_MTU + 1, false), Verdict::Reflect);
}

#[test]
fn a_segmented_packet_is_judged_by_its_segments() {
    for (pod, mtu, ifindex) in [(POD, TUNNEL_MTU, TUNNEL), (ROUTED_POD, MTU, NIC)] {
        let (verdict, packet, counted) = segmented(pod, mtu - 40, 20);
        assert_eq!(verdict, Verdict::Forward { ifindex });
        assert_eq!(packet.len(), 40 + 20 * (mtu - 40));
        assert!(
            (20..=21).contains(&counted),
            "segments count one by one: {counted}"
        );
        let (verdict, packet, _) = segmented(pod, mtu - 39, 20);
        assert_eq!(verdict, Verdict::Reflect);
        assert_eq!(quote(&packet.bytes).len(), 128);
        assert_eq!(packet.segment_size, 0, "an answer is no segmented packet");
    }
}

#[test]
fn a_packet_above_64_kib_that_is_still_to_be_segmented_goes() {
    // BIG TCP: the total length says 0.
    let tables = fixture();
    let web = at(ROUTED_POD, 80);
    forward(
        &tables,
        Side::Uplink,
        Wire::tcp(CLIENT, web, SYN).bytes(),
        NIC,
    );
    let mut bytes = Wire::tcp(CLIENT, web, ACK).payload([]).bytes();
    bytes[2..4].fill(0);
    bytes.resize(100_000, 7);
    let mut packet = SimPacket {
        segment_size: 1448,
        checksum_is_partial: true,
        ..SimPacket::new(bytes)
    };
    let verdict = run(&mut packet, &tables, Side::Uplink);
    assert_eq!(verdict, Verdict::Forward { ifindex: NIC });
    let (_, flow, _) = only_flow(&tables);
    assert!(flow.bytes() > 100_000);
}

#[test]
fn a_total_length_of_zero_is_nonsense_otherwise() {
    let tables = fixture();
    let mut bytes = Wire::udp(CLIENT, at(POD, 53)).bytes();
    bytes[2..4].fill(0);
    pass(&tables, Side::Uplink, bytes);
}

/// The verdict on a datagram of `len` bytes.
fn verdict(pod: Ipv4, len: u32, dont_fragment: bool) -> Verdict {
    let tables = fixture();
    let wire = Wire {
        dont_fragment,
        ..Wire::udp(CLIENT, at(pod, 53)).payload(vec![7; len as usize - 28])
    };
    let mut packet = wire.packet();
    assert_eq!(packet.bytes.len(), len as usize);
    let verdict = run(&mut packet, &tables, Side::Uplink);
    if verdict == Verdict::Reflect {
        assert_eq!(tables.counted(Count::Drop(DropReason::TooBig)), 1);
    }
    verdict
}

/// A segmented packet of `segments` times `size` bytes on an open connection to `pod`.
fn segmented(pod: Ipv4, size: u32, segments: u32) -> (Verdict, SimPacket, u64) {
    let tables = fixture();
    let web = at(pod, 80);
    let mut syn = Wire::tcp(CLIENT, web, SYN).packet();
    let opened = run(&mut syn, &tables, Side::Uplink);
    assert!(matches!(opened, Verdict::Forward { .. }), "{opened:?}");
    let payload = vec![7; (size * segments) as usize];
    let mut packet = SimPacket {
        segment_size: size,
        ..Wire::tcp(CLIENT, web, ACK)
            .payload(payload)
            .partial_packet()
    };
    let verdict = run(&mut packet, &tables, Side::Uplink);
    (verdict, packet, tables.counted(Count::ToBackend) - 1)
}
