//! Whatever arrives: nothing panics, and what is not ours is not written to.

use crate::fixture::{
    DNS, LAPTOP, LOCAL_POD, MYSQL, NAT, NODE, OUTSIDER, PC, POD, TUNNEL, VIP, WORKER, fixture,
    forward, only_flow, pass,
};
use crate::packets::{Wire, at, icmp_error};
use bridge_common::abi::Ipv4;
use bridge_common::packet::parse::tcp_flag;
use bridge_common::path::stack;
use bridge_common::path::tc::{Side, run};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::verdict::Verdict;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const SIDES: [Side; 2] = [Side::Uplink, Side::Cluster];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        check(&fixture(), &bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_header_of_ours_do_no_harm(
        source in select(vec![PC, POD, NAT, VIP, OUTSIDER]),
        destination in select(vec![PC, POD, NAT, VIP, NODE, OUTSIDER]),
        protocol in select(vec![1_u8, 6, 17, 47, 136]),
        vihl in select(vec![0x45_u8, 0x45, 0x46, 0x4F, 0x44, 0x65]),
        total_len in 0..200_u16,
        fragment in any::<u16>(),
        rest in vec(any::<u8>(), 0..180),
    ) {
        let [l0, l1] = total_len.to_be_bytes();
        let [f0, f1] = if fragment % 2 == 0 { [0, 0] } else { fragment.to_be_bytes() };
        let mut bytes = vec![vihl, 0, l0, l1, 0, 7, f0, f1, 64, protocol, 0, 0];
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(rest);
        check(&fixture(), &bytes);
    }

    #[test]
    fn damaged_packets_do_no_harm(
        which in any::<Index>(),
        flips in vec((any::<Index>(), 1..=255_u8), 0..4),
        cut in prop::option::of(any::<Index>()),
        padding in 0..20_usize,
    ) {
        let (tables, packets) = busy_world();
        let mut bytes = packets[which.index(packets.len())].clone();
        for (index, bits) in flips {
            let index = index.index(bytes.len());
            bytes[index] ^= bits;
        }
        match cut {
            Some(cut) => bytes.truncate(cut.index(bytes.len())),
            None => bytes.resize(bytes.len() + padding, 0xAA),
        }
        check(&tables, &bytes);
    }

    #[test]
    fn traffic_between_others_is_never_written_to(
        source in any::<Ipv4>(),
        destination in any::<Ipv4>(),
        port in any::<u16>(),
        flags in any::<u8>(),
        protocol in 0..3_u8,
    ) {
        let (tables, _) = busy_world();
        let office = |address: Ipv4| address[..2] == [192, 168] && address[2] < 4;
        // What comes to a service from elsewhere is refused.
        let is_service = destination[0] == 10 && destination[1] & 0xF0 == 96;
        prop_assume!(!office(source) && !is_service);
        prop_assume!(destination != NAT && destination != NODE);
        let wire = match protocol {
            0 => Wire::tcp(at(source, port), at(destination, 80), flags),
            1 => Wire::udp(at(source, port), at(destination, 53)),
            _ => Wire::ping(source, destination, port),
        };
        for side in SIDES {
            pass(&tables, side, wire.bytes());
        }
    }
}

#[test]
fn office_traffic_to_the_internet_and_to_the_node_passes() {
    let tables = fixture();
    for side in SIDES {
        for destination in [OUTSIDER, NODE, LAPTOP] {
            pass(
                &tables,
                side,
                Wire::tcp(at(PC, 40_000), at(destination, 22), tcp_flag::SYN).bytes(),
            );
            pass(
                &tables,
                side,
                Wire::udp(at(PC, 40_000), at(destination, 53)).bytes(),
            );
            pass(&tables, side, Wire::ping(PC, destination, 1).bytes());
        }
    }
}

#[test]
fn pods_talking_to_services_and_to_each_other_pass() {
    let tables = fixture();
    for destination in [MYSQL, at(POD, 80), at(LOCAL_POD, 80)] {
        pass(
            &tables,
            Side::Cluster,
            Wire::tcp(at([10, 244, 2, 8], 40_000), destination, tcp_flag::SYN).bytes(),
        );
    }
    assert!(tables.flows.borrow().is_empty());
}

#[test]
fn a_stranger_cannot_use_the_port_of_a_flow() {
    let tables = fixture();
    forward(
        &tables,
        Side::Uplink,
        Wire::udp(at(PC, 5000), at(POD, 53)).bytes(),
        TUNNEL,
    );
    let (_, flow, _) = only_flow(&tables);
    let nat = at(flow.nat, flow.nat_port);
    for (source, protocol) in [(at(POD, 54), 0), (at(LOCAL_POD, 53), 0), (at(POD, 53), 1)] {
        let wire = match protocol {
            0 => Wire::udp(source, nat),
            _ => Wire::tcp(source, nat, tcp_flag::ACK),
        };
        for side in SIDES {
            pass(&tables, side, wire.bytes());
        }
    }
}

