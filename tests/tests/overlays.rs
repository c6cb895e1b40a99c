//! What is about one overlay: its tunnel, its routes, its MTU. And on host-gw what every office needs first, so that a
//! run on VXLAN alone knows of it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lab::cluster::Protocol;
use lab::host::{datagram, exchange};
use lab::plan::{self, LAN_MTU, VXLAN_MTU, port};
use lab::reach::{self, ECHO_PODS};
use lab::{Lab, LabOptions, Overlay, Variant};

const ECHO_SERVICE: SocketAddrV4 = SocketAddrV4::new(plan::ECHO, port::ECHO);
/// How long the bridge may take to follow a change on the node.
const FOLLOWS: Duration = Duration::from_secs(5);

#[test]
fn office_and_cluster_reach_each_other_over_host_gw() {
    let lab = open(Overlay::HostGw);
    let _bridge = lab.start_bridge(&[]).unwrap();
    reach::both_ways(&lab);
    for pod in ECHO_PODS {
        let peers = lab.pod(pod).peers(Protocol::Tcp, port::ECHO);
        let expected = lab.nat_address(lab.pod(pod).address());
        assert!(
            !peers.is_empty() && peers.iter().all(|peer| *peer.ip() == expected),
            "{pod}: {peers:?}"
        );
    }
}

#[test]
fn the_way_to_the_pods_may_be_another_network_than_the_offices() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let options = LabOptions {
            second_nic: true,
            ..options(overlay)
        };
        let lab = Lab::open(options).unwrap();
        let _bridge = lab.start_bridge(&[]).unwrap();
        reach::both_ways(&lab);
    }
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
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let payload = [7; 1470];
    assert!(datagram(&socket, &payload).is_err());
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
    reach::with_large_datagrams(lab.office_pc(), pod);
    reach::with_large_datagrams(lab.office_pc(), ECHO_SERVICE);
}

#[test]
fn fragments_reach_every_pod_over_host_gw_and_come_back() {
    let lab = open(Overlay::HostGw);
    let _bridge = lab.start_bridge(&[]).unwrap();
    for pod in ECHO_PODS {
        reach::in_fragments(lab.office_pc(), lab.at(pod, port::ECHO));
    }
}

#[test]
fn a_gibibyte_of_tcp_crosses_host_gw_without_a_retransmission_storm() {
    const GIB: u64 = 1 << 30;
    let lab = open(Overlay::HostGw);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let (pc, pod) = (lab.office_pc(), lab.pod("echo-1"));
    reach::without_a_storm(&[pc, pod], || {
        pc.bulk(lab.at("echo-1", port::BULK), GIB, GIB).unwrap();
    });
}

#[test]
fn the_tunnel_may_be_deleted_and_made_again() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let mut session = lab.office_pc().tcp(lab.at("echo-1", port::ECHO)).unwrap();
    exchange(&mut session, b"before").unwrap();
    // More than once: the bridge may look at any moment in between.
    for _ in 0..3 {
        lab.recreate_flannel().unwrap();
        eventually("a pod behind the new flannel.1", || {
            lab.is_bridged(lab.at("echo-2", port::ECHO))
        });
    }
    session.set_read_timeout(Some(FOLLOWS)).unwrap();
    exchange(&mut session, b"the same session, through the new tunnel").unwrap();
}

#[test]
fn a_tunnel_may_be_away_for_longer_than_a_turn_of_the_sweep() {
    /// The bridge sweeps every 10 s.
    const AWAY: Duration = Duration::from_secs(12);
    let lab = open(Overlay::Vxlan);
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut session = lab.office_pc().tcp(lab.at("echo-1", port::ECHO)).unwrap();
    exchange(&mut session, b"before").unwrap();
    let node = lab.node_30();
    node.run("ip", &["link", "del", "flannel.1"]).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < AWAY {
        // Neither opens a flow that the default route would carry, nor is anything lost by it.
        assert!(!answers(&lab, "echo-2"));
        std::thread::sleep(Duration::from_millis(500));
    }
    let home = lab.nat_address(lab.pod("echo-1").address()).to_string();
    for flow in bridge.flows().unwrap() {
        assert!(flow["nat"].as_str().unwrap().starts_with(&home), "{flow}");
    }
    lab.add_flannel().unwrap();
    // Not only answered: before the bridge has seen the new one, the stack path's packets leave as they are.
    eventually("a pod behind the new flannel.1", || {
        lab.is_bridged(lab.at("echo-2", port::ECHO))
    });
    session.set_read_timeout(Some(FOLLOWS)).unwrap();
    exchange(&mut session, b"the same session, through the new tunnel").unwrap();
}

#[test]
fn a_bridge_may_start_before_the_tunnel_is_there() {
    let lab = open(Overlay::Vxlan);
    let node = lab.node_30();
    node.run("ip", &["link", "del", "flannel.1"]).unwrap();
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc()
        .tcp_echo(lab.at("echo-0", port::ECHO), b"no tunnel yet")
        .unwrap();
    lab::node::add_overlay(
        node.namespace(),
        &lab.cluster().nodes[0],
        lab.cluster(),
        Overlay::Vxlan,
    )
    .unwrap();
    eventually("a pod behind the tunnel", || answers(&lab, "echo-1"));
}

#[test]
fn a_changed_address_is_what_pods_see_from_then_on() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"before")
        .unwrap();
    let new = Ipv4Addr::new(10, 244, 30, 240);
    let node = lab.node_30();
    node.run(
        "ip",
        &["addr", "add", &format!("{new}/32"), "dev", "flannel.1"],
    )
    .unwrap();
    node.run("ip", &["addr", "del", "10.244.30.0/32", "dev", "flannel.1"])
        .unwrap();
    eventually("the new address", || {
        let _ = answers(&lab, "echo-1");
        lab.pod("echo-1")
            .peers(Protocol::Tcp, port::ECHO)
            .last()
            .map(SocketAddrV4::ip)
            == Some(&new)
    });
}

#[test]
fn a_changed_route_is_followed() {
    let lab = open(Overlay::HostGw);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let route = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        lab.node_30().run("ip", &words).unwrap();
    };
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"before")
        .unwrap();

    route("route replace 10.244.1.0/24 via 10.60.20.99");
    eventually("nobody at the other end", || !answers(&lab, "echo-1"));
    route("route replace 10.244.1.0/24 via 10.60.20.31");
    eventually("the way as it was", || answers(&lab, "echo-1"));

    route("route del 10.244.1.0/24");
    route("route add unreachable 10.244.1.0/24");
    eventually("the office told so", || {
        let refusal = lab.office_pc().tcp_refusal(lab.at("echo-1", port::ECHO));
        refusal.is_ok_and(|(kind, _)| kind == ErrorKind::HostUnreachable)
    });
}

fn open(overlay: Overlay) -> Lab {
    Lab::open(options(overlay)).unwrap()
}

fn options(overlay: Overlay) -> LabOptions {
    LabOptions::of(Variant {
        overlay,
        ..Variant::of_suite()
    })
}

/// Tries until it works, for as long as the bridge may take.
#[track_caller]
fn eventually(what: &str, attempt: impl FnMut() -> bool) {
    lab::eventually(FOLLOWS, what, attempt);
}

fn answers(lab: &Lab, pod: &str) -> bool {
    let limit = Duration::from_millis(500);
    lab.office_pc()
        .tcp_within(limit, lab.at(pod, port::ECHO))
        .is_ok()
}

/// Octets of an ICMP echo's payload that make an IPv4 packet of `size` octets.
fn ping_payload(size: u32) -> String {
    (size - 20 - 8).to_string()
}
