//! What the engine itself says: ICMP errors, resets, echo replies, and when it keeps silent.

use crate::fixture::{
    EMPTY, LOST_POD, MYSQL, NAT, NODE, PC, POD, TUNNEL, TUNNEL_MTU, VIP, fixture, forward, send,
};
use crate::packets::{
    ICMP_HEADER, Segment, Wire, addresses, assert_sound, at, complete, endpoints, header_len,
    icmp_kind, protocol, quote,
};
use bridge_common::abi::AnswerTokens;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::TCP;
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::{Side, run};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::verdict::Verdict;

const CLIENT: Endpoint = at(PC, 20_000);
const WEB: Endpoint = at(POD, 80);

/// Sizes around the limit of a quote, odd and even.
const SIZES: [usize; 6] = [0, 1, 99, 100, 101, 1200];

#[test]
fn a_packet_whose_ttl_ends_is_told_by_the_nodes_office_address() {
    for size in SIZES {
        for options in [&[][..], &[7, 7, 4, 1, 2, 3, 4, 0]] {
            for wire in [
                Wire::udp(CLIENT, WEB),
                Wire::tcp(CLIENT, MYSQL, SYN),
                Wire::ping(PC, POD, 1),
            ] {
                let tables = fixture();
                let original = wire
                    .ttl(1)
                    .payload(vec![7; size])
                    .ip_options(options)
                    .bytes();
                let error = answered(&tables, Side::Uplink, original.clone());
                assert_quotes(&error, [11, 0], &original);
                assert_eq!(addresses(&error).0, NODE);
                assert_eq!(error[24..28], [0; 4]);
                assert_eq!(tables.counted(Count::Drop(DropReason::TtlExceeded)), 1);
            }
        }
    }
}

#[test]
fn a_reply_whose_ttl_ends_is_told_by_the_nat_address() {
    let tables = fixture();
    let (nat, _) = endpoints(&forward(
        &tables,
        Side::Uplink,
        Wire::udp(CLIENT, WEB).bytes(),
        TUNNEL,
    ));
    let original = Wire::udp(WEB, nat).ttl(1).bytes();
    let error = answered(&tables, Side::Cluster, original.clone());
    assert_quotes(&error, [11, 0], &original);
    assert_eq!(addresses(&error).0, NAT);
}

#[test]
fn a_ttl_of_two_is_enough() {
    let tables = fixture();
    let bytes = forward(
        &tables,
        Side::Uplink,
        Wire::udp(CLIENT, WEB).ttl(2).bytes(),
        TUNNEL,
    );
    assert_eq!(bytes[8], 1);
}

#[test]
fn a_packet_above_the_tunnels_mtu_is_told_how_much_fits() {
    let tables = fixture();
    let original = Wire::udp(CLIENT, WEB).payload([7; 1472]).bytes();
    let error = answered(&tables, Side::Uplink, original.clone());
    assert_quotes(&error, [3, 4], &original);
    let [high, low] = u16::try_from(TUNNEL_MTU).unwrap().to_be_bytes();
    assert_eq!(error[24..28], [0, 0, high, low]);
    assert_eq!(error[0..2], [0x45, 0xC0], "precedence of network control");
}

#[test]
fn an_answer_keeps_the_senders_type_of_service() {
    let tables = fixture();
    let wire = Wire {
        tos: 0xFF,
        ..Wire::udp(CLIENT, WEB).ttl(1)
    };
    let error = answered(&tables, Side::Uplink, wire.bytes());
    assert_eq!(
        error[1], 0xDE,
        "its type of service, no congestion mark, our precedence"
    );
}

#[test]
fn a_quote_carries_the_checksum_that_the_network_card_will_write() {
    for size in SIZES {
        for wire in [Wire::udp(CLIENT, WEB), Wire::tcp(CLIENT, MYSQL, SYN)] {
            let tables = fixture();
            let wire = wire.ttl(1).payload(vec![7; size]);
            let mut packet = wire.partial_packet();
            assert_eq!(run(&mut packet, &tables, Side::Uplink), Verdict::Reflect);
            // The card completes the checksum of the quoted packet, at the place it was told for that.
            let l4 = 20 + ICMP_HEADER + 20;
            complete(&mut packet, l4, wire.protocol());
            assert_sound(&packet.bytes);
        }
    }
}

