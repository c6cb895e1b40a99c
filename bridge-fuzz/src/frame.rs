//! Any bytes as an Ethernet frame.
//!
//! An input is the settings ([`Options::settings`]), the path, what the network card has left to do, and the frame. The
//! tables have a session of each kind.

use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::packet::parse::{ICMP, UDP};
use bridge_common::path::tc::{self, Side};
use bridge_common::path::{local, stack, xdp};
use bridge_common::sim::{SimFrame, SimPacket, SimTables};
use bridge_common::verdict::Verdict;

use crate::packet::{ETHERNET, Wire};
use crate::sound;
use crate::world::{
    API, Counted, DNS, LOCAL_POD, NAT, NIC, Options, PC, POD, ROUTED_POD, UPLINK, at,
    packet_of_sent, tables,
};

/// The paths, by the number in an input.
pub const PATHS: [&str; 6] = [
    "xdp-uplink",
    "xdp-nic",
    "uplink",
    "cluster",
    "stack",
    "local",
];

/// Runs an input.
///
/// # Panics
/// When something has happened that must not.
pub fn run(data: &[u8]) {
    let Some((&[settings, path, offload], frame)) = data.split_first_chunk::<3>() else {
        return;
    };
    let options = Options {
        settings,
        ..Options::default()
    };
    let world = with_sessions(options);
    // No network card completes an ICMP checksum.
    let is_icmp = frame.get(ETHERNET + 9) == Some(&ICMP);
    let packet = SimPacket {
        segment_size: u32::from(offload >> 1) * 8,
        checksum_is_partial: offload & 1 != 0 && !is_icmp,
        ..SimPacket::new(frame.get(ETHERNET..).unwrap_or_default().to_vec())
    };
    match usize::from(path) % PATHS.len() {
        0 => by_xdp(&world, options, &SimFrame::new(UPLINK, frame.to_vec())),
        1 => by_xdp(&world, options, &SimFrame::new(NIC, frame.to_vec())),
        2 => by(&world, &packet, |packet, tables| {
            tc::run(packet, tables, Side::Uplink)
        }),
        3 => by(&world, &packet, |packet, tables| {
            tc::run(packet, tables, Side::Cluster)
        }),
        4 => by(&world, &packet, stack::run),
        _ => by(&world, &packet, local::run),
    }
}

/// Sends a packet through a path on which the kernel has made a socket buffer of it.
fn by(world: &SimTables, packet: &SimPacket, path: impl Fn(&mut SimPacket, &SimTables) -> Verdict) {
    let before = Counted::of(world);
    let mut after = packet.clone();
    let verdict = path(&mut after, world);
    sound::outcome(verdict, packet, &after);
    let counted = Counted::of(world);
    let is_sent = matches!(verdict, Verdict::Forward { .. } | Verdict::Continue);
    assert_eq!(is_sent, counted.forwarded > before.forwarded, "{verdict:?}");
    let is_answer = counted.pings > before.pings;
    let is_dropped = matches!(verdict, Verdict::Drop(_) | Verdict::Reflect) && !is_answer;
    assert_eq!(is_dropped, counted.dropped > before.dropped, "{verdict:?}");
}

/// Sends a frame through XDP, and what it has sent on through TC, which must do the same.
fn by_xdp(world: &SimTables, options: Options, frame: &SimFrame) {
    let mut after = frame.clone();
    let step = xdp::handle(&mut after, world);
    let Some(sent) = packet_of_sent(step, &after, frame.bytes.len()) else {
        assert_eq!(*frame, after, "what is left to TC is untouched");
        return;
    };
    // A packet out of the tunnel has become shorter, and one into it is as long as it was.
    let received = &frame.bytes[frame.bytes.len() - sent.len()..];
    let is_decapsulated = received.len() + ETHERNET < frame.bytes.len();
    let side = if frame.ingress == UPLINK && !is_decapsulated {
        Side::Uplink
    } else {
        Side::Cluster
    };
    let received = SimPacket::new(received.to_vec());
    let mut expected = received.clone();
    let verdict = tc::run(&mut expected, &with_sessions(options), side);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    assert_eq!(expected.bytes, sent, "XDP does what TC does");
    sound::translated(&received, &SimPacket::new(sent.to_vec()), 1);
}

/// Tables with a session of each kind, of ports that stay as they are.
fn with_sessions(options: Options) -> SimTables {
    let tables = tables(options);
    let web = at(POD, 80);
    let mut ping = Wire::new(ICMP, at(PC, 9), at(POD, 0));
    ping.payload = b"ping".to_vec();
    let from_client = [
        Wire::tcp(at(PC, 20_000), web, SYN),
        Wire::new(UDP, at(PC, 20_001), DNS),
        Wire::new(UDP, at(PC, 20_001), at(LOCAL_POD, 53)),
        Wire::tcp(at(PC, 20_002), at(ROUTED_POD, 80), SYN),
        Wire::tcp(at(PC, 20_003), API, SYN),
        ping,
        Wire::new(50, at(PC, 0), at(ROUTED_POD, 0)),
    ];
    for wire in from_client {
        tc::run(&mut SimPacket::new(wire.bytes()), &tables, Side::Uplink);
    }
    let mut answer = Wire::tcp(web, at(NAT, 20_000), SYN | ACK);
    answer.acknowledgement = 1;
    tc::run(&mut SimPacket::new(answer.bytes()), &tables, Side::Cluster);
    let mut accepted = Wire::tcp(at(PC, 20_000), web, ACK);
    (accepted.sequence, accepted.acknowledgement) = (1, 1);
    tc::run(&mut SimPacket::new(accepted.bytes()), &tables, Side::Uplink);
    let departing = Wire::tcp(at(PC, 20_004), at(POD, 81), SYN);
    stack::run(&mut SimPacket::new(departing.bytes()), &tables);
    tables
}
