//! What is ours at the edges: strangers, answers to pods that took another way, frames for another address of the node,
//! priority tags, large pings, and backends on the node itself.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::cluster::{Endpoint, Protocol};
use lab::frames::{self, Sender, ethernet, ipv4, udp};
use lab::host::{datagram, exchange};
use lab::plan::{self, ECHO_SERVICE, NODE_30, OFFICE_PC, port};
use lab::{Host, LabOptions, eventually, reach, serve};
use serde_json::Value;

#[test]
fn a_stranger_to_a_service_is_refused_counted_and_named() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    // A VLAN of the office that nobody has told of.
    let router = lab.office_router();
    router
        .run_line("ip address add 172.20.5.1/24 dev lo")
        .unwrap();
    lab.node_30()
        .run_line("ip route add 172.20.5.0/24 via 10.60.20.1")
        .unwrap();
    let begun = received(lab.node_30());
    let ping = router
        .ping_with(
            plan::ECHO,
            &["-c", "2", "-i", "0.2", "-W", "1", "-I", "172.20.5.1"],
        )
        .unwrap();
    assert_eq!(ping.received, 0, "{}", ping.text);
    assert!(ping.text.contains("Packet filtered"), "{}", ping.text);
    assert!(received(lab.node_30()) - begun < 20, "packets circle");
    let status = bridge.status().unwrap();
    assert!(
        status["drops"]["not-office"].as_u64().unwrap() >= 2,
        "{status}"
    );
    let [network] = &status["other_sources"].as_array().unwrap()[..] else {
        panic!("{status}")
    };
    assert_eq!(network["network"], "172.20.5.0/24");
    assert!(network["packets"].as_u64().unwrap() >= 2);
    let text = bridge.client().text(&["status"]).unwrap();
    assert!(text.contains("172.20.5.0/24"), "{text}");
}

#[test]
fn strangers_pass_where_that_is_set() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&["--pass-other-sources"]).unwrap();
    let router = lab.office_router();
    router
        .ping_with(plan::ECHO, &["-c", "1", "-W", "1", "-I", "10.60.20.1"])
        .unwrap();
    let status = bridge.status().unwrap();
    assert_eq!(status["drops"]["not-office"], 0, "{status}");
}

#[test]
fn pods_of_other_nodes_open_connections_to_the_office_and_get_their_answers() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let worker = lab.worker_1();
    worker.run_line("iptables -t nat -F POSTROUTING").unwrap();
    let pc = lab.office_pc();
    let tcp = SocketAddrV4::new(OFFICE_PC, pc.serve_tcp(9003, serve::echo()).unwrap());
    let udp = SocketAddrV4::new(OFFICE_PC, pc.serve_udp_echo(123).unwrap());
    let pod = lab.pod("echo-1");
    let mut debugger = pod.tcp(tcp).unwrap();
    exchange(&mut debugger, b"a breakpoint").unwrap();
    exchange(&mut debugger, &vec![7; 200_000]).unwrap();
    datagram(&pod.udp_from(0, udp).unwrap(), b"what time is it?").unwrap();
    let callers = pc.peers(Protocol::Tcp, tcp.port());
    assert!(
        callers.iter().all(|caller| *caller.ip() == pod.address()),
        "{callers:?}"
    );
    let flows = bridge.flows().unwrap();
    assert!(
        flows.iter().all(|flow| flow["layer"] == "kernel"),
        "{flows:?}"
    );
    // Nothing can be opened so.
    pc.tcp_echo(lab.at("echo-1", port::ECHO), b"the usual way")
        .unwrap();
    let translated = |flow: &Value| flow["layer"] != "kernel";
    assert!(bridge.flows().unwrap().iter().any(translated));
}

#[test]
fn a_next_hop_with_a_virtual_address_is_served_like_the_nodes_own() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let node = lab.node_30();
    for line in [
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1",
        "ip link add vrrp4 link eth0 address 00:00:5e:00:01:33 type macvlan mode bridge",
        "ip address add 10.60.20.51/32 dev vrrp4",
        "ip link set vrrp4 up",
    ] {
        node.run_line(line).unwrap();
    }
    let router = lab.office_router();
    for network in [plan::POD_CIDR, plan::SERVICE_CIDR] {
        router
            .run_line(&format!("ip route replace {network} via 10.60.20.51"))
            .unwrap();
    }
    // Until the bridge knows the address, kube-proxy's rules translate.
    eventually(Duration::from_secs(15), "the address is known", || {
        lab.office_pc().tcp_echo(ECHO_SERVICE, b"by VRRP").is_ok()
            && !bridge.flows().unwrap().is_empty()
    });
    let neighbours = router.run_line("ip neighbour show 10.60.20.51").unwrap();
    assert!(neighbours.contains("00:00:5e:00:01:33"), "{neighbours}");
    reach::everything(&lab, lab.office_pc());
    let pod = lab.pod("echo-1");
    let seen = pod.peers(Protocol::Tcp, port::ECHO);
    assert!(seen.iter().all(|peer| *peer.ip() != OFFICE_PC), "{seen:?}");
}