#[test]
fn a_reset_has_the_numbers_of_rfc_9293() {
    // Section 3.10.7.1: <SEQ=SEG.ACK><CTL=RST>, or <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let next = |len: u32| 0xFFFF_FFF0_u32.wrapping_add(len);
    for (flags, payload, expected) in [
        (ACK, 0, (0x1122_3344, 0, RST)),
        (ACK, 100, (0x1122_3344, 0, RST)),
        (FIN | ACK, 5, (0x1122_3344, 0, RST)),
        (0, 0, (0, next(0), RST | ACK)),
        (0, 100, (0, next(100), RST | ACK)),
        (FIN, 0, (0, next(1), RST | ACK)),
        (FIN, 20, (0, next(21), RST | ACK)),
    ] {
        for options in [vec![], vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]] {
            let mut tables = fixture();
            // Where the client can't have its port again, its connection can't be adopted.
            tables.set_nat_ports(|_| true);
            let reset = answered(
                &tables,
                Side::Uplink,
                segment(flags, options, payload).bytes(),
            );
            assert_eq!(protocol(&reset), TCP);
            assert_eq!(reset.len(), 40);
            assert_eq!(endpoints(&reset), (WEB, CLIENT));
            assert_eq!(
                numbers(&reset),
                expected,
                "flags {flags:#x}, {payload} bytes"
            );
        }
    }
}

#[test]
fn a_reset_in_answer_to_a_syn_counts_the_syn() {
    for (flags, len) in [(SYN, 1), (SYN | FIN, 2)] {
        let tables = fixture();
        let wire = Wire {
            destination: EMPTY,
            ..segment(flags, vec![2, 4, 5, 0xB4], 0)
        };
        let reset = answered(&tables, Side::Uplink, wire.bytes());
        assert_eq!(endpoints(&reset), (EMPTY, CLIENT));
        assert_eq!(numbers(&reset), (0, 0xFFFF_FFF0 + len, RST | ACK));
    }
}

#[test]
fn a_reset_leaves_its_checksum_to_the_network_card_where_the_segment_did() {
    let mut tables = fixture();
    // No connection can be adopted.
    tables.set_nat_ports(|_| true);
    let mut packet = segment(ACK, vec![], 9).partial_packet();
    assert_eq!(run(&mut packet, &tables, Side::Uplink), Verdict::Reflect);
    complete(&mut packet, 20, TCP);
    assert_sound(&packet.bytes);
}

#[test]
fn a_reset_is_never_answered() {
    for destination in [WEB, MYSQL, EMPTY] {
        for flags in [RST, RST | ACK, RST | FIN] {
            let tables = fixture();
            let bytes = Wire::tcp(CLIENT, destination, flags).bytes();
            let (verdict, _) = send(&tables, Side::Uplink, bytes);
            assert_eq!(verdict, Verdict::Drop(DropReason::NoFlow));
            assert_eq!(tables.counted(Count::Answered), 0);
        }
    }
}

#[test]
fn a_later_fragment_is_never_answered() {
    let tables = fixture();
    let wire = Wire::udp(CLIENT, WEB).fragmentable(9).payload([7; 64]);
    let fragments = wire.fragments(40);
    forward(&tables, Side::Uplink, fragments[0].clone(), TUNNEL);
    let mut later = fragments[1].clone();
    later[8] = 1;
    let (verdict, _) = send(&tables, Side::Uplink, later);
    assert_eq!(verdict, Verdict::Drop(DropReason::TtlExceeded));
    assert_eq!(tables.counted(Count::Answered), 0);
}

#[test]
fn a_first_fragment_is_answered() {
    let tables = fixture();
    let wire = Wire::udp(CLIENT, WEB)
        .fragmentable(9)
        .payload([7; 64])
        .ttl(1);
    let first = wire.fragments(40).remove(0);
    let (verdict, bytes) = send(&tables, Side::Uplink, first.clone());
    assert_eq!(verdict, Verdict::Reflect);
    assert_quotes(&bytes, [11, 0], &first);
}

