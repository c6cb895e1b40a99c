//! Traffic that is not between office and cluster passes unchanged, octet for octet; a packet that can't be translated
//! is never translated in part.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::capture::{Packet, Summary};
use lab::cluster::Protocol;
use lab::frames::{self, Receiver, Sender, ethernet, fix_checksum, ipv4, udp};
use lab::host::exchange;
use lab::plan::{self, ECHO_SERVICE, NODE_30, OFFICE_PC, port};
use lab::{Firewall, Host, Lab, LabOptions, serve};
use nix::sys::socket::SockProtocol;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

#[test]
fn frames_that_are_not_ours_reach_the_node_octet_for_octet() {
    let lab = open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let way = Way::new(&lab);
    let pod = lab.pod("echo-0").address();
    let datagram = udp(20_000, 7, b"left alone");

    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
    ipv6.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ipv6.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    ipv6.extend(udp(1, 2, b""));
    let cases = [
        way.case("a stranger to a pod", &ipv4(STRANGER, pod, UDP, &datagram)),
        way.case(
            "the office to the node",
            &ipv4(OFFICE_PC, NODE_30, UDP, &datagram),
        ),
        way.case(
            "the office to a worker",
            &ipv4(OFFICE_PC, plan::WORKER_1, UDP, &datagram),
        ),
        way.case(
            "the office to the internet",
            &ipv4(OFFICE_PC, STRANGER, UDP, &datagram),
        ),
        way.case(
            "GRE from the office to a pod",
            &ipv4(OFFICE_PC, pod, 47, &[0; 24]),
        ),
        way.case(
            "ESP from the office to a pod",
            &ipv4(OFFICE_PC, pod, 50, &[9; 24]),
        ),
        way.case(
            "SCTP from the office to a pod",
            &ipv4(OFFICE_PC, pod, 132, &[0; 24]),
        ),
        way.case(
            "a timestamp request to a pod",
            &ipv4(OFFICE_PC, pod, 1, &timestamp_request()),
        ),
        Case {
            what: "IPv6",
            frame: way.frame(IPV6, &ipv6),
        },
    ];
    for (case, frame) in cases.iter().zip(arrived(&lab, &way, &cases)) {
        assert!(
            frame.is_some(),
            "{} did not reach node-30 as it was",
            case.what
        );
    }
}

#[test]
fn broken_packets_are_never_translated() {
    let lab = open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let way = Way::new(&lab);
    let pods = ["echo-0", "echo-1"].map(|pod| lab.pod(pod));
    let captures = pods.map(|pod| pod.capture("eth0", "not arp and not ip6").unwrap());
    let overlay = lab.options().overlay;
    let filter = overlay.capture_filter();
    let wire = lab.worker_1().capture("eth0", filter).unwrap();

    let mut cases = Vec::new();
    for pod in pods.map(Host::address) {
        let whole = ipv4(OFFICE_PC, pod, UDP, &udp(20_000, 7, b"whole"));
        for length in [1, 10, 19] {
            cases.push(way.case("a truncated IPv4 header", &whole[..length]));
        }
        cases.push(way.case("a truncated UDP header", &whole[..24]));
        cases.push(way.case("less than the total length", &whole[..30]));
        let tcp = ipv4(OFFICE_PC, pod, TCP, &[0x4e, 0x20, 0, 7, 0, 0, 0, 0]);
        cases.push(way.case("a truncated TCP header", &tcp));
        let mut offset = ipv4(OFFICE_PC, pod, TCP, &[0; 20]);
        offset[32] = 0x10;
        cases.push(way.case("a TCP data offset of 1", &offset));
        let mut offset = ipv4(OFFICE_PC, pod, TCP, &[0; 20]);
        offset[32] = 0xf0;
        cases.push(way.case("a TCP data offset beyond the packet", &offset));
        let mut header = whole.clone();
        header[0] = 0x44;
        cases.push(way.case("a header length of 4 words", &header));
        let mut header = whole.clone();
        header[0] = 0x4f;
        cases.push(way.case("a header length beyond the packet", &header));
        let mut version = whole.clone();
        version[0] = 0x65;
        fix_checksum(&mut version);
        cases.push(way.case("IP version 6 in an IPv4 frame", &version));
        let mut short = whole.clone();
        short[2..4].copy_from_slice(&[0, 10]);
        fix_checksum(&mut short);
        cases.push(way.case("a total length of 10", &short));
        let mut long = whole.clone();
        long[2..4].copy_from_slice(&[0xff, 0xff]);
        fix_checksum(&mut long);
        cases.push(way.case("a total length beyond the frame", &long));
        let mut tagged = vec![0, 7];
        tagged.extend(IPV4.to_be_bytes());
        tagged.extend(&whole);
        cases.push(Case {
            what: "a VLAN tag",
            frame: way.frame(VLAN, &tagged),
        });
        cases.push(Case {
            what: "IPv4 under the type of ARP",
            frame: way.frame(ARP, &whole),
        });
        let mut tiny = ipv4(OFFICE_PC, pod, TCP, &[0, 7, 0, 7, 0, 0, 0, 1]);
        tiny[6] = 0x20;
        fix_checksum(&mut tiny);
        cases.push(way.case("a first fragment too small for TCP", &tiny));
        let mut overlapping = ipv4(OFFICE_PC, pod, TCP, &[0; 16]);
        overlapping[7] = 1;
        fix_checksum(&mut overlapping);
        cases.push(way.case("a fragment that would overwrite TCP flags", &overlapping));
    }
    for case in &cases {
        way.sender
            .send(&case.frame)
            .unwrap_or_else(|error| panic!("{}: {error:#}", case.what));
    }
    std::thread::sleep(Duration::from_millis(200));

    let at_pods = captures.into_iter().flat_map(|one| one.stop().unwrap());
    let mut seen: Vec<Summary> = at_pods.filter_map(|packet| packet.ipv4()).collect();
    let on_the_wire = wire.stop().unwrap();
    seen.extend(
        on_the_wire
            .iter()
            .filter_map(|packet| overlay.carried(packet)),
    );
    let is_translated = |packet: &&Summary| {
        pods.iter().any(|pod| pod.address() == packet.destination)
            && packet.source == lab.nat_address(packet.destination)
    };
    let translated: Vec<&Summary> = seen.iter().filter(is_translated).collect();
    assert!(translated.is_empty(), "{translated:?}");

    // Valid packets are still forwarded.
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"still here")
        .unwrap();
}