#[test]
fn frames_with_a_priority_and_no_vlan_are_ours() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let router = lab.office_router();
    let sender = Sender::new(router, "lan0").unwrap();
    let pod = lab.pod("echo-1");
    let packet = ipv4(
        OFFICE_PC,
        pod.address(),
        17,
        &udp(20_007, port::ECHO, b"urgent"),
    );
    let tagged = [&[0xE0, 0x00, 0x08, 0x00][..], &packet].concat();
    let frame = ethernet(
        frames::mac(lab.node_30(), "eth0").unwrap(),
        frames::mac(router, "lan0").unwrap(),
        0x8100,
        &tagged,
    );
    eventually(Duration::from_secs(5), "the pod has got it", || {
        sender.send(&frame).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let peers = pod.peers(Protocol::Udp, port::ECHO);
        assert!(
            peers.iter().all(|peer| *peer.ip() != OFFICE_PC),
            "{peers:?}"
        );
        !peers.is_empty()
    });
}

#[test]
fn a_ping_to_a_service_may_be_larger_than_a_frame() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let ping = lab
        .office_pc()
        .ping_with(
            plan::ECHO,
            &["-c", "2", "-i", "0.2", "-W", "2", "-s", "2000"],
        )
        .unwrap();
    assert_eq!(ping.received, 2, "{}", ping.text);
    assert_eq!(bridge.status().unwrap()["drops"]["rewrite-failed"], 0);
}

#[test]
fn a_service_with_a_backend_on_the_node_itself_is_reached() {
    let mut lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let node = lab.node_30();
    node.serve_tcp(port::ECHO, serve::echo()).unwrap();
    node.serve_udp_echo(port::ECHO).unwrap();
    lab.cluster_mut().service_mut("echo").endpoints = vec![Endpoint::of_node_30()];
    lab.publish().unwrap();
    let pc = lab.office_pc();
    eventually(Duration::from_secs(15), "the node answers", || {
        pc.tcp_echo(ECHO_SERVICE, b"host network").is_ok()
    });
    pc.udp_echo(ECHO_SERVICE, b"datagram").unwrap();
    pc.udp_echo(ECHO_SERVICE, &[7; 4000]).unwrap();
    let mut session = pc.tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, &vec![7; 100_000]).unwrap();
    // The service knows its client, and the node itself is reached as before.
    let peers = lab.node_30().peers(Protocol::Tcp, port::ECHO);
    assert!(
        peers.iter().all(|peer| *peer.ip() == OFFICE_PC),
        "{peers:?}"
    );
    pc.tcp_echo(SocketAddrV4::new(NODE_30, port::ECHO), b"directly")
        .unwrap();
    let flows = bridge.flows().unwrap();
    assert!(
        flows.iter().all(|flow| flow["layer"] == "local"),
        "{flows:?}"
    );
}

#[test]
fn a_vip_in_no_known_network_is_forwarded_and_told() {
    const FAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 7, 7), port::ECHO);
    let mut lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    lab.office_router()
        .run_line("ip route add 10.200.7.7 via 10.60.20.30")
        .unwrap();
    lab.cluster_mut().service_mut("echo").vip = *FAR.ip();
    lab.publish().unwrap();
    let pc = lab.office_pc();
    eventually(Duration::from_secs(15), "the service answers", || {
        pc.tcp_echo(FAR, b"far away").is_ok()
    });
    let problems = bridge.status().unwrap()["problems"].to_string();
    assert!(
        problems.contains("10.200.7.7 is in no service CIDR"),
        "{problems}"
    );
    // One that nobody has is the kernel's own matter, and the others go on.
    pc.tcp_echo(SocketAddrV4::new(plan::WEB, port::ECHO), b"x")
        .unwrap_err();
}

#[test]
fn an_uplink_that_is_renamed_is_followed() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let mut session = pc.tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    let node = lab.node_30();
    node.run_line("ip link set dev eth0 name lan0").unwrap();
    eventually(Duration::from_secs(5), "the new name", || {
        let problems = bridge.status().unwrap()["problems"].to_string();
        problems.contains("eth0 is called lan0 now")
    });
    exchange(&mut session, b"after").unwrap();
    pc.tcp_echo(ECHO_SERVICE, b"new").unwrap();
    let status = bridge.status().unwrap();
    assert_eq!(status["ready"], true, "{status}");
    node.run_line("ip link set dev lan0 name eth0").unwrap();
    eventually(Duration::from_secs(5), "the old name", || {
        bridge.status().unwrap()["problems"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    exchange(&mut session, b"as ever").unwrap();
}

/// Every Windows host pings with the identifier 1.
#[test]
fn two_clients_and_the_node_ping_a_pod_with_one_identifier() {
    const PINGS: [&str; 8] = ["-c", "20", "-i", "0.1", "-W", "1", "-e", "1"];
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pod = lab.pod("echo-1").address();
    let hosts = [lab.office_pc(), lab.office_pc2(), lab.node_30()];
    std::thread::scope(|scope| {
        let pings = hosts.map(|host| scope.spawn(move || host.ping_with(pod, &PINGS).unwrap()));
        for (ping, host) in pings.into_iter().zip(hosts) {
            let ping = ping.join().unwrap();
            // Two requests within one round trip may get one answer.
            assert!(ping.received >= 18, "{}: {}", host.name(), ping.text);
        }
    });
}

/// Packets that a host has received on its first interface.
fn received(host: &Host) -> u64 {
    let text = host
        .run_line("cat /sys/class/net/eth0/statistics/rx_packets")
        .unwrap();
    text.trim().parse().unwrap()
}
