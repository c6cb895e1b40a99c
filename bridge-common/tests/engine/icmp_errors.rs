//! ICMP errors about translated packets, from both sides: every address, port and checksum in them
//! (RFC 5508 section 4, RFC 5382 REQ-9), whatever they quote and however much of it.

use crate::fixture::{
    DNS, LAPTOP, LOCAL_POD, MYSQL, NAT, NODE, OFFICE_ROUTER, OUTSIDER, PC, POD, TUNNEL, UPLINK,
    VIP, WORKER, advance, fixture, flows, forward, only_flow, pass, replies, send,
};
use crate::packets::{
    Segment, Wire, addresses, assert_header_is_sound, assert_sound, at, endpoints, header_len,
    icmp_error, icmp_kind, identifier, quote,
};
use bridge_common::abi::Ipv4;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use bridge_common::verdict::Verdict;

/// Every error that is translated, with what may stand in the second half of its header.
const KINDS: [([u8; 2], [u8; 4]); 5] = [
    ([3, 3], [0; 4]),
    ([3, 4], [0, 0, 0x05, 0x78]),
    ([3, 13], [0; 4]),
    ([11, 0], [0; 4]),
    ([12, 0], [16, 0, 0, 0]),
];

/// An extension structure (RFC 4884 section 7) with one object, an MPLS label stack.
const EXTENSION: [u8; 12] = [0x20, 0, 0xA5, 0x5A, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x01];

#[test]
fn an_error_from_the_cluster_tells_the_client_about_its_own_packet() {
    for wire in originals() {
        let (tables, translated) = opened(&wire);
        let original = wire.clone().ttl(wire.ttl - 1).bytes();
        let backend = addresses(&translated).1;
        for_every_quote(&translated, |cut, trailer, kind, rest| {
            let quoted = [&translated[..cut], trailer].concat();
            for (from, seen_as) in [(backend, wire.destination.address), (WORKER, WORKER)] {
                let error = icmp_error(from, NAT, kind, rest, &quoted);
                let bytes = forward(&tables, Side::Cluster, error, UPLINK);
                assert_error(&bytes, (seen_as, PC), kind, &original[..cut], trailer);
                assert_eq!(bytes[24..28], rest, "MTU, pointer or length");
            }
        });
    }
}

#[test]
fn an_error_from_the_office_tells_the_backend_about_its_own_packet() {
    for wire in originals() {
        let (tables, translated) = opened(&wire);
        let (sent, received) = answer(&tables, &wire, &translated);
        let original = sent.clone().ttl(sent.ttl - 1).bytes();
        for_every_quote(&received, |cut, trailer, kind, rest| {
            let quoted = [&received[..cut], trailer].concat();
            for from in [PC, OFFICE_ROUTER] {
                let error = icmp_error(from, wire.destination.address, kind, rest, &quoted);
                let bytes = forward(&tables, Side::Uplink, error, TUNNEL);
                let between = (NAT, sent.source.address);
                assert_error(&bytes, between, kind, &original[..cut], trailer);
                assert_eq!(bytes[24..28], rest, "MTU, pointer or length");
            }
        });
    }
}

#[test]
fn an_error_neither_refreshes_nor_ends_a_flow() {
    for wire in originals() {
        let (tables, translated) = opened(&wire);
        let (_, received) = answer(&tables, &wire, &translated);
        let sorted = || {
            let (mut flows, mut replies) = (flows(&tables), replies(&tables));
            flows.sort_by_key(|(key, _)| *key);
            replies.sort_by_key(|(key, _)| *key);
            (flows, replies)
        };
        let before = sorted();
        advance(&tables, 30);
        for (kind, rest) in KINDS {
            let error = icmp_error(WORKER, NAT, kind, rest, &translated);
            forward(&tables, Side::Cluster, error, UPLINK);
            let error = icmp_error(PC, wire.destination.address, kind, rest, &received);
            forward(&tables, Side::Uplink, error, TUNNEL);
        }
        assert_eq!(sorted(), before);
    }
}

#[test]
fn errors_are_counted_as_traffic() {
    let (tables, translated) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    let before = tables.counted(Count::ToClient);
    let error = icmp_error(POD, NAT, [3, 3], [0; 4], &translated);
    forward(&tables, Side::Cluster, error, UPLINK);
    assert_eq!(tables.counted(Count::ToClient), before + 1);
}

#[test]
fn the_outer_ttl_is_counted_down_and_the_quoted_one_is_not() {
    let (tables, translated) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    let error = icmp_error(POD, NAT, [3, 3], [0; 4], &translated);
    let bytes = forward(&tables, Side::Cluster, error.clone(), UPLINK);
    assert_eq!(bytes[8], error[8] - 1);
    assert_eq!(quote(&bytes)[8], translated[8]);
}

