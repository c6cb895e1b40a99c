//! Packet sizes and hops: what gets through a VXLAN whose packets are 50 octets shorter, and what the
//! office is told of it.

use std::net::{Ipv4Addr, SocketAddrV4};

use lab::host::datagram;
use lab::plan::{self, LAN_MTU, OFFICE_GATEWAY, VXLAN_MTU, port};
use lab::{Host, Lab, LabOptions, Overlay};

const GIB: u64 = 1 << 30;
const ECHO_SERVICE: SocketAddrV4 = SocketAddrV4::new(plan::ECHO, port::ECHO);

fn open(overlay: Overlay) -> Lab {
    Lab::open(LabOptions {
        overlay,
        ..LabOptions::default()
    })
    .unwrap()
}

/// Octets of an ICMP echo's payload that make an IPv4 packet of `size` octets.
fn ping_payload(size: u32) -> String {
    (size - 20 - 8).to_string()
}

#[test]
fn traceroute_shows_the_router_the_node_and_the_pod() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let way = [OFFICE_GATEWAY, plan::NODE_30].map(Some);

    for method in [&["-U", "-p", "33434"][..], &["-I"], &["-T", "-p", "7"]] {
        let pod = lab.pod("echo-0").address();
        let hops = pc.traceroute(pod, method).unwrap();
        assert_eq!(
            hops,
            [&way[..], &[Some(pod)]].concat(),
            "traceroute {method:?} to {pod}"
        );

        // The worker is a hop too, and answers with the address of its end of the tunnel.
        let pod = lab.pod("echo-1").address();
        let worker = Some(Ipv4Addr::new(10, 244, 1, 0));
        let hops = pc.traceroute(pod, method).unwrap();
        assert_eq!(
            hops,
            [&way[..], &[worker, Some(pod)]].concat(),
            "traceroute {method:?} to {pod}"
        );
    }
}

#[test]
fn traceroute_to_a_service_ends_at_the_service() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let hops = lab
        .office_pc()
        .traceroute(plan::MYSQL, &["-T", "-p", "3306"])
        .unwrap();
    assert_eq!(
        hops[..2],
        [Some(OFFICE_GATEWAY), Some(plan::NODE_30)],
        "{hops:?}"
    );
    assert_eq!(hops.last(), Some(&Some(plan::MYSQL)), "{hops:?}");
}

#[test]
fn the_office_learns_the_mtu_of_the_tunnel() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let pod = lab.pod("echo-1").address();
    let try_size = |size: u32| {
        pc.ping_with(
            pod,
            &["-M", "do", "-c", "1", "-W", "2", "-s", &ping_payload(size)],
        )
        .unwrap()
    };

    assert!(try_size(VXLAN_MTU).complete());
    let refused = try_size(LAN_MTU);
    let told = format!(
        "From {} icmp_seq=1 Frag needed and DF set (mtu = {VXLAN_MTU})",
        plan::NODE_30
    );
    assert!(refused.text.contains(&told), "{}", refused.text);
    let route = pc.run("ip", &["route", "get", &pod.to_string()]).unwrap();
    assert!(route.contains(&format!("mtu {VXLAN_MTU}")), "{route}");
}

#[test]
fn a_datagram_that_may_not_be_fragmented_is_sent_again_in_the_size_that_fits() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    // Linux sets DF on UDP and fragments by itself once it knows the path's MTU, so the first
    // datagram is lost and the next one gets there.
    let socket = lab
        .office_pc()
        .udp_from(0, lab.at("echo-1", port::ECHO))
        .unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_millis(300)))
        .unwrap();
    let payload = [7; 1470];
    assert!(datagram(&socket, &payload).is_err());
    datagram(&socket, &payload).unwrap();
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

#[test]
fn both_sides_of_a_connection_are_told_of_the_segments_that_fit() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pod = lab.pod("echo-1");
    // A pod that does not know of the tunnel either.
    pod.run("ip", &["link", "set", "eth0", "mtu", &LAN_MTU.to_string()])
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
            [Some(u16::try_from(VXLAN_MTU - 40).unwrap())],
            "{packets:?}"
        );
    }
}

