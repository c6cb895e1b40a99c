//! XDP follows the next hops of the kernel: neighbours, routes and FDB change as flannel and ARP change them, the other
//! end moves, and a flow goes on within a second.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use lab::capture::Packet;
use lab::carried::Carried;
use lab::frames;
use lab::host::datagram;
use lab::plan::{NODE_30, ROUTER_LAN, VXLAN_VNI, WORKER_1, port};
use lab::{Bridge, Datapath, Host, Lab, LabOptions, Overlay, Variant, eventually, stream};

/// How long a flow may be interrupted.
const INTERRUPTION: Duration = Duration::from_secs(1);
/// How long XDP uses next hops that no process has compared with the kernel's (`fast_path.valid_until`).
const VALIDITY: Duration = Duration::from_secs(30);
/// How long it may take until all neighbours are known.
const GETS_READY: Duration = Duration::from_secs(5);
/// The kernel ignores a changed address of a neighbour within a second of the last change (`locktime` in arp(7)).
const LOCKTIME: Duration = Duration::from_millis(1100);
/// Where worker-1 moves to.
const NEW_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 60, 20, 131);
const NEW_MAC: &str = "02:0a:0b:0c:0d:0e";
const NEW_MAC_OCTETS: [u8; 6] = [0x02, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e];

#[test]
fn a_tunnel_end_that_moves_is_followed() {
    let lab = open(Overlay::Vxlan);
    let sent = format!("udp port 8472 and src host {NODE_30}");
    let packets = goes_on(&lab, (lab.worker_1(), "eth0", &sent), || {
        move_tunnel_end(&lab);
    });
    for packet in packets {
        assert_eq!(packet.ipv4().unwrap().destination, NEW_ADDRESS);
    }
}

#[test]
fn a_next_hop_that_moves_is_followed() {
    let lab = open(Overlay::HostGw);
    let node = lab.node_30();
    let to_pod = "dst net 10.244.1.0/24";
    goes_on(&lab, (lab.worker_1(), "eth0", to_pod), || {
        move_worker(&lab);
        let route = format!("route replace 10.244.1.0/24 via {NEW_ADDRESS} dev eth0");
        ip(node, &route);
    });
}

#[test]
fn a_tunnel_end_with_another_mac_is_followed() {
    let lab = open(Overlay::Vxlan);
    let worker = &lab.cluster().nodes[1];
    let (old, network) = (worker.vtep_mac(), worker.network());
    let sent = format!("udp port 8472 and src host {NODE_30}");
    let packets = goes_on(&lab, (lab.worker_1(), "eth0", &sent), || {
        let change = format!("link set dev flannel.1 address {NEW_MAC}");
        ip(lab.worker_1(), &change);
        // The kernel forgets a device's neighbours with its address.
        let peer = &lab.cluster().nodes[0];
        let neighbour = format!("{} lladdr {}", peer.network(), peer.vtep_mac());
        let entry = format!("neigh replace {neighbour} dev flannel.1 nud permanent");
        ip(lab.worker_1(), &entry);
        let node = lab.node_30();
        let entry = format!("add {NEW_MAC} dev flannel.1 dst {WORKER_1} self permanent");
        fdb(node, &entry);
        let neighbour = format!("{network} lladdr {NEW_MAC} dev flannel.1 nud permanent");
        ip(node, &format!("neigh replace {neighbour}"));
        fdb(
            node,
            &format!("del {old} dev flannel.1 dst {WORKER_1} self"),
        );
    });
    for packet in packets {
        assert_eq!(packet.inside_vxlan().unwrap().frame[..6], NEW_MAC_OCTETS);
    }
}

#[test]
fn a_worker_with_another_mac_is_followed() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let filter = format!("({}) and ether dst {NEW_MAC}", overlay.capture_filter());
        goes_on(&lab, (lab.worker_1(), "eth0", &filter), || {
            change_mac(lab.worker_1(), "eth0");
        });
    }
}

#[test]
fn a_router_with_another_mac_gets_the_replies() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let filter = format!("udp src port {} and ether dst {NEW_MAC}", port::ECHO);
        goes_on(&lab, (lab.office_router(), "lan0", &filter), || {
            change_mac(lab.office_router(), "lan0");
        });
    }
}

