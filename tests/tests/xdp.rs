//! The XDP path in both directions, and what it leaves to TC, packet by packet within the same flow.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use lab::carried::Carried;
use lab::frames::{self, Sender, ethernet, fix_checksum, ipv4, udp};
use lab::host::{datagram, exchange};
use lab::plan::{ECHO_SERVICE, LAN_MTU, NODE_30, OFFICE_GATEWAY, OFFICE_PC, VXLAN_MTU, port};
use lab::{Bridge, Datapath, Lab, LabOptions, Overlay, Variant, eventually, serve, stream};

/// How long it may take until all neighbours are known.
const GETS_READY: Duration = Duration::from_secs(5);
/// What ARP and the like may leave to TC.
const HANDFUL: u64 = 6;

#[test]
fn tcp_udp_and_pings_go_both_ways_over_vxlan() {
    both_directions(options(Overlay::Vxlan));
}

#[test]
fn tcp_udp_and_pings_go_both_ways_over_host_gw() {
    both_directions(options(Overlay::HostGw));
}

#[test]
fn tcp_udp_and_pings_go_from_card_to_card_over_vxlan() {
    both_directions(LabOptions {
        second_nic: true,
        ..options(Overlay::Vxlan)
    });
}

#[test]
fn tcp_udp_and_pings_go_from_card_to_card_over_host_gw() {
    both_directions(LabOptions {
        second_nic: true,
        ..options(Overlay::HostGw)
    });
}

#[test]
fn xdp_opens_a_flow_with_its_first_packet() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let bridge = start(&lab);
        for target in [lab.at("echo-1", port::ECHO), ECHO_SERVICE] {
            let before = Carried::of(bridge.client());
            lab.office_pc().udp_echo(target, b"the first").unwrap();
            let expected = Carried {
                xdp_to_backend: 1,
                xdp_to_client: 1,
                tc_to_backend: 0,
                tc_to_client: 0,
                opened: 1,
            };
            assert_eq!(
                Carried::of(bridge.client()).since(before),
                expected,
                "{target}, {overlay}"
            );
        }
    }
}

#[test]
fn fragments_go_by_tc_and_the_rest_of_their_flow_by_xdp() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let bridge = start(&lab);
        for target in [lab.at("echo-1", port::ECHO), ECHO_SERVICE] {
            let flow = Flow::open(&lab, &bridge, target);
            let before = Carried::of(bridge.client());
            // On VXLAN the first one may only teach the client the path's MTU.
            let large = [7; 4000];
            let _ = datagram(&flow.socket, &large);
            datagram(&flow.socket, &large).unwrap();
            let grown = Carried::of(bridge.client()).since(before);
            assert!(
                grown.tc_to_backend >= 3 && grown.tc_to_client >= 3,
                "{grown:?}"
            );
            assert_eq!(grown.opened, 0, "{grown:?}");
            flow.goes_by_xdp("after fragments");
        }
    }
}

#[test]
fn a_packet_with_options_goes_by_tc_and_the_rest_of_its_flow_by_xdp() {
    /// No-operation (RFC 791 section 3.1).
    const OPTIONS: [u8; 4] = [1; 4];
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let bridge = start(&lab);
        let pod = lab.at("echo-1", port::ECHO);
        let flow = Flow::open(&lab, &bridge, pod);

        let payload = b"with options";
        let mut packet = ipv4(
            OFFICE_PC,
            *pod.ip(),
            17,
            &udp(flow.port(), pod.port(), payload),
        );
        packet.splice(20..20, OPTIONS);
        packet[0] = 0x46;
        let length = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        fix_checksum(&mut packet);
        let router = lab.office_router();
        let frame = ethernet(
            frames::mac(lab.node_30(), "eth0").unwrap(),
            frames::mac(router, "lan0").unwrap(),
            0x0800,
            &packet,
        );
        let before = Carried::of(bridge.client());
        Sender::new(router, "lan0").unwrap().send(&frame).unwrap();
        let mut answer = [0; 64];
        let length = flow.socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..length], payload[..], "{overlay}");
        let grown = Carried::of(bridge.client()).since(before);
        assert_eq!(
            (grown.tc_to_backend, grown.xdp_to_backend),
            (1, 0),
            "{grown:?}"
        );
        assert_eq!(
            (grown.tc_to_client, grown.xdp_to_client),
            (0, 1),
            "{grown:?}"
        );
        flow.goes_by_xdp("after options");
    }
}