#[test]
fn ip_options_are_forwarded_whole() {
    let lab = open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    // Record route (RFC 791) makes the header 60 octets long.
    let pod = lab.pod("echo-1").address();
    let ping = lab
        .office_pc()
        .ping_with(pod, &["-R", "-c", "2", "-i", "0.2", "-W", "2"])
        .unwrap();
    assert!(ping.complete(), "{}", ping.text);
}

#[test]
fn traffic_between_pods_is_octet_for_octet_the_same_at_both_ends() {
    let lab = open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for (client, server) in [
        ("echo-1", "echo-0"),
        ("echo-0", "echo-2"),
        ("echo-1", "echo-2"),
    ] {
        let (client, server) = (lab.pod(client), lab.pod(server));
        for host in [client, server] {
            // Else a capture sees checksums that are still to be filled in, and merged segments.
            let off = [
                "-K", "eth0", "tx", "off", "rx", "off", "tso", "off", "gso", "off",
            ];
            host.run("ethtool", &off).unwrap();
            host.run("ethtool", &["-K", "eth0", "gro", "off"]).unwrap();
        }
        for (from, to) in [(client, server), (server, client)] {
            let filter = format!("src host {} and dst host {}", from.address(), to.address());
            let left = from.capture("eth0", &filter).unwrap();
            let reached = to.capture("eth0", &filter).unwrap();
            let target = SocketAddrV4::new(to.address(), port::ECHO);
            // One segment at a time, as nobody can tell apart what GRO has merged on the way.
            let mut stream = from.tcp(target).unwrap();
            for length in [1, 100, 1000, 1380] {
                exchange(&mut stream, &vec![1; length]).unwrap();
            }
            drop(stream);
            from.udp_echo(target, b"two").unwrap();
            from.ping(to.address()).unwrap();
            same_packets(&left.stop().unwrap(), &reached.stop().unwrap());
        }
    }
}

#[test]
fn a_session_to_the_node_itself_survives_everything() {
    let lab = open();
    // Stands for ssh.
    let port = lab.node_30().serve_tcp(2222, serve::echo()).unwrap();
    let node = SocketAddrV4::new(NODE_30, port);
    let mut sessions = [lab.office_pc(), lab.worker_1()].map(|client| client.tcp(node).unwrap());
    let mut all_work = |when: &str| {
        for session in &mut sessions {
            exchange(session, when.as_bytes()).unwrap_or_else(|error| panic!("{when}: {error:#}"));
        }
        for client in [lab.office_pc(), lab.worker_1()] {
            client.tcp_echo(node, when.as_bytes()).unwrap();
            client.ping(NODE_30).unwrap();
        }
    };
    all_work("before");
    let mut bridge = lab.start_bridge(&[]).unwrap();
    all_work("while it runs");
    bridge.kill().unwrap();
    all_work("after it was killed");
    bridge.uninstall().unwrap();
    all_work("after it was uninstalled");
}

#[test]
fn services_still_work_for_everybody_else_on_the_node() {
    // Pods and the node itself go through kube-proxy's rules as ever.
    let lab = open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let service = ECHO_SERVICE;
    for host in [
        lab.node_30(),
        lab.worker_1(),
        lab.pod("echo-0"),
        lab.pod("echo-2"),
    ] {
        for _ in 0..5 {
            host.tcp_echo(service, b"through kube-proxy").unwrap();
            host.udp_echo(service, b"through kube-proxy").unwrap();
        }
    }
}