#[test]
fn other_protocols_take_the_stack_path_to_pods_and_stop_at_services() {
    use crate::fixture::{send, to_stack};
    use crate::packets::ip_packet;
    use bridge_common::drops::DropReason;
    const SCTP: u8 = 132;
    let tables = fixture();
    let to = |destination| ip_packet(&Wire::udp(at(PC, 0), destination), SCTP, &[0; 32], 0, false);
    to_stack(&tables, to(at(POD, 0)));
    let addresses = Wire::udp(at(PC, 0), at(POD, 0));
    for (offset, more) in [(0, true), (1480, false)] {
        to_stack(&tables, ip_packet(&addresses, SCTP, &[0; 32], offset, more));
    }
    let (verdict, _) = send(&tables, Side::Uplink, to(MYSQL));
    assert_eq!(verdict, Verdict::Drop(DropReason::UnsupportedProtocol));
    let with_proxy = SimTables {
        settings: bridge_common::abi::Settings {
            authoritative: 0,
            ..tables.settings
        },
        ..fixture()
    };
    to_stack(&with_proxy, to(MYSQL));
}

/// Packets of every kind, and tables in which some of them have a flow.
fn busy_world() -> (SimTables, Vec<Vec<u8>>) {
    let tables = fixture();
    let from_client = [
        Wire::tcp(at(PC, 40_000), at(POD, 80), tcp_flag::SYN),
        Wire::tcp(at(PC, 40_000), at(POD, 80), tcp_flag::ACK),
        Wire::tcp(at(LAPTOP, 40_000), MYSQL, tcp_flag::SYN),
        Wire::udp(at(PC, 5000), DNS).ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]),
        Wire::udp(at(PC, 5001), at(LOCAL_POD, 53)),
        Wire::ping(PC, POD, 1),
        Wire::ping(PC, VIP, 1),
        Wire::tcp(at(PC, 40_001), MYSQL, tcp_flag::ACK),
    ];
    let mut packets = Vec::new();
    for wire in &from_client {
        let bytes = wire.bytes();
        let mut packet = SimPacket::new(bytes.clone());
        if let Verdict::Forward { .. } = run(&mut packet, &tables, Side::Uplink) {
            packets.push(icmp_error(WORKER, NAT, [11, 0], [0; 4], &packet.bytes));
            let mut reply = packet.bytes;
            reply.copy_within(12..16, 16);
            reply[12..16].copy_from_slice(&wire.destination.address);
            packets.push(reply);
        }
        packets.push(bytes);
    }
    packets.push(Wire::tcp(at(POD, 33_000), at(PC, 80), tcp_flag::SYN).bytes());
    packets.push(Wire::udp(at(OUTSIDER, 53), at(NODE, 5000)).bytes());
    packets.extend(
        Wire::udp(at(PC, 5002), at(POD, 53))
            .fragmentable(7)
            .payload([0; 64])
            .fragments(24),
    );
    (tables, packets)
}

/// Sends a packet in from both sides, and out, whole and as a segmented one.
fn check(tables: &SimTables, bytes: &[u8]) {
    let ways: [fn(&mut SimPacket, &SimTables) -> Verdict; 3] = [
        |packet, tables| run(packet, tables, Side::Uplink),
        |packet, tables| run(packet, tables, Side::Cluster),
        stack::run,
    ];
    for way in ways {
        for (segment_size, checksum_is_partial) in [(0, false), (0, true), (500, true)] {
            let mut packet = SimPacket {
                segment_size,
                checksum_is_partial,
                ..SimPacket::new(bytes.to_vec())
            };
            let ttl = match way(&mut packet, tables) {
                Verdict::Pass | Verdict::ToStack => {
                    assert_eq!(packet.bytes, bytes, "written to, then passed");
                    continue;
                }
                Verdict::Forward { .. } => bytes[8] - 1,
                Verdict::Continue => bytes[8],
                Verdict::Reflect | Verdict::Drop(_) | Verdict::Held => continue,
                unfinished => panic!("{unfinished:?} is no end"),
            };
            assert_eq!(
                packet.bytes.len(),
                bytes.len(),
                "goes on with another length"
            );
            assert_eq!(
                packet.bytes[..8],
                bytes[..8],
                "fields that no translation touches"
            );
            assert_eq!(packet.bytes[8], ttl, "TTL");
        }
    }
}