#[test]
fn a_packet_that_may_not_live_longer_is_answered_and_the_rest_of_its_flow_goes_by_xdp() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let bridge = start(&lab);
        for target in [lab.at("echo-1", port::ECHO), ECHO_SERVICE] {
            let flow = Flow::open(&lab, &bridge, target);
            let errors = lab
                .office_pc()
                .capture("eth0", "icmp[icmptype] == icmp-timxceed")
                .unwrap();
            // The router takes one; node-30 would take the last.
            flow.socket.set_ttl(2).unwrap();
            assert!(datagram(&flow.socket, b"too far").is_err());
            let errors = errors.stop().unwrap();
            let senders: Vec<_> = errors
                .iter()
                .map(|error| error.ipv4().unwrap().source)
                .collect();
            assert_eq!(senders, [NODE_30], "{target}, {overlay}: {errors:?}");
            flow.socket.set_ttl(64).unwrap();
            flow.goes_by_xdp("after a short life");
        }
    }
}

#[test]
fn errors_of_workers_and_pods_come_back_by_tc_and_the_flow_goes_on_by_xdp() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let bridge = start(&lab);
        let pc = lab.office_pc();
        let pod = lab.at("echo-1", port::ECHO);
        let flow = Flow::open(&lab, &bridge, pod);
        let worker = lab.hop_address("worker-1");

        let errors = pc.capture("eth0", "icmp[icmptype] == 11").unwrap();
        flow.socket.set_ttl(3).unwrap();
        let before = Carried::of(bridge.client());
        assert!(datagram(&flow.socket, b"as far as the worker").is_err());
        let grown = Carried::of(bridge.client()).since(before);
        assert_eq!(
            (grown.xdp_to_backend, grown.tc_to_client),
            (1, 1),
            "{grown:?}"
        );
        assert_eq!(
            quoted(&errors.stop().unwrap()),
            [(worker, pod)],
            "{overlay}"
        );
        flow.socket.set_ttl(64).unwrap();
        flow.goes_by_xdp("after the worker's error");

        let nobody = SocketAddrV4::new(*pod.ip(), 9);
        let before = Carried::of(bridge.client());
        let socket = pc.udp_from(0, nobody).unwrap();
        let error = datagram(&socket, b"is anybody there?").unwrap_err();
        let cause = error.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
        let grown = Carried::of(bridge.client()).since(before);
        assert_eq!(
            (grown.xdp_to_backend, grown.tc_to_client),
            (1, 1),
            "{grown:?}"
        );

        let hops = pc.traceroute(*pod.ip(), &["-U", "-p", "33434"]).unwrap();
        let expected = [OFFICE_GATEWAY, NODE_30, worker, *pod.ip()].map(Some);
        assert_eq!(hops, expected, "{overlay}");
        flow.goes_by_xdp("after a traceroute");
    }
}

#[test]
fn a_packet_too_large_for_the_tunnel_is_answered_and_the_rest_of_its_flow_goes_by_xdp() {
    let lab = open(Overlay::Vxlan);
    let bridge = start(&lab);
    let pc = lab.office_pc();
    let pod = lab.at("echo-1", port::ECHO);
    let flow = Flow::open(&lab, &bridge, pod);
    let fits = vec![5; VXLAN_MTU as usize - 28];
    by_xdp(&bridge, "what just fits", 1, || {
        datagram(&flow.socket, &fits).unwrap();
    });

    let errors = pc
        .capture("eth0", "icmp[icmptype] == icmp-unreach")
        .unwrap();
    // Linux sets DF until it knows better.
    let large = vec![6; LAN_MTU as usize - 28];
    assert!(datagram(&flow.socket, &large).is_err());
    assert_eq!(quoted(&errors.stop().unwrap()), [(NODE_30, pod)]);
    let route = pc
        .run("ip", &["route", "get", &pod.ip().to_string()])
        .unwrap();
    assert!(route.contains(&format!("mtu {VXLAN_MTU}")), "{route}");
    flow.goes_by_xdp("after one that was too large");
}

#[test]
fn a_packet_that_fills_the_lan_goes_by_xdp_over_host_gw() {
    let lab = open(Overlay::HostGw);
    let bridge = start(&lab);
    let flow = Flow::open(&lab, &bridge, lab.at("echo-1", port::ECHO));
    by_xdp(&bridge, "what just fits", 1, || {
        datagram(&flow.socket, &vec![5; LAN_MTU as usize - 28]).unwrap();
    });
}