#[test]
fn an_error_about_a_packet_that_is_not_ours_passes() {
    let (tables, _) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    let about = |edit: &dyn Fn(&mut Wire)| {
        let mut wire = Wire::udp(at(NAT, 20_000), at(POD, 53));
        edit(&mut wire);
        icmp_error(WORKER, NAT, [3, 3], [0; 4], &wire.bytes())
    };
    for error in [
        about(&|wire| wire.source.port = 20_001),
        about(&|wire| wire.destination.port = 54),
        about(&|wire| wire.destination.address = LOCAL_POD),
        // Quoted, but not sent by whom the error goes to.
        about(&|wire| wire.source.address = OUTSIDER),
    ] {
        pass(&tables, Side::Cluster, error);
    }
    // A flow of UDP is not one of TCP.
    let segment = Wire::tcp(at(NAT, 20_000), at(POD, 53), SYN).bytes();
    let error = icmp_error(WORKER, NAT, [3, 3], [0; 4], &segment);
    pass(&tables, Side::Cluster, error);
}

#[test]
fn an_error_from_the_office_about_a_packet_that_is_not_ours_passes() {
    let tables = fixture();
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(at(PC, 20_000), at(POD, 53)).bytes(),
        TUNNEL,
    );
    for wire in [
        Wire::udp(at(POD, 53), at(PC, 20_001)),
        Wire::udp(at(POD, 53), at(LAPTOP, 20_000)),
        Wire::tcp(at(POD, 53), at(PC, 20_000), ACK),
        Wire::ping(POD, PC, 1),
    ] {
        let error = icmp_error(PC, POD, [3, 3], [0; 4], &wire.bytes());
        pass(&tables, Side::Uplink, error);
    }
}

#[test]
fn an_error_about_a_packet_that_its_receiver_did_not_send_passes() {
    let (tables, translated) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    let error = icmp_error(POD, NODE, [3, 3], [0; 4], &translated);
    pass(&tables, Side::Cluster, error);
    let received = Wire::udp(at(POD, 53), at(PC, 20_000)).bytes();
    let error = icmp_error(PC, LOCAL_POD, [3, 3], [0; 4], &received);
    pass(&tables, Side::Uplink, error);
}

#[test]
fn an_unknown_error_to_a_service_does_not_circle_between_the_node_and_the_office() {
    let mut tables = fixture();
    let received = Wire::udp(DNS, at(PC, 20_000)).bytes();
    for len in [8, 20, 28, received.len()] {
        let error = icmp_error(PC, VIP, [3, 3], [0; 4], &received[..len]);
        let (verdict, _) = send(&tables, Side::Uplink, error.clone());
        assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUnmatched));
        // Nor one of a router on the way. A service that kube-proxy knows is none of ours.
        let strange = icmp_error(OUTSIDER, VIP, [3, 3], [0; 4], &received[..len]);
        let (verdict, _) = send(&tables, Side::Uplink, strange);
        assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUnmatched));
        tables.settings.authoritative = 0;
        pass(&tables, Side::Uplink, error);
        tables.settings.authoritative = 1;
    }
}

#[test]
fn an_error_that_quotes_too_little_or_nonsense_passes() {
    let (tables, translated) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    for len in 0..28 {
        pass(
            &tables,
            Side::Cluster,
            icmp_error(POD, NAT, [3, 3], [0; 4], &translated[..len]),
        );
    }
    // A header too short, another version, options beyond the quote, another protocol, a later fragment.
    for (offset, byte) in [(0, 0x44), (0, 0x65), (0, 0x4F), (9, 47), (7, 0x09)] {
        let mut quoted = translated[..28].to_vec();
        quoted[offset] = byte;
        pass(
            &tables,
            Side::Cluster,
            icmp_error(POD, NAT, [3, 3], [0; 4], &quoted),
        );
    }
}

#[test]
fn an_error_about_an_error_passes() {
    let (tables, translated) = opened(&Wire::ping(PC, POD, 1));
    let error = icmp_error(NAT, POD, [3, 3], [0; 4], &translated);
    pass(
        &tables,
        Side::Cluster,
        icmp_error(POD, NAT, [3, 3], [0; 4], &error),
    );
}

#[test]
fn an_error_whose_ttl_ends_here_is_not_answered() {
    // RFC 1122 3.2.2: never an ICMP error about an ICMP error.
    let (tables, translated) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    let mut error = icmp_error(POD, NAT, [3, 3], [0; 4], &translated);
    error[8] = 1;
    pass(&tables, Side::Cluster, error);
}