#[test]
fn a_card_of_the_node_with_another_mac_goes_on() {
    for overlay in Overlay::ALL {
        let lab = open(overlay);
        let filter = format!("({}) and ether src {NEW_MAC}", overlay.capture_filter());
        goes_on(&lab, (lab.worker_1(), "eth0", &filter), || {
            change_mac(lab.node_30(), "eth0");
        });
        let mac = frames::mac(lab.node_30(), "eth0").unwrap();
        assert_eq!(mac, NEW_MAC_OCTETS);
    }
}

#[test]
fn tc_carries_a_flow_whose_neighbour_is_gone_until_xdp_knows_it_again() {
    for overlay in Overlay::ALL {
        for gone in [WORKER_1, ROUTER_LAN] {
            let lab = open(overlay);
            let bridge = lab.start_bridge(&[]).unwrap();
            await_xdp(&lab, &bridge);
            let before = Carried::of(bridge.client());
            let stream = stream::during(lab.office_pc(), target(&lab), || {
                ip(lab.node_30(), &format!("neigh del {gone} dev eth0"));
            })
            .unwrap();
            let grown = Carried::of(bridge.client()).since(before);
            println!("{gone} on {overlay}: {stream:?}, {grown:?}");
            assert_eq!(stream.answered, stream.sent, "{stream:?}");
            let by_tc = if gone == WORKER_1 {
                grown.tc_to_backend
            } else {
                grown.tc_to_client
            };
            assert!(by_tc >= 1, "{grown:?}");
            assert!(grown.xdp() >= 20, "{grown:?}");
            await_xdp(&lab, &bridge);
        }
    }
}

#[test]
fn without_a_process_a_tunnel_end_that_has_moved_is_found_by_tc_within_half_a_minute() {
    let lab = open(Overlay::Vxlan);
    is_back_without_a_process(&lab, || move_tunnel_end(&lab));
}

#[test]
fn without_a_process_a_worker_with_another_mac_is_found_by_tc_within_half_a_minute() {
    let lab = open(Overlay::HostGw);
    is_back_without_a_process(&lab, || change_mac(lab.worker_1(), "eth0"));
}

fn open(overlay: Overlay) -> Lab {
    LabOptions {
        local_pod: false,
        ..LabOptions::of(Variant {
            datapath: Datapath::Xdp,
            overlay,
        })
    }
    .open()
}

fn target(lab: &Lab) -> SocketAddrV4 {
    lab.at("echo-1", port::ECHO)
}

fn await_xdp(lab: &Lab, bridge: &Bridge) {
    eventually(GETS_READY, "a datagram by XDP both ways", || {
        let before = Carried::of(bridge.client());
        lab.office_pc().udp_echo(target(lab), b"XDP?").unwrap();
        let grown = Carried::of(bridge.client()).since(before);
        grown.xdp() >= 1 && grown.tc() == 0
    });
}

fn ip(host: &Host, arguments: &str) {
    host.run_line(&format!("ip {arguments}")).unwrap();
}

fn fdb(host: &Host, arguments: &str) {
    host.run_line(&format!("bridge fdb {arguments}")).unwrap();
}

/// Changes the network in the middle of a flow that XDP carries, asserts that the flow goes on within a second and by
/// XDP, and returns what `filter` has let through at `interface` of `observer` after that.
#[track_caller]
fn goes_on(
    lab: &Lab,
    (observer, interface, filter): (&Host, &str, &str),
    change: impl FnOnce(),
) -> Vec<Packet> {
    let bridge = lab.start_bridge(&[]).unwrap();
    await_xdp(lab, &bridge);
    thread::sleep(LOCKTIME);
    let before = Carried::of(bridge.client());
    let stream = stream::during(lab.office_pc(), target(lab), || {
        change();
        thread::sleep(INTERRUPTION);
    })
    .unwrap();
    let grown = Carried::of(bridge.client()).since(before);
    println!("{}: {stream:?}, {grown:?}", lab.options().overlay);
    assert!(stream.silence < INTERRUPTION, "{stream:?}");
    // Half a second of them came after the change for certain.
    assert!(grown.xdp() >= 50, "{grown:?}");

    await_xdp(lab, &bridge);
    let capture = observer.capture(interface, filter).unwrap();
    lab.office_pc()
        .udp_echo(target(lab), b"afterwards")
        .unwrap();
    let packets = capture.stop().unwrap();
    assert!(!packets.is_empty(), "nothing of {filter} at {interface}");
    packets
}

