//! Source NAT: the address and port that pods see of an office host.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::cluster::Protocol;
use lab::host::{datagram, exchange};
use lab::plan::{self, ECHO_PODS, ECHO_SERVICE, FREE_PORT, WEB_SERVICE, port};
use lab::{Firewall, Lab, LabOptions, reach};

#[test]
fn pods_see_the_address_that_replies_come_home_to() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for pod in ECHO_PODS {
        let address = lab.nat_address(lab.pod(pod).address());
        lab.office_pc()
            .tcp_echo(lab.at(pod, port::ECHO), b"who am I?")
            .unwrap();
        lab.office_pc()
            .udp_echo(lab.at(pod, port::ECHO), b"who am I?")
            .unwrap();
        assert_eq!(
            seen_by(&lab, pod, Protocol::Tcp),
            HashSet::from([address]),
            "{pod}"
        );
        assert_eq!(
            seen_by(&lab, pod, Protocol::Udp),
            HashSet::from([address]),
            "{pod}"
        );
    }
}

#[test]
fn a_configured_nat_address_is_what_pods_see() {
    let lab = LabOptions::default().open();
    // The workers have a route to each address in node-30's pod CIDR.
    let address = Ipv4Addr::new(10, 244, 30, 250);
    let _bridge = lab
        .start_bridge(&["--snat-address", &address.to_string()])
        .unwrap();
    for pod in ["echo-1", "echo-2"] {
        lab.office_pc()
            .tcp_echo(lab.at(pod, port::ECHO), b"who am I?")
            .unwrap();
        assert_eq!(
            seen_by(&lab, pod, Protocol::Tcp),
            HashSet::from([address]),
            "{pod}"
        );
    }
}

/// Flannel would masquerade office traffic once more, and kube-proxy too, if they ever saw it.
#[test]
fn on_the_wire_between_nodes_there_is_one_nat_and_no_more() {
    for firewall in [LabOptions::default().firewall, Firewall::Open] {
        let lab = LabOptions {
            firewall,
            ..LabOptions::default()
        }
        .open();
        let bridge = lab.start_bridge(&[]).unwrap();
        let pod = lab.at("echo-1", port::ECHO);
        let nat_address = lab.nat_address(*pod.ip());
        let overlay = lab.options().overlay;
        let filter = overlay.capture_filter();
        let capture = lab.worker_1().capture("eth0", filter).unwrap();

        let mut tcp = lab.office_pc().tcp_from(FREE_PORT, pod).unwrap();
        exchange(&mut tcp, b"between nodes").unwrap();
        let udp = lab.office_pc().udp_from(FREE_PORT + 1, pod).unwrap();
        datagram(&udp, b"between nodes").unwrap();
        lab.office_pc().ping(*pod.ip()).unwrap();

        let inner: Vec<_> = capture
            .stop()
            .unwrap()
            .iter()
            .filter_map(|packet| overlay.carried(packet))
            .filter(|inner| inner.source == *pod.ip() || inner.destination == *pod.ip())
            .collect();
        let (there, back): (Vec<_>, Vec<_>) = inner
            .iter()
            .partition(|inner| inner.destination == *pod.ip());
        let sources: HashSet<_> = there.iter().map(|inner| inner.source).collect();
        let returns: HashSet<_> = back.iter().map(|inner| inner.destination).collect();
        assert_eq!(sources, HashSet::from([nat_address]), "{firewall:?}");
        assert_eq!(returns, HashSet::from([nat_address]), "{firewall:?}");
        for protocol in [1, 6, 17] {
            assert!(there.iter().any(|inner| inner.protocol == protocol));
        }

        // What went over the wire is what the flow table tells.
        for (protocol, client_port) in [(6, FREE_PORT), (17, FREE_PORT + 1)] {
            let client = SocketAddrV4::new(lab.office_pc().address(), client_port);
            let flow = bridge.only_flow(client, |_| true);
            let nat: SocketAddrV4 = flow["nat"].as_str().unwrap().parse().unwrap();
            assert_eq!(nat, SocketAddrV4::new(nat_address, client_port), "{flow}");
            assert!(
                there
                    .iter()
                    .filter(|inner| inner.protocol == protocol)
                    .all(|inner| inner.from() == nat),
                "{flow}, but on the wire: {there:?}"
            );
        }
    }
}

