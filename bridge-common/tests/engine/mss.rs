//! The MSS that SYN and SYN-ACK announce is clamped to what fits, wherever the option stands.

use crate::fixture::{
    PC, POD, ROUTED_POD, TUNNEL, TUNNEL_MTU, UPLINK, depart, fixture, forward, send,
};
use crate::packets::{Segment, Wire, assert_sound, at, complete, endpoints};
use bridge_common::abi::Route;
use bridge_common::packet::parse::TCP;
use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::{Side, run};
use bridge_common::verdict::Verdict;
use proptest::prelude::*;

const CLIENT: Endpoint = at(PC, 20_000);
const WEB: Endpoint = at(POD, 80);

/// What fits into the tunnel: 40 bytes of headers less than its MTU.
const CLAMPED: u16 = 1410;

#[test]
fn a_larger_mss_is_clamped_and_a_smaller_one_stays() {
    assert_eq!(u32::from(CLAMPED), TUNNEL_MTU - 40);
    for (announced, expected) in [
        (1460, CLAMPED),
        (9000, CLAMPED),
        (u16::MAX, CLAMPED),
        (CLAMPED + 1, CLAMPED),
        (CLAMPED, CLAMPED),
        (536, 536),
        (0, 0),
    ] {
        assert_eq!(options_after(&segment(SYN, &mss(announced))), mss(expected));
    }
}

#[test]
fn both_directions_of_the_stack_path_are_clamped() {
    let tables = fixture();
    let syn = segment(SYN, &mss(1460));
    let (verdict, bytes) = depart(&tables, syn.bytes());
    assert_eq!(verdict, Verdict::Continue);
    assert_sound(&bytes);
    assert_eq!(bytes[40..], mss(CLAMPED));
    let answer = segment(SYN | ACK, &mss(1460)).between(WEB, endpoints(&bytes).0);
    let (verdict, bytes) = send(&tables, Side::Cluster, answer.bytes());
    assert_eq!(verdict, Verdict::Continue);
    assert_sound(&bytes);
    assert_eq!(bytes[40..], mss(CLAMPED));
}

#[test]
fn the_option_is_found_behind_others_at_even_and_odd_places() {
    for before in [
        &[][..],
        &[1],
        &[1, 1],
        &[1, 1, 1],
        &[4, 2],
        &[3, 3, 7],
        &[1, 3, 3, 7],
        &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        &[1, 1, 1, 1, 1, 1, 1, 1, 1],
        // An option of this kind, of a length that it can't have.
        &[2, 3, 5],
        &[2, 2],
        // One that nobody knows.
        &[253, 5, 0x12, 0x34, 0],
    ] {
        let announced = [before, &mss(1460)].concat();
        let mut expected = [before, &mss(CLAMPED)].concat();
        expected.resize(expected.len().next_multiple_of(4), 0);
        assert_eq!(
            options_after(&segment(SYN, &announced)),
            expected,
            "{before:?}"
        );
    }
}

#[test]
fn options_without_an_mss_stay_as_they_are() {
    for options in [
        &[][..],
        &[1, 1, 4, 2],
        // The list ends before it.
        &[0, 2, 4, 0x23, 0x28, 0, 0, 0],
        // Lengths that lead nowhere: 0, 1, and beyond the header.
        &[8, 0, 2, 4, 0x23, 0x28, 0, 0],
        &[8, 1, 2, 4, 0x23, 0x28, 0, 0],
        &[8, 255, 2, 4, 0x23, 0x28, 0, 0],
        // Cut off by the end of the header.
        &[1, 1, 2, 4],
        &[1, 2, 4, 0x23],
        // Inside another option.
        &[253, 8, 2, 4, 0x23, 0x28, 0, 0],
    ] {
        assert_eq!(
            options_after(&segment(SYN, options)),
            options,
            "{options:?}"
        );
    }
}

#[test]
fn only_a_syn_is_clamped() {
    let tables = fixture();
    forward(&tables, Side::Uplink, segment(SYN, &[]).bytes(), TUNNEL);
    let bytes = forward(
        &tables,
        Side::Uplink,
        segment(ACK, &mss(1460)).bytes(),
        TUNNEL,
    );
    assert_eq!(bytes[40..], mss(1460));
}

#[test]
fn a_syn_ack_is_clamped_to_the_same_tunnel() {
    let tables = fixture();
    let bytes = forward(&tables, Side::Uplink, segment(SYN, &[]).bytes(), TUNNEL);
    let nat = endpoints(&bytes).0;
    let answer = segment(SYN | ACK, &mss(1460)).between(WEB, nat);
    let bytes = forward(&tables, Side::Cluster, answer.bytes(), UPLINK);
    assert_sound(&bytes);
    assert_eq!(bytes[40..], mss(CLAMPED));
}

#[test]
fn a_route_without_a_tunnel_leaves_an_ordinary_mss() {
    let wire = segment(SYN, &mss(1460)).between(CLIENT, at(ROUTED_POD, 80));
    assert_eq!(options_after(&wire), mss(1460));
    let wire = segment(SYN, &mss(8960)).between(CLIENT, at(ROUTED_POD, 80));
    assert_eq!(
        options_after(&wire),
        mss(1460),
        "jumbo frames don't reach the office"
    );
}

#[test]
fn a_route_without_an_mtu_sets_no_limit() {
    // A source that is an address of the node itself: such routes have no MTU.
    let mut tables = fixture();
    let of_the_node = Route {
        flags: Route::LOCAL,
        ..Route::default()
    };
    tables.routes.push((PC, 32, of_the_node));
    let syn = segment(SYN, &mss(1460)).bytes();
    let bytes = forward(&tables, Side::Uplink, syn, TUNNEL);
    assert_eq!(bytes[40..], mss(CLAMPED));
}

#[test]
fn a_clamp_leaves_a_checksum_to_the_network_card() {
    let mut packet = segment(SYN, &[&[1], &mss(1460)[..]].concat()).partial_packet();
    let verdict = run(&mut packet, &fixture(), Side::Uplink);
    assert_eq!(verdict, Verdict::Forward { ifindex: TUNNEL });
    complete(&mut packet, 20, TCP);
    assert_sound(&packet.bytes);
    assert_eq!(packet.bytes[41..45], mss(CLAMPED));
}

proptest! {
    #[test]
    fn whatever_the_options_are_the_checksum_stays_right(
        options in proptest::collection::vec(any::<u8>(), 0..=40),
        kinds in proptest::collection::vec(0..5_u8, 0..=40),
        plausible in any::<bool>(),
    ) {
        let options = if plausible { kinds } else { options };
        let wire = segment(SYN, &options);
        let after = options_after(&wire);
        let before = wire.bytes()[40..].to_vec();
        let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
        if let (Some(first), Some(last)) = (changed.first(), changed.last()) {
            prop_assert!(last - first <= 1, "one MSS at most: {changed:?}");
        }
    }
}

fn segment(flags: u8, options: &[u8]) -> Wire {
    let segment = Segment::Tcp {
        flags,
        sequence: 1,
        acknowledgement: 0,
        options: options.to_vec(),
    };
    Wire::new(CLIENT, WEB, segment).payload([])
}

/// The options as they arrive at the backend.
#[track_caller]
fn options_after(wire: &Wire) -> Vec<u8> {
    let (verdict, bytes) = send(&fixture(), Side::Uplink, wire.bytes());
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    assert_sound(&bytes);
    bytes[40..].to_vec()
}

fn mss(size: u16) -> [u8; 4] {
    let [high, low] = size.to_be_bytes();
    [2, 4, high, low]
}