#[test]
fn answers_stop_at_the_rate_limit() {
    let tables = fixture();
    tables.answer_tokens.set(2);
    for (count, wire) in [
        Wire::udp(CLIENT, EMPTY),
        Wire::tcp(CLIENT, MYSQL, ACK),
        Wire::udp(CLIENT, WEB).ttl(1),
        Wire::tcp(CLIENT, MYSQL, ACK),
        Wire::ping(PC, VIP, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let (verdict, _) = send(&tables, Side::Uplink, wire.bytes());
        assert_eq!(verdict == Verdict::Reflect, count < 2, "answer {count}");
    }
    assert_eq!(tables.counted(Count::Answered), 2);
    assert_eq!(tables.counted(Count::AnswerSuppressed), 3);
    assert_eq!(tables.counted(Count::PingAnswered), 0);
    // Suppressed or not, each drop has its reason.
    assert_eq!(tables.counted(Count::Drop(DropReason::NoFlow)), 2);
    assert_eq!(tables.counted(Count::Drop(DropReason::TtlExceeded)), 1);
}

#[test]
fn the_bucket_of_answers_fills_up_every_second() {
    let mut bucket = AnswerTokens::default();
    for now in [5, 6, 100] {
        for _ in 0..AnswerTokens::PER_SECOND {
            assert!(bucket.take(now));
        }
        assert!(!bucket.take(now));
        assert!(!bucket.take(now));
    }
}

#[test]
fn an_unreachable_pod_is_told_once_its_flow_exists_too() {
    let mut tables = fixture();
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(CLIENT, WEB).bytes(),
        TUNNEL,
    );
    tables
        .routes
        .retain(|(prefix, ..)| *prefix != [10, 244, 1, 0]);
    let original = Wire::udp(CLIENT, WEB).bytes();
    let error = answered(&tables, Side::Uplink, original.clone());
    assert_quotes(&error, [3, 1], &original);
    let (verdict, _) = send(
        &tables,
        Side::Uplink,
        Wire::udp(CLIENT, at(LOST_POD, 1)).bytes(),
    );
    assert_eq!(verdict, Verdict::Reflect);
}

#[test]
fn padding_of_the_link_layer_is_not_quoted() {
    let tables = fixture();
    let original = Wire::udp(CLIENT, WEB).ttl(1).payload([1]).bytes();
    let mut packet = SimPacket::new([&original[..], &[0xAA; 17]].concat());
    assert_eq!(run(&mut packet, &tables, Side::Uplink), Verdict::Reflect);
    assert_sound(&packet.bytes);
    assert_quotes(&packet.bytes, [11, 0], &original);
}

/// Sends a packet that must be answered.
#[track_caller]
fn answered(tables: &SimTables, side: Side, bytes: Vec<u8>) -> Vec<u8> {
    let (verdict, bytes) = send(tables, side, bytes);
    assert_eq!(verdict, Verdict::Reflect);
    assert_sound(&bytes);
    assert_eq!(tables.counted(Count::Answered), 1);
    bytes
}

/// Checks an ICMP error that quotes its receiver's own packet.
#[track_caller]
fn assert_quotes(error: &[u8], kind: [u8; 2], original: &[u8]) {
    assert_eq!(icmp_kind(error), kind);
    let len = original.len().min(128);
    assert_eq!(quote(error), &original[..len]);
    assert_eq!(addresses(error).1, addresses(original).0);
    assert_eq!(header_len(error), 20);
    assert_eq!(error[8], 64, "TTL");
}

fn segment(flags: u8, options: Vec<u8>, payload: usize) -> Wire {
    let segment = Segment::Tcp {
        flags,
        sequence: 0xFFFF_FFF0,
        acknowledgement: 0x1122_3344,
        options,
    };
    Wire::new(CLIENT, WEB, segment).payload(vec![7; payload])
}

/// Sequence number, acknowledgement number and flags.
fn numbers(bytes: &[u8]) -> (u32, u32, u8) {
    let number = |offset: usize| u32::from_be_bytes(bytes[offset..offset + 4].try_into().unwrap());
    (number(24), number(28), bytes[33])
}

#[test]
fn a_ping_to_a_service_in_fragments_is_answered_in_fragments() {
    let tables = fixture();
    let wire = Wire::ping(PC, VIP, 7).fragmentable(1).payload([7; 3000]);
    let mut answers = Vec::new();
    for fragment in wire.fragments(1480) {
        let (verdict, bytes) = send(&tables, Side::Uplink, fragment);
        assert_eq!(verdict, Verdict::Reflect);
        assert_eq!(addresses(&bytes), (VIP, PC));
        answers.push(bytes);
    }
    let whole = Wire::pong(VIP, PC, 7).fragmentable(1).payload([7; 3000]);
    for (answer, expected) in answers.iter().zip(whole.fragments(1480)) {
        assert_eq!(
            answer[20..],
            expected[20..],
            "as the whole answer in fragments"
        );
        assert_eq!(answer[4..8], expected[4..8], "identification and offset");
    }
    assert_eq!(answers.len(), 3);
}

#[test]
fn an_echo_reply_to_a_service_is_not_taken_for_a_ping() {
    let tables = fixture();
    let (verdict, _) = send(&tables, Side::Uplink, Wire::pong(PC, VIP, 7).bytes());
    assert_eq!(verdict, Verdict::Drop(DropReason::UnsupportedProtocol));
    assert_eq!(tables.counted(Count::Drop(DropReason::RewriteFailed)), 0);
}