#[test]
fn other_traffic_of_the_tunnel_and_the_node_is_none_of_xdps() {
    for overlay in Overlay::ALL {
        let lab = options(overlay).open();
        let bridge = start(&lab);
        let mut office = lab.office_pc().tcp(lab.at("echo-1", port::ECHO)).unwrap();
        exchange(&mut office, b"before").unwrap();
        let node = lab.node_30();
        let shell = node.serve_tcp(0, serve::echo()).unwrap();
        let before = Carried::of(bridge.client());

        for (client, server) in [
            ("echo-0", "echo-1"),
            ("echo-1", "echo-0"),
            ("echo-2", "echo-0"),
        ] {
            let (client, target) = (lab.pod(client), lab.at(server, port::ECHO));
            client.ping(*target.ip()).unwrap();
            client.tcp_echo(target, b"from pod to pod").unwrap();
            client.udp_echo(target, b"from pod to pod").unwrap();
            let bulk = lab.at(server, port::BULK);
            client.bulk(bulk, 1 << 20, 1 << 20).unwrap();
        }
        // The node to pods: the address that office traffic is translated to is its own there.
        node.tcp_echo(lab.at("echo-1", port::ECHO), b"from the node")
            .unwrap();
        node.ping(lab.pod("echo-2").address()).unwrap();
        let to_node = SocketAddrV4::new(NODE_30, shell);
        lab.office_pc().tcp_echo(to_node, b"a shell").unwrap();
        lab.worker_1().tcp_echo(to_node, b"a shell").unwrap();

        assert_eq!(Carried::of(bridge.client()), before, "{overlay}");
        by_xdp(&bridge, "the office's own session", 1, || {
            exchange(&mut office, b"after").unwrap();
        });
    }
}

#[test]
fn xdp_goes_on_without_the_process_and_a_restart_loses_nothing() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let mut bridge = start(&lab);
        let target = lab.at("echo-1", port::ECHO);
        let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
        exchange(&mut session, b"before").unwrap();
        let first = epoch(&bridge);
        let before = Carried::of(bridge.client());
        let stream = stream::during(lab.office_pc(), target, || {
            bridge.kill().unwrap();
            by_xdp(&bridge, "without a process", 1, || {
                exchange(&mut session, b"without a process").unwrap();
                lab.office_pc().udp_echo(ECHO_SERVICE, b"new").unwrap();
            });
            bridge.leave_installed();
            bridge = lab.start_bridge(&[]).unwrap();
        })
        .unwrap();
        let grown = Carried::of(bridge.client()).since(before);
        println!("{overlay}: {stream:?}, {grown:?}");
        assert_eq!(stream.answered, stream.sent, "{overlay}: {stream:?}");
        assert!(grown.xdp() >= stream.sent as u64, "{overlay}: {grown:?}");
        assert!(grown.tc() <= HANDFUL, "{overlay}: {grown:?}");
        assert_eq!(epoch(&bridge), first, "{overlay}");
        exchange(&mut session, b"after").unwrap();
    }
}

#[test]
fn uninstall_in_the_middle_of_a_flow_leaves_a_node_that_is_reachable() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let mut bridge = start(&lab);
        let node = lab.node_30();
        let shell = node.serve_tcp(0, serve::echo()).unwrap();
        let to_node = SocketAddrV4::new(NODE_30, shell);
        let mut before = lab.office_pc().tcp(to_node).unwrap();
        let target = lab.at("echo-1", port::ECHO);
        let stream = stream::during(lab.office_pc(), target, || {
            bridge.uninstall().unwrap();
        })
        .unwrap();
        bridge.leave_installed();

        assert!(stream.answered > 0, "{stream:?}");
        assert!(
            stream.silence >= Duration::from_millis(400),
            "somebody else forwards: {stream:?}"
        );
        let link = node.run("ip", &["-d", "link", "show"]).unwrap();
        assert!(!link.contains("xdp"), "{link}");
        assert!(!lab.pin_path().exists());
        exchange(&mut before, b"still here").unwrap();
        lab.office_pc().tcp_echo(to_node, b"a new one").unwrap();
        lab.worker_1().tcp_echo(to_node, b"a new one").unwrap();
        assert!(lab.office_pc().is_cut_off_from(target), "{overlay}");
    }
}

const fn options(overlay: Overlay) -> LabOptions {
    LabOptions::of(Variant {
        datapath: Datapath::Xdp,
        overlay,
    })
}

/// A lab whose pods are all on workers: XDP leaves node-30's own to TC.
fn open(overlay: Overlay) -> Lab {
    LabOptions {
        local_pod: false,
        ..options(overlay)
    }
    .open()
}