/// Asserts that fewer than one in a hundred of the segments that `senders` send during `work` are sent
/// again. When large packets don't get through, it is many more.
#[track_caller]
fn without_a_storm(senders: &[&Host], work: impl FnOnce()) {
    let sum = |name| -> u64 {
        senders
            .iter()
            .map(|sender| sender.counter("Tcp", name).unwrap())
            .sum()
    };
    let before = (sum("RetransSegs"), sum("OutSegs"));
    work();
    let (again, all) = (sum("RetransSegs") - before.0, sum("OutSegs") - before.1);
    assert!(
        again * 100 <= all,
        "{again} of {all} segments were sent again"
    );
}

fn a_gibibyte_both_ways(overlay: Overlay, target: impl Fn(&Lab) -> SocketAddrV4) {
    let lab = open(overlay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let (pc, target) = (lab.office_pc(), target(&lab));
    without_a_storm(&[pc], || {
        pc.bulk(target, GIB, 0).unwrap();
    });
    let pods = ["echo-0", "echo-1", "echo-2"].map(|pod| lab.pod(pod));
    without_a_storm(&pods, || {
        pc.bulk(target, 0, GIB).unwrap();
    });
}

#[test]
fn a_gibibyte_of_tcp_crosses_vxlan_without_a_retransmission_storm() {
    a_gibibyte_both_ways(Overlay::Vxlan, |lab| lab.at("echo-1", port::BULK));
}

#[test]
fn a_gibibyte_of_tcp_reaches_a_local_pod_without_a_retransmission_storm() {
    a_gibibyte_both_ways(Overlay::Vxlan, |lab| lab.at("echo-0", port::BULK));
}

#[test]
fn a_gibibyte_of_tcp_crosses_host_gw_without_a_retransmission_storm() {
    a_gibibyte_both_ways(Overlay::HostGw, |lab| lab.at("echo-1", port::BULK));
}

#[track_caller]
fn fragments_pass(client: &Host, pod: SocketAddrV4) {
    let arguments = [
        "-s", "3000", "-M", "dont", "-c", "3", "-i", "0.2", "-W", "2",
    ];
    let ping = client.ping_with(*pod.ip(), &arguments).unwrap();
    assert!(ping.complete(), "{pod}: {}", ping.text);
    echo_large(client, pod);
}

#[test]
fn fragments_reach_pods_of_other_nodes_and_come_back() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let lab = open(overlay);
        let _bridge = lab.start_bridge(&[]).unwrap();
        for pod in ["echo-1", "echo-2"] {
            fragments_pass(lab.office_pc(), lab.at(pod, port::ECHO));
        }
    }
}

#[test]
fn fragments_reach_the_nodes_own_pods_and_come_back() {
    let lab = open(Overlay::HostGw);
    let _bridge = lab.start_bridge(&[]).unwrap();
    fragments_pass(lab.office_pc(), lab.at("echo-0", port::ECHO));
}

/// A datagram of several fragments, twice: the first may only teach the client the path's MTU.
#[track_caller]
fn echo_large(client: &Host, target: SocketAddrV4) {
    let socket = client.udp_from(0, target).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let payload: Vec<u8> = (0..8000_u16).map(|n| n.to_be_bytes()[1]).collect();
    let _ = datagram(&socket, &payload);
    datagram(&socket, &payload).unwrap();
}

#[test]
fn fragments_that_are_too_large_for_the_nodes_own_pods_are_told_so() {
    // The veth of a pod under VXLAN takes 1450 octets and no fragment more; a client that follows
    // path-MTU discovery sends smaller ones at once.
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pod = lab.at("echo-0", port::ECHO);
    let arguments = [
        "-s", "3000", "-M", "want", "-c", "4", "-i", "0.2", "-W", "2",
    ];
    let ping = lab.office_pc().ping_with(*pod.ip(), &arguments).unwrap();
    assert!(ping.received >= 3, "{}", ping.text);
    echo_large(lab.office_pc(), pod);
    echo_large(lab.office_pc(), ECHO_SERVICE);
}