#[test]
fn connections_that_unmasqueraded_pods_open_to_the_office_are_left_alone() {
    let options = LabOptions {
        masquerade: false,
        ..LabOptions::default()
    };
    let lab = options.open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let tcp = SocketAddrV4::new(pc.address(), pc.serve_tcp(0, serve::echo()).unwrap());
    let udp = SocketAddrV4::new(pc.address(), pc.serve_udp_echo(0).unwrap());
    // Their own address is what the office answers to, and the router sends that through node-30.
    let pod = lab.pod("echo-0");
    pod.tcp_echo(tcp, b"from a pod").unwrap();
    pod.udp_echo(udp, b"from a pod").unwrap();
    pod.ping(pc.address()).unwrap();
    let callers = pc.peers(Protocol::Tcp, tcp.port());
    assert_eq!(
        callers.iter().map(SocketAddrV4::ip).collect::<Vec<_>>(),
        [&pod.address()]
    );
}

#[test]
fn connections_that_masqueraded_pods_have_to_the_office_survive_the_start() {
    let lab = LabOptions {
        masquerade: true,
        firewall: Firewall::Open,
        ..LabOptions::default()
    }
    .open();
    let at = lab.office_pc().serve_tcp(9000, serve::echo()).unwrap();
    let office = SocketAddrV4::new(OFFICE_PC, at);
    let mut sessions = ["echo-0", "echo-1"].map(|pod| lab.pod(pod).tcp(office).unwrap());
    for session in &mut sessions {
        exchange(session, b"before").unwrap();
    }
    let bridge = lab.start_bridge(&[]).unwrap();
    for session in &mut sessions {
        exchange(session, b"after").unwrap();
    }
    assert_eq!(bridge.status().unwrap()["drops"]["no-flow"], 0);
}

#[test]
fn a_node_port_to_a_pod_of_the_node_keeps_the_clients_address() {
    let lab = open();
    let to = format!("{}:{}", lab.pod("echo-0").address(), port::ECHO);
    let rule = format!(
        "iptables -t nat -I PREROUTING -d {NODE_30} -p tcp --dport 30080 -j DNAT --to-destination {to}"
    );
    lab.node_30().run_line(&rule).unwrap();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let node_port = SocketAddrV4::new(NODE_30, 30_080);
    let mut session = lab.office_pc().tcp(node_port).unwrap();
    exchange(&mut session, b"by the node's own address").unwrap();
    let peers = lab.pod("echo-0").peers(Protocol::Tcp, port::ECHO);
    assert!(
        peers.iter().any(|peer| *peer.ip() == OFFICE_PC),
        "{peers:?}"
    );
}

/// A frame with a name for the test's messages.
struct Case {
    what: &'static str,
    frame: Vec<u8>,
}

/// Frames on their way from the router to node-30, marked so that they are told from others.
struct Way {
    sender: Sender,
    node: [u8; 6],
    router: [u8; 6],
}

impl Way {
    fn new(lab: &Lab) -> Self {
        Self {
            sender: Sender::new(lab.office_router(), "lan0").unwrap(),
            node: frames::mac(lab.node_30(), "eth0").unwrap(),
            router: frames::mac(lab.office_router(), "lan0").unwrap(),
        }
    }

    fn frame(&self, ether_type: u16, payload: &[u8]) -> Vec<u8> {
        ethernet(self.node, self.router, ether_type, payload)
    }

    fn case(&self, what: &'static str, packet: &[u8]) -> Case {
        Case {
            what,
            frame: self.frame(IPV4, packet),
        }
    }
}

fn open() -> Lab {
    LabOptions {
        firewall: Firewall::Open,
        ..LabOptions::default()
    }
    .open()
}

/// Sends the frames, and returns those that node-30's network layer got, in the same order.
fn arrived(lab: &Lab, way: &Way, cases: &[Case]) -> Vec<Option<Vec<u8>>> {
    // Kernel constants with the octets swapped, as socket(2) takes them; only these two have names.
    let receivers = [SockProtocol::EthIp, SockProtocol::EthIpv6]
        .map(|protocol| Receiver::new(lab.node_30(), protocol).unwrap());
    for case in cases {
        way.sender.send(&case.frame).unwrap();
    }
    let all: Vec<Vec<u8>> = receivers
        .iter()
        .flat_map(|receiver| receiver.drain(Duration::from_millis(300)))
        .collect();
    cases
        .iter()
        .map(|case| all.iter().find(|frame| **frame == case.frame).cloned())
        .collect()
}

/// ICMP type 13 (RFC 792): no echo, no error, nothing to translate.
fn timestamp_request() -> [u8; 20] {
    let mut message = [0; 20];
    message[0] = 13;
    let sum = frames::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Compares what left one host with what reached another. Routers may count the TTL down, and packets
/// of different protocols may overtake each other.
fn same_packets(left: &[Packet], reached: &[Packet]) {
    let normalize = |packets: &[Packet]| {
        let mut packets: Vec<Vec<u8>> = packets
            .iter()
            .map(|packet| {
                let mut packet = packet.frame[14..].to_vec();
                packet[8] = 0;
                packet[10..12].fill(0);
                packet
            })
            .collect();
        packets.sort();
        packets
    };
    assert!(!left.is_empty(), "nothing was sent");
    assert!(
        normalize(left) == normalize(reached),
        "{left:?} became {reached:?}"
    );
}
