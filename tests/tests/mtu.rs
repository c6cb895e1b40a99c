//! Packet sizes and hops: MSS clamping, fragments and large transfers through a VXLAN, whose packets are 50 octets
//! shorter, and traceroute.

use std::net::SocketAddrV4;

use lab::plan::{self, ECHO_PODS, LAN_MTU, OFFICE_GATEWAY, port};
use lab::{Lab, LabOptions, reach};

const GIB: u64 = 1 << 30;

#[test]
fn traceroute_shows_the_router_the_node_and_the_pod() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    reach::by_traceroute(&lab);
}

#[test]
fn traceroute_to_a_service_ends_at_the_service() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let hops = lab
        .office_pc()
        .traceroute(plan::MYSQL, &["-T", "-p", "3306"])
        .unwrap();
    // Netfilter answers in the name of what it has translated.
    let node = if lab.options().datapath.is_stack() {
        plan::MYSQL
    } else {
        plan::NODE_30
    };
    assert_eq!(hops[..2], [Some(OFFICE_GATEWAY), Some(node)], "{hops:?}");
    assert_eq!(hops.last(), Some(&Some(plan::MYSQL)), "{hops:?}");
}

#[test]
fn both_sides_of_a_connection_are_told_of_the_segments_that_fit() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pod = lab.pod("echo-1");
    // A pod that does not know of a tunnel either.
    pod.run_line(&format!("ip link set eth0 mtu {LAN_MTU}"))
        .unwrap();
    let at_pod = pod
        .capture("eth0", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn")
        .unwrap();
    let at_pc = lab
        .office_pc()
        .capture(
            "eth0",
            "tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)",
        )
        .unwrap();
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"small")
        .unwrap();
    for capture in [at_pod, at_pc] {
        let packets = capture.stop().unwrap();
        let sizes: Vec<_> = packets.iter().map(|packet| mss(&packet.frame)).collect();
        assert_eq!(
            sizes,
            [Some(
                u16::try_from(lab.options().overlay.pod_mtu() - 40).unwrap()
            )],
            "{packets:?}"
        );
    }
}

#[test]
fn a_gibibyte_of_tcp_reaches_another_nodes_pod_without_a_retransmission_storm() {
    a_gibibyte_both_ways(|lab| lab.at("echo-1", port::BULK));
}

#[test]
fn a_gibibyte_of_tcp_reaches_a_local_pod_without_a_retransmission_storm() {
    a_gibibyte_both_ways(|lab| lab.at("echo-0", port::BULK));
}

#[test]
fn fragments_reach_pods_of_other_nodes_and_come_back() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for pod in ["echo-1", "echo-2"] {
        reach::in_fragments(lab.office_pc(), lab.at(pod, port::ECHO));
    }
}

/// The maximum segment size in the options of a SYN (RFC 9293 section 3.7.1).
fn mss(frame: &[u8]) -> Option<u16> {
    let tcp = etherparse::SlicedPacket::from_ethernet(frame)
        .ok()?
        .transport?;
    let etherparse::TransportSlice::Tcp(tcp) = tcp else {
        return None;
    };
    tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::MaximumSegmentSize(size)) => Some(size),
        _ => None,
    })
}

fn a_gibibyte_both_ways(target: impl Fn(&Lab) -> SocketAddrV4) {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let (pc, target) = (lab.office_pc(), target(&lab));
    reach::without_a_storm(&[pc], || {
        pc.bulk(target, GIB, 0).unwrap();
    });
    let pods = ECHO_PODS.map(|pod| lab.pod(pod));
    reach::without_a_storm(&pods, || {
        pc.bulk(target, 0, GIB).unwrap();
    });
}