/// Has a host announce a changed hardware address (`arp_notify` in the kernel's ip-sysctl.rst), and changes it.
fn change_mac(host: &Host, interface: &str) {
    let setting = format!("net/ipv4/conf/{interface}/arp_notify");
    host.namespace().sysctl(&[(&setting, "1")]).unwrap();
    ip(host, &format!("link set dev {interface} address {NEW_MAC}"));
}

/// Gives worker-1 another hardware address and another address, without an announcement: packets to the old ones are
/// lost.
fn move_worker(lab: &Lab) {
    let worker = lab.worker_1();
    let keep_others = ("net/ipv4/conf/eth0/promote_secondaries", "1");
    worker.namespace().sysctl(&[keep_others]).unwrap();
    ip(worker, &format!("link set dev eth0 address {NEW_MAC}"));
    ip(worker, &format!("addr add {NEW_ADDRESS}/24 dev eth0"));
    ip(worker, &format!("addr del {WORKER_1}/24 dev eth0"));
}

/// Moves worker-1 with its end of the tunnel, and tells node-30 as flannel does.
fn move_tunnel_end(lab: &Lab) {
    move_worker(lab);
    let device = format!("type vxlan id {VXLAN_VNI} dev eth0 local {NEW_ADDRESS}");
    ip(lab.worker_1(), &format!("link set dev flannel.1 {device}"));
    let mac = lab.cluster().nodes[1].vtep_mac();
    let entry = format!("replace {mac} dev flannel.1 dst {NEW_ADDRESS} self permanent");
    fdb(lab.node_30(), &entry);
}

/// Kills the bridge, whose programs stay, changes the network, and asserts that the flow is back as soon as XDP no longer
/// believes what it knows: by TC, until there is a bridge again.
fn is_back_without_a_process(lab: &Lab, change: impl FnOnce()) {
    const DATAGRAMS: u64 = 10;
    let mut bridge = lab.start_bridge(&[]).unwrap();
    await_xdp(lab, &bridge);
    let socket = lab.office_pc().udp_from(0, target(lab)).unwrap();
    socket.set_read_timeout(Some(INTERRUPTION)).unwrap();
    datagram(&socket, b"before").unwrap();
    thread::sleep(LOCKTIME);
    bridge.kill().unwrap();
    let killed = Instant::now();
    change();
    let before = Carried::of(bridge.client());
    datagram(&socket, b"by the old way").unwrap_err();
    let grown = Carried::of(bridge.client()).since(before);
    assert_eq!((grown.xdp_to_backend, grown.tc()), (1, 0), "{grown:?}");

    let limit = VALIDITY + Duration::from_secs(3);
    eventually(limit, "an answer", || datagram(&socket, b"?").is_ok());
    println!(
        "{}: back after {:?}",
        lab.options().overlay,
        killed.elapsed()
    );
    assert!(killed.elapsed() < limit, "{:?}", killed.elapsed());
    let before = Carried::of(bridge.client());
    for _ in 0..DATAGRAMS {
        datagram(&socket, b"without a process").unwrap();
        lab.office_pc().udp_echo(target(lab), b"new").unwrap();
    }
    let expected = Carried {
        xdp_to_backend: 0,
        xdp_to_client: 0,
        tc_to_backend: 2 * DATAGRAMS,
        tc_to_client: 2 * DATAGRAMS,
        opened: DATAGRAMS,
    };
    assert_eq!(Carried::of(bridge.client()).since(before), expected);

    bridge.leave_installed();
    bridge = lab.start_bridge(&[]).unwrap();
    await_xdp(lab, &bridge);
    datagram(&socket, b"with a process").unwrap();
}