#[test]
fn the_flow_table_tells_every_address_of_a_flow() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut stream = lab.office_pc().tcp_from(FREE_PORT, WEB_SERVICE).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));

    let flow = bridge.only_flow(SocketAddrV4::new(plan::OFFICE_PC, FREE_PORT), |_| true);
    assert_eq!(
        flow["protocol"].as_str().unwrap().to_ascii_lowercase(),
        "tcp",
        "{flow}"
    );
    assert_eq!(flow["destination"], "10.96.20.17:80", "{flow}");
    assert_eq!(flow["backend"], "10.244.2.5:8080", "{flow}");
    let nat_address = lab.nat_address(lab.pod("web-0").address());
    assert_eq!(flow["nat"], format!("{nat_address}:{FREE_PORT}"), "{flow}");
    assert_eq!(flow["layer"], lab.options().datapath.layer(), "{flow}");
    assert!(
        flow["state"]
            .as_str()
            .is_some_and(|state| !state.is_empty()),
        "{flow}"
    );
    // At least the SYN, the ACK and the request; at least 40 octets each.
    assert!(flow["packets"].as_u64().unwrap() >= 3, "{flow}");
    assert!(flow["bytes"].as_u64().unwrap() >= 120, "{flow}");
    assert!(flow["idle_seconds"].as_u64().unwrap() <= 2, "{flow}");
}

#[test]
fn two_clients_with_the_same_port_keep_both_sessions() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    for target in [lab.at("echo-1", port::ECHO), lab.at("echo-0", port::ECHO)] {
        let _sessions = reach::from_the_same_port(&lab, FREE_PORT, target);
        let nat: Vec<String> = bridge
            .flows()
            .unwrap()
            .iter()
            .filter(|flow| flow["destination"] == target.to_string().as_str())
            .map(|flow| format!("{} {}", flow["protocol"], flow["nat"]))
            .collect();
        assert_eq!(nat.len(), 4, "{nat:?}");
        assert_eq!(
            nat.iter().collect::<HashSet<_>>().len(),
            4,
            "two flows share {nat:?}"
        );
    }
}

#[test]
fn two_clients_with_the_same_ping_identifier_both_get_their_own_answers() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for pod in ["echo-0", "echo-1"] {
        let address = lab.pod(pod).address();
        // Every Windows host sends identifier 1.
        let arguments = ["-e", "1", "-c", "10", "-i", "0.05", "-W", "2"];
        std::thread::scope(|scope| {
            let pings = [lab.office_pc(), lab.office_pc2()]
                .map(|client| scope.spawn(move || client.ping_with(address, &arguments).unwrap()));
            for ping in pings {
                let ping = ping.join().unwrap();
                assert!(
                    ping.complete() && !ping.text.contains("DUP"),
                    "{}",
                    ping.text
                );
            }
        });
    }
}

#[test]
fn a_port_that_the_node_may_use_itself_is_never_a_nat_port() {
    let lab = LabOptions::default().open();
    let listener = lab.node_30().serve_tcp(22_222, lab::serve::echo()).unwrap();
    let bridge = lab.start_bridge(&[]).unwrap();
    let pod = lab.at("echo-1", port::ECHO);
    // VXLAN twice, WireGuard, NodePorts, the node's own ephemeral ports, and a listening socket.
    for client_port in [8472, 4789, 51_820, 30_080, 32_767, 40_000, 60_999, listener] {
        let socket = lab.office_pc().udp_from(client_port, pod).unwrap();
        datagram(&socket, b"from a reserved port").unwrap();
        let mut stream = lab.office_pc().tcp_from(client_port, pod).unwrap();
        exchange(&mut stream, b"from a reserved port").unwrap();
    }
    let flows = bridge.flows().unwrap();
    assert_eq!(flows.len(), 16, "{flows:?}");
    for flow in flows {
        let nat: SocketAddrV4 = flow["nat"].as_str().unwrap().parse().unwrap();
        let port = nat.port();
        let reserved = [8472, 4789, 51_820, listener].contains(&port)
            || (30_000..=32_767).contains(&port)
            || (32_768..=60_999).contains(&port);
        assert!(!reserved, "{flow}");
    }
}

#[test]
fn a_thousand_connections_to_one_service_all_work() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let mut streams = Vec::new();
    for _ in 0..500 {
        for client in [lab.office_pc(), lab.office_pc2()] {
            streams.push(client.tcp(ECHO_SERVICE).unwrap());
        }
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        exchange(stream, format!("connection {index}").as_bytes()).unwrap();
    }
}

#[test]
fn both_questions_of_one_socket_are_answered() {
    // A resolver sends A and AAAA over one new socket at once: two CPUs may open the same flow.
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for _ in 0..300 {
        let socket = lab.office_pc().udp_from(0, ECHO_SERVICE).unwrap();
        socket.send(b"A").unwrap();
        socket.send(b"AAAA").unwrap();
        let mut buffer = [0; 16];
        let mut answers = [(); 2].map(|()| {
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        });
        answers.sort();
        assert_eq!(answers, [b"A".to_vec(), b"AAAA".to_vec()]);
    }
}

fn seen_by(lab: &Lab, pod: &str, protocol: Protocol) -> HashSet<Ipv4Addr> {
    lab.pod(pod)
        .peers(protocol, port::ECHO)
        .iter()
        .map(|peer| *peer.ip())
        .collect()
}