#[test]
fn an_error_to_a_host_that_no_route_leads_to_is_dropped() {
    let (mut tables, translated) = opened(&Wire::udp(at(PC, 20_000), at(POD, 53)));
    tables
        .routes
        .retain(|(prefix, ..)| *prefix != [192, 168, 0, 0]);
    let error = icmp_error(POD, NAT, [3, 3], [0; 4], &translated);
    let (verdict, _) = send(&tables, Side::Cluster, error);
    assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
}

#[test]
fn a_service_is_known_to_the_client_by_its_own_address_alone() {
    let (tables, translated) = opened(&Wire::udp(at(PC, 20_000), DNS));
    let (_, flow, _) = only_flow(&tables);
    let error = icmp_error(flow.backend, NAT, [3, 3], [0; 4], &translated);
    let bytes = forward(&tables, Side::Cluster, error, UPLINK);
    assert_eq!(addresses(&bytes), (VIP, PC));
    let hidden = [flow.backend, flow.nat];
    assert!(
        !bytes
            .windows(4)
            .any(|window| hidden.iter().any(|address| address == window))
    );
}

/// What the client sends: each protocol, with and without a checksum, an odd port, IP options.
fn originals() -> Vec<Wire> {
    let mut without_checksum = Wire::udp(at(PC, 20_000), DNS);
    without_checksum.segment = Segment::Udp { checksum: false };
    let plain = [
        Wire::tcp(at(PC, 20_000), MYSQL, SYN),
        // A port that is not kept, so that ports change, too.
        Wire::tcp(at(PC, 80), MYSQL, SYN).payload([9; 300]),
        Wire::udp(at(PC, 53), DNS),
        without_checksum,
        Wire::ping(PC, POD, 1),
    ];
    let with_options = plain
        .clone()
        .map(|wire| wire.ip_options(&[7, 7, 4, 1, 2, 3, 4, 0]));
    plain.into_iter().chain(with_options).collect()
}

/// How much of the packet an error quotes: the RFC 792 minimum, what some stacks send, all of it.
fn cuts(packet: &[u8]) -> Vec<usize> {
    let header = header_len(packet);
    [header + 8, header + 28, packet.len()]
        .into_iter()
        .filter(|&len| len <= packet.len())
        .collect()
}

/// A flow for `wire`, with another client's in its way so that even an identifier changes.
fn opened(wire: &Wire) -> (SimTables, Vec<u8>) {
    let tables = fixture();
    if let Segment::Echo { .. } = wire.segment {
        forward(
            &tables,
            Side::Uplink,
            Wire::ping(LAPTOP, POD, 1).bytes(),
            TUNNEL,
        );
    }
    let translated = forward(&tables, Side::Uplink, wire.bytes(), TUNNEL);
    (tables, translated)
}

/// The backend's answer to the translated packet, as the backend writes it and as the client gets it.
fn answer(tables: &SimTables, wire: &Wire, translated: &[u8]) -> (Wire, Vec<u8>) {
    let answer = if let Segment::Echo { .. } = wire.segment {
        let (nat, pod) = addresses(translated);
        Wire {
            ip_options: wire.ip_options.clone(),
            ..Wire::pong(pod, nat, identifier(translated))
        }
    } else {
        let (nat, backend) = endpoints(translated);
        wire.between(backend, nat)
    };
    let received = forward(tables, Side::Cluster, answer.bytes(), UPLINK);
    (answer, received)
}

/// Checks an error that was translated: outer header, kind, and the quote, which is `original` as far as
/// it goes, followed by `trailer`.
#[track_caller]
fn assert_error(
    bytes: &[u8],
    between: (Ipv4, Ipv4),
    kind: [u8; 2],
    original: &[u8],
    trailer: &[u8],
) {
    assert_sound(bytes);
    assert_eq!(addresses(bytes), between);
    assert_eq!(icmp_kind(bytes), kind);
    let quoted = quote(bytes);
    assert_eq!(quoted, [original, trailer].concat());
    assert_header_is_sound(quoted);
}

/// Runs `check` with every packet, cut and kind; it gets the quote, the trailer and the header's rest.
fn for_every_quote(packet: &[u8], mut check: impl FnMut(usize, &[u8], [u8; 2], [u8; 4])) {
    for (kind, rest) in KINDS {
        for cut in cuts(packet) {
            check(cut, &[], kind, rest);
        }
        // With an extension the quote is padded to 128 bytes, and says so in 32-bit words.
        let padding = vec![0; 128_usize.saturating_sub(packet.len())];
        let trailer = [&padding[..], &EXTENSION].concat();
        let words = u8::try_from(packet.len().max(128).div_ceil(4)).unwrap();
        if packet.len().max(128).is_multiple_of(4) && kind[0] != 12 {
            check(packet.len(), &trailer, kind, [0, words, rest[2], rest[3]]);
        }
    }
}
