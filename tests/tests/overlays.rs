//! What depends on one overlay: its tunnel, its routes, its MTU. And basic connectivity on host-gw, for runs of the
//! suite on VXLAN only.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use lab::cluster::Protocol;
use lab::host::{datagram, exchange};
use lab::plan::{self, ECHO_PODS, ECHO_SERVICE, LAN_MTU, VXLAN_MTU, port};
use lab::wait::FOLLOWS;
use lab::{Bridge, Lab, LabOptions, Overlay, Variant, eventually, reach};

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
        let lab = options.open();
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
    let try_size = |size| pc.ping_unfragmented(pod, size).unwrap();

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
    let (_bridge, mut session) = with_a_session(&lab);
    // Three times: the bridge may read the kernel at any moment in between.
    for _ in 0..3 {
        lab.recreate_flannel().unwrap();
        eventually(FOLLOWS, "a pod behind the new flannel.1", || {
            lab.is_bridged(lab.at("echo-2", port::ECHO))
        });
    }
    goes_on_through_the_new_tunnel(&mut session);
}

#[test]
fn a_tunnel_may_be_away_for_longer_than_a_turn_of_the_sweep() {
    /// Garbage collection runs every 10 s.
    const AWAY: Duration = Duration::from_secs(12);
    let lab = open(Overlay::Vxlan);
    let (bridge, mut session) = with_a_session(&lab);
    let node = lab.node_30();
    node.run_line("ip link del flannel.1").unwrap();
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
    eventually(FOLLOWS, "a pod behind the new flannel.1", || {
        lab.is_bridged(lab.at("echo-2", port::ECHO))
    });
    goes_on_through_the_new_tunnel(&mut session);
}

#[test]
fn a_bridge_may_start_before_the_tunnel_is_there() {
    let lab = open(Overlay::Vxlan);
    let node = lab.node_30();
    node.run_line("ip link del flannel.1").unwrap();
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
    eventually(FOLLOWS, "a pod behind the tunnel", || {
        answers(&lab, "echo-1")
    });
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
    node.run_line(&format!("ip addr add {new}/32 dev flannel.1"))
        .unwrap();
    node.run_line("ip addr del 10.244.30.0/32 dev flannel.1")
        .unwrap();
    eventually(FOLLOWS, "the new address", || {
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
    let node = lab.node_30();
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"before")
        .unwrap();

    node.run_line("ip route replace 10.244.1.0/24 via 10.60.20.99")
        .unwrap();
    eventually(FOLLOWS, "nobody at the other end", || {
        !answers(&lab, "echo-1")
    });
    node.run_line("ip route replace 10.244.1.0/24 via 10.60.20.31")
        .unwrap();
    eventually(FOLLOWS, "the way as it was", || answers(&lab, "echo-1"));

    node.run_line("ip route del 10.244.1.0/24").unwrap();
    node.run_line("ip route add unreachable 10.244.1.0/24")
        .unwrap();
    eventually(FOLLOWS, "the office told so", || {
        let refusal = lab.office_pc().tcp_refusal(lab.at("echo-1", port::ECHO));
        refusal.is_ok_and(|(kind, _)| kind == ErrorKind::HostUnreachable)
    });
}

fn open(overlay: Overlay) -> Lab {
    options(overlay).open()
}

fn options(overlay: Overlay) -> LabOptions {
    LabOptions::of(Variant {
        overlay,
        ..Variant::of_suite()
    })
}

fn answers(lab: &Lab, pod: &str) -> bool {
    let limit = Duration::from_millis(500);
    lab.office_pc()
        .tcp_within(limit, lab.at(pod, port::ECHO))
        .is_ok()
}

/// A bridge, and a session with a pod behind the tunnel.
fn with_a_session(lab: &Lab) -> (Bridge, TcpStream) {
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut session = lab.office_pc().tcp(lab.at("echo-1", port::ECHO)).unwrap();
    exchange(&mut session, b"before").unwrap();
    (bridge, session)
}

#[track_caller]
fn goes_on_through_the_new_tunnel(session: &mut TcpStream) {
    session.set_read_timeout(Some(FOLLOWS)).unwrap();
    exchange(session, b"the same session, through the new tunnel").unwrap();
}