/// Starts a bridge, and waits until XDP carries pings to the pods on both workers.
fn start(lab: &Lab) -> Bridge {
    let bridge = lab.start_bridge(&[]).unwrap();
    await_xdp(lab, &bridge);
    bridge
}

fn await_xdp(lab: &Lab, bridge: &Bridge) {
    for pod in ["echo-1", "echo-2"] {
        eventually(GETS_READY, &format!("{pod} by XDP"), || {
            let before = Carried::of(bridge.client());
            lab.office_pc().ping(lab.pod(pod).address()).unwrap();
            let grown = Carried::of(bridge.client()).since(before);
            grown.xdp() >= 1 && grown.tc() == 0
        });
    }
}

/// Runs `work`, and asserts that XDP has carried at least `packets` in each direction, and TC next to none.
#[track_caller]
fn by_xdp(bridge: &Bridge, what: &str, packets: u64, work: impl FnOnce()) {
    let before = Carried::of(bridge.client());
    work();
    let grown = Carried::of(bridge.client()).since(before);
    assert!(grown.xdp() >= packets, "{what}: {grown:?}");
    assert!(grown.tc() <= HANDFUL, "{what}: {grown:?}");
}

fn both_directions(options: LabOptions) {
    const PACKETS: u64 = 100;
    let lab = LabOptions {
        local_pod: false,
        ..options
    }
    .open();
    let bridge = start(&lab);
    let pc = lab.office_pc();
    for target in [
        lab.at("echo-1", port::ECHO),
        lab.at("echo-2", port::ECHO),
        ECHO_SERVICE,
    ] {
        by_xdp(&bridge, &format!("TCP to {target}"), PACKETS, || {
            let mut session = pc.tcp(target).unwrap();
            for round in 0..PACKETS {
                exchange(&mut session, format!("segment {round}").as_bytes()).unwrap();
            }
        });
        by_xdp(&bridge, &format!("UDP to {target}"), PACKETS, || {
            let socket = pc.udp_from(0, target).unwrap();
            for round in 0..PACKETS {
                datagram(&socket, format!("datagram {round}").as_bytes()).unwrap();
            }
        });
    }
    by_xdp(&bridge, "pings", PACKETS, || {
        let count = PACKETS.to_string();
        let arguments = ["-c", &count, "-i", "0.002", "-W", "2"];
        let ping = pc
            .ping_with(lab.pod("echo-1").address(), &arguments)
            .unwrap();
        assert!(ping.complete(), "{}", ping.text);
    });
}

/// A flow of UDP that XDP carries.
struct Flow<'a> {
    bridge: &'a Bridge,
    socket: UdpSocket,
}

impl<'a> Flow<'a> {
    fn open(lab: &Lab, bridge: &'a Bridge, target: SocketAddrV4) -> Self {
        let socket = lab.office_pc().udp_from(0, target).unwrap();
        let limit = Duration::from_secs(1);
        socket.set_read_timeout(Some(limit)).unwrap();
        let this = Self { bridge, socket };
        this.goes_by_xdp("at first");
        this
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    #[track_caller]
    fn goes_by_xdp(&self, when: &str) {
        const DATAGRAMS: u64 = 10;
        let before = Carried::of(self.bridge.client());
        for _ in 0..DATAGRAMS {
            datagram(&self.socket, when.as_bytes()).unwrap();
        }
        let grown = Carried::of(self.bridge.client()).since(before);
        assert!(grown.xdp() >= DATAGRAMS, "{when}: {grown:?}");
        assert!(grown.tc() <= HANDFUL, "{when}: {grown:?}");
        assert!(grown.opened <= 1, "{when}: {grown:?}");
    }
}

/// The packets that these ICMP errors quote, by who wrote the errors (RFC 792: the quoted header and eight octets).
fn quoted(errors: &[lab::capture::Packet]) -> Vec<(Ipv4Addr, SocketAddrV4)> {
    errors
        .iter()
        .map(|error| {
            let error = error.ipv4().unwrap();
            let quote = &error.payload;
            let address = Ipv4Addr::new(quote[16], quote[17], quote[18], quote[19]);
            let port = u16::from_be_bytes([quote[22], quote[23]]);
            (error.source, SocketAddrV4::new(address, port))
        })
        .collect()
}

/// The epoch of the next hops that flows remember.
fn epoch(bridge: &Bridge) -> u64 {
    let entries = bridge.client().entries("fast_path").unwrap();
    let epoch = entries[0].1["epoch"].as_u64();
    epoch.unwrap_or_else(|| panic!("no epoch in {entries:?}"))
}
