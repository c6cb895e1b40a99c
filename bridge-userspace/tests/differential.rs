//! The program in the kernel against the same engine on the host: packet by packet the same verdict and the same
//! bytes. Needs root, and BPF; where either is missing the test fails, as it would hide a difference.

mod pinned;

use std::collections::{BTreeMap, VecDeque};

use aya::maps::lpm_trie::Key;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use bridge_common::abi::{
    Backend, BackendKey, ClusterCidr, DestinationKind, FastPath, NextHop, OfficeCidr, Route,
    Service, ServiceKey, Settings, Tunnel, Vtep, XdpPort, name,
};
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::path::local;
use bridge_common::path::stack;
use bridge_common::path::tc::{Side, run};
use bridge_common::path::xdp::{self, Step};
use bridge_common::sim::{SimFrame, SimPacket, SimTables};
use bridge_common::verdict::Verdict;
use bridge_userspace::datapath::{Buffers, Datapath};
use bridge_userspace::kernel::clock;
use bridge_userspace::maps::Tables;
use bridge_userspace::model::program::Program::{
    self, ClusterEgress, ClusterIngress, UplinkEgress, UplinkIngress, XdpFast,
};
use bridge_userspace::plan::map_state::{MapState, ServiceEntry};
use bridge_userspace::plan::next_hops::{Hop, NextHops};
use bridge_userspace::reconcile::Reconciler;
use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, unshare};

use self::pinned::Pinned;

const CLIENT: [u8; 4] = [192, 168, 0, 10];
const POD: [u8; 4] = [10, 244, 1, 5];
const VIP: [u8; 4] = [10, 96, 20, 16];
const NAT: [u8; 4] = [10, 244, 30, 0];
const UPLINK: [u8; 4] = [10, 60, 20, 30];
/// An address of this node itself.
const LOCAL: [u8; 4] = [10, 244, 30, 1];
const STRANGER: [u8; 4] = [172, 16, 0, 1];
/// To the address of the loopback device, on which the kernel runs it, so that it is for this host.
const ETHERNET: [u8; 14] = [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 8, 0];

/// `TC_ACT_UNSPEC`, `TC_ACT_SHOT`, `TC_ACT_REDIRECT` (`linux/pkt_cls.h`).
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// `enum xdp_action` (linux/bpf.h).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

const EVERYWHERE: [Program; 4] = [UplinkIngress, ClusterIngress, ClusterEgress, UplinkEgress];

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn map_state() -> MapState {
    let route = |ifindex, source, mtu, flags| Route {
        ifindex,
        source,
        mtu,
        flags,
        next_hop: 0,
        gateway: [0; 4],
    };
    let mut ports = SimTables::default();
    // All that the test's clients use is allowed, so that the choice is no matter of chance.
    ports.set_nat_ports(|port| port < 1_024);
    let backend = Backend {
        address: POD,
        port: 8_080,
        pad: [0; 2],
    };
    let local = Backend {
        address: LOCAL,
        port: 6_443,
        pad: [0; 2],
    };
    let port = |backends, affinity_seconds| ServiceEntry::Port {
        backends,
        affinity_seconds,
    };
    let service = |port, protocol| ServiceKey {
        vip: VIP,
        port,
        protocol,
        pad: 0,
    };
    MapState {
        next_hops: NextHops::default(),
        office: BTreeMap::from([(net("192.168.0.0/22"), OfficeCidr { index: 0 })]),
        cluster: BTreeMap::from([
            (net("10.244.0.0/16"), ClusterCidr::new(DestinationKind::Pod)),
            (
                net("10.96.0.0/12"),
                ClusterCidr::new(DestinationKind::Service),
            ),
            (
                net("10.244.30.0/32"),
                ClusterCidr::new(DestinationKind::Nat),
            ),
        ]),
        routes: BTreeMap::from([
            (net("10.244.1.0/24"), route(1, NAT, 1_450, Route::TUNNEL)),
            (net("10.244.30.0/24"), route(1, NAT, 1_450, 0)),
            (
                net("10.244.0.0/16"),
                route(0, [0; 4], 0, Route::UNREACHABLE),
            ),
            (net("10.244.30.1/32"), route(0, [0; 4], 0, Route::LOCAL)),
            (net("192.168.0.0/22"), route(1, UPLINK, 1_500, 0)),
        ]),
        services: BTreeMap::from([
            (service(80, TCP), port(vec![backend], 0)),
            (service(53, UDP), port(vec![backend], 600)),
            (service(81, TCP), port(Vec::new(), 0)),
            (service(443, TCP), port(vec![local], 0)),
            (service(443, UDP), port(vec![local], 0)),
            (service(0, ICMP), ServiceEntry::Address(2)),
        ]),
        settings: Settings {
            authoritative: 1,
            answer_ping: 1,
            flags: Settings::HAS_LOCAL_BACKENDS,
            nat_port_count: ports.settings.nat_port_count,
            ..Settings::default()
        },
        nat_ports: ports.nat_ports,
        link_addresses: BTreeMap::new(),
    }
}

fn host_tables(map_state: &MapState) -> SimTables {
    let mut tables = SimTables {
        settings: map_state.settings,
        nat_ports: map_state.nat_ports.clone(),
        ..SimTables::default()
    };
    for (prefix, cidr) in &map_state.cluster {
        let kind = cidr.kind().unwrap();
        tables.destinations.push((
            prefix.network().octets(),
            u32::from(prefix.prefix_len()),
            kind,
        ));
    }
    for prefix in map_state.office.keys() {
        tables
            .office
            .push((prefix.network().octets(), u32::from(prefix.prefix_len())));
    }
    for (prefix, route) in &map_state.routes {
        tables.routes.push((
            prefix.network().octets(),
            u32::from(prefix.prefix_len()),
            *route,
        ));
    }
    for (id, (key, entry)) in (1..).zip(&map_state.services) {
        let service = match entry {
            ServiceEntry::Address(ready) => Service {
                id: 0,
                backend_count: *ready,
                ..Service::default()
            },
            ServiceEntry::Port {
                backends,
                affinity_seconds,
            } => {
                for (slot, backend) in (0..).zip(backends) {
                    tables.backends.insert(
                        BackendKey {
                            service_id: id,
                            slot,
                        },
                        *backend,
                    );
                }
                Service {
                    id,
                    backend_count: u32::try_from(backends.len()).unwrap(),
                    affinity_seconds: *affinity_seconds,
                    only: match backends[..] {
                        [only] => only,
                        _ => Backend::default(),
                    },
                }
            }
        };
        tables.services.insert(*key, service);
    }
    tables
}

/// The interface that a test run of the kernel gives XDP programs their frames by: the loopback device.
const LOOPBACK: u32 = 1;
/// Where next hops lead to.
const NIC: u32 = 7;
const REMOTE: [u8; 4] = [10, 60, 20, 31];
const VXLAN_PORT: u16 = 8_472;
const VXLAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];

/// How XDP reaches the pods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    Vxlan,
}

fn next_hops(way: Way) -> NextHops {
    let hop = |mtu, vtep| Hop {
        next_hop: NextHop {
            ifindex: NIC,
            vtep: 0,
            mtu,
            destination: [2, 0, 0, 0, 1, 1],
            source: [2, 0, 0, 0, 0, 7],
        },
        vtep,
    };
    let vtep = Vtep {
        remote: REMOTE,
        local: UPLINK,
        vni: 1,
        port: VXLAN_PORT,
        source_port_min: 32_768,
        source_port_count: 28_232,
        ttl: 64,
        tos: 0,
        inner_destination: [2, 0, 0, 0, 1, 5],
        inner_source: VXLAN_MAC,
    };
    let to_pods = hop(1_450, (way == Way::Vxlan).then_some(vtep));
    let mut next_hops = NextHops {
        hops: BTreeMap::from([
            (net("10.244.1.0/24"), to_pods),
            (net("192.168.0.0/22"), hop(1_500, None)),
        ]),
        ..NextHops::default()
    };
    next_hops.ports[0] = XdpPort {
        ifindex: LOOPBACK,
        is_uplink: 1,
        ..XdpPort::default()
    };
    next_hops.tunnels[0] = Tunnel {
        local: UPLINK,
        vni: 1,
        port: VXLAN_PORT,
        mac: VXLAN_MAC,
    };
    next_hops
}

/// A packet as it comes out of the tunnel.
fn tunnelled(packet: &[u8]) -> Vec<u8> {
    let vxlan = [
        &[8, 0, 0, 0, 0, 0, 1, 0][..],
        &VXLAN_MAC,
        &[2, 0, 0, 0, 1, 5, 8, 0],
        packet,
    ];
    udp((REMOTE, 50_000), (UPLINK, VXLAN_PORT), &vxlan.concat())
}

/// Both engines, side by side.
struct Pair {
    datapath: Datapath,
    host: SimTables,
    /// Whether packets come by XDP first.
    xdp: Option<Way>,
    _pinned: Pinned,
}

/// A test run can't say that a packet came in by the uplink, so the program that doesn't ask stands for the one that
/// does.
fn loaded_name(program: Program) -> &'static str {
    match program {
        ClusterEgress => "any_egress",
        other => other.name(),
    }
}

impl Pair {
    fn new(name: &str) -> Self {
        let pinned = Pinned::new(name);
        let pins = pinned.pins();
        let mut datapath =
            Datapath::load(pins, 4_096).expect("root and a bpf filesystem are needed");
        let any_egress: &mut SchedClassifier = datapath
            .ebpf_mut()
            .program_mut(loaded_name(ClusterEgress))
            .unwrap()
            .try_into()
            .unwrap();
        any_egress.load().unwrap();
        let map_state = map_state();
        let tables = Tables::open(pins).unwrap();
        Reconciler::open(&tables)
            .unwrap()
            .apply(&map_state, clock::now())
            .unwrap();
        Self {
            datapath,
            host: host_tables(&map_state),
            xdp: None,
            _pinned: pinned,
        }
    }

    /// The same, with XDP in front.
    fn behind_xdp(name: &str, way: Way) -> Self {
        let mut pair = Self::new(name);
        pair.datapath.xdp(Buffers::One).unwrap();
        let map_state = MapState {
            next_hops: next_hops(way),
            ..map_state()
        };
        let tables = Tables::open(pair.datapath.pins()).unwrap();
        Reconciler::open(&tables)
            .unwrap()
            .apply(&map_state, clock::now())
            .unwrap();
        // The numbers that userspace gave are its own business: the host's engine takes them over.
        let routes = tables.prefixes::<Route>(name::ROUTES).unwrap();
        for (network, length, route) in &mut pair.host.routes {
            *route = routes.get(&Key::new(*length, *network), 0).unwrap();
        }
        let next_hops = tables.array::<NextHop>(name::NEXT_HOPS).unwrap();
        let vteps = tables.array::<Vtep>(name::VTEP_FDB).unwrap();
        let fast_path = tables.array::<FastPath>(name::FAST_PATH).unwrap();
        pair.host.next_hops = (0..8).map(|at| next_hops.get(&at, 0).unwrap()).collect();
        pair.host.vteps = (0..8).map(|at| vteps.get(&at, 0).unwrap()).collect();
        pair.host.fast_path = fast_path.get(&0, 0).unwrap();
        // The host's clock is moved by hand, the kernel's is not.
        pair.host.fast_path.valid_until = u32::MAX;
        pair.xdp = Some(way);
        pair
    }

    /// Runs a packet through both at XDP and compares; gives what the host made of it.
    #[track_caller]
    fn both_at_xdp(&mut self, what: &str, packet: &[u8]) -> Step {
        let frame = [&ETHERNET[..], packet].concat();
        let mut on_host = SimFrame::new(LOOPBACK, frame.clone());
        let step = xdp::handle(&mut on_host, &self.host);
        let program = self.datapath.xdp(Buffers::One).unwrap();
        let mut out = vec![0; frame.len() + 256];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                data_out: Some(&mut out),
                ..TestRunOptions::new()
            })
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected = match step {
            Step::Drop => XDP_DROP,
            Step::Pass | Step::OpenFlow => XDP_PASS,
            Step::Reflect => XDP_TX,
            Step::Redirect { .. } => XDP_REDIRECT,
        };
        assert_eq!(
            result.return_value, expected,
            "{what}: {step:?} on the host"
        );
        assert_eq!(
            out[..result.data_size_out as usize],
            on_host.bytes,
            "{what}"
        );
        step
    }

    /// Runs a packet through both and compares; gives what the host made of it.
    #[track_caller]
    fn both(&mut self, what: &str, program: Program, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let (verdict, packet) = self.compared(what, program, packet);
        (verdict, packet.bytes)
    }

    /// Runs packets through both, and behind them those that come in again; gives what the host made of those that are
    /// not held.
    #[track_caller]
    fn both_with_held(
        &mut self,
        what: &str,
        program: Program,
        packets: impl IntoIterator<Item = Vec<u8>>,
    ) -> Vec<(Verdict, Vec<u8>)> {
        let mut arriving: VecDeque<Vec<u8>> = packets.into_iter().collect();
        let mut done = Vec::new();
        while let Some(packet) = arriving.pop_front() {
            self.host.clock.set(clock::now());
            let (verdict, packet) = self.compared(what, program, &packet);
            arriving.extend(packet.requeued);
            if verdict != Verdict::Held {
                done.push((verdict, packet.bytes));
            }
        }
        done
    }

    #[track_caller]
    fn compared(&mut self, what: &str, program: Program, packet: &[u8]) -> (Verdict, SimPacket) {
        let mut on_host = SimPacket::new(packet.to_vec());
        let verdict = match program {
            UplinkIngress => run(&mut on_host, &self.host, Side::Uplink),
            ClusterIngress => run(&mut on_host, &self.host, Side::Cluster),
            ClusterEgress => stack::run(&mut on_host, &self.host),
            UplinkEgress => local::run(&mut on_host, &self.host),
            XdpFast => unreachable!("it has a context of another kind"),
        };
        let classifier: &mut SchedClassifier = self
            .datapath
            .ebpf_mut()
            .program_mut(loaded_name(program))
            .unwrap()
            .try_into()
            .unwrap();
        let frame = [&ETHERNET[..], packet].concat();
        let mut out = vec![0; frame.len() + 256];
        let result = classifier
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                data_out: Some(&mut out),
                ..TestRunOptions::new()
            })
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let in_kernel = &out[ETHERNET.len()..result.data_size_out as usize];
        let expected = match verdict {
            Verdict::Pass | Verdict::ToStack | Verdict::Continue => UNSPEC,
            Verdict::Forward { .. } | Verdict::Reflect => REDIRECT,
            Verdict::Drop(_)
            | Verdict::Reject(..)
            | Verdict::Held
            | Verdict::LocalReply(_)
            | Verdict::SlowPath(_) => SHOT,
        };
        assert_eq!(
            result.return_value, expected,
            "{what}: {verdict:?} on the host"
        );
        let mut bytes = on_host.bytes.clone();
        match verdict {
            Verdict::Reflect => {
                // An answer's identification is random.
                let mut in_kernel = in_kernel.to_vec();
                for answer in [&mut bytes, &mut in_kernel] {
                    answer[4..6].fill(0);
                    answer[10..12].fill(0);
                }
                assert_eq!(in_kernel, bytes, "{what}");
            }
            Verdict::Pass | Verdict::ToStack | Verdict::Continue | Verdict::Forward { .. } => {
                assert_eq!(in_kernel, bytes, "{what}");
            }
            // What is dropped is nobody's business.
            _ => {}
        }
        (verdict, on_host)
    }
}

fn ip(
    source: [u8; 4],
    destination: [u8; 4],
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ipv4(source, destination, 64)
}

fn tcp(
    source: ([u8; 4], u16),
    destination: ([u8; 4], u16),
    flags: &str,
    payload: &[u8],
) -> Vec<u8> {
    let mut builder = ip(source.0, destination.0).tcp(source.1, destination.1, 1_000, 65_000);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(2_000),
            'F' => builder.fin(),
            'R' => builder.rst(),
            other => panic!("no flag {other}"),
        };
    }
    if flags.contains('S') {
        builder = builder
            .options(&[
                etherparse::TcpOptionElement::Noop,
                etherparse::TcpOptionElement::MaximumSegmentSize(1_460),
            ])
            .unwrap();
    }
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ip(source.0, destination.0)
        .udp(source.1, destination.1)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

fn echo(source: [u8; 4], destination: [u8; 4], identifier: u16, is_request: bool) -> Vec<u8> {
    let builder = ip(source, destination);
    let builder = if is_request {
        builder.icmpv4_echo_request(identifier, 1)
    } else {
        builder.icmpv4_echo_reply(identifier, 1)
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, b"are you there?").unwrap();
    packet
}

/// Numbers below the argument, the same in every run.
fn dice() -> impl FnMut(usize) -> usize {
    let mut random = 0x2545_F491_u32;
    move |below| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random as usize % below
    }
}

fn with_header(packet: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, rest) = Ipv4Header::from_slice(packet).unwrap();
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    let mut changed = Vec::new();
    header.write(&mut changed).unwrap();
    changed.extend_from_slice(rest);
    changed
}

fn unreachable_about(quoted: &[u8], source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = Vec::new();
    ip(source, destination)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: 1_400,
            },
        ))
        .write(&mut packet, quoted)
        .unwrap();
    packet
}

/// What a pod sends, as it comes in by the uplink.
fn as_it_arrives(way: Way, packet: &[u8]) -> Vec<u8> {
    match way {
        Way::Native => packet.to_vec(),
        Way::Vxlan => tunnelled(packet),
    }
}

#[test]
fn sessions_are_carried_by_xdp_alike() {
    let redirected = Step::Redirect { ifindex: NIC };
    for (name, way) in [("native", Way::Native), ("vxlan", Way::Vxlan)] {
        let mut pair = Pair::behind_xdp(name, way);
        for (port, destination) in [(40_000, (POD, 8_080)), (40_001, (VIP, 80))] {
            for (flags, payload) in [("S", &b""[..]), ("A", b""), ("A", b"hello"), ("FA", b"")] {
                let what = format!("{name}, {destination:?}, {flags}");
                let request = tcp((CLIENT, port), destination, flags, payload);
                assert_eq!(pair.both_at_xdp(&what, &request), redirected, "{what}");
                let back = if flags == "S" { "SA" } else { flags };
                let answer = tcp((POD, 8_080), (NAT, port), back, b"world");
                let answer = as_it_arrives(way, &answer);
                assert_eq!(pair.both_at_xdp(&what, &answer), redirected, "{what}");
            }
        }
        let query = udp((CLIENT, 5_353), (VIP, 53), b"query");
        assert_eq!(pair.both_at_xdp("UDP", &query), redirected);
        let answer = as_it_arrives(way, &udp((POD, 8_080), (NAT, 5_353), b"answer"));
        assert_eq!(pair.both_at_xdp("its answer", &answer), redirected);
        let ping = echo(CLIENT, POD, 7, true);
        assert_eq!(pair.both_at_xdp("ping", &ping), redirected);
        let answer = as_it_arrives(way, &echo(POD, NAT, 7, false));
        assert_eq!(pair.both_at_xdp("its echo", &answer), redirected);
    }
}

#[test]
fn damaged_frames_are_treated_alike_by_xdp() {
    for (name, way) in [("dnative", Way::Native), ("dvxlan", Way::Vxlan)] {
        let mut pair = Pair::behind_xdp(name, way);
        let sound = [
            tcp((CLIENT, 40_000), (POD, 80), "S", b"payload"),
            udp((CLIENT, 40_000), (VIP, 53), b"payload"),
            echo(CLIENT, POD, 7, true),
            as_it_arrives(way, &tcp((POD, 80), (NAT, 40_000), "SA", b"")),
            as_it_arrives(way, &udp((POD, 8_080), (NAT, 40_000), b"answer")),
        ];
        let mut next = dice();
        for round in 0..400 {
            let mut packet = sound[round % sound.len()].clone();
            if round >= sound.len() {
                for _ in 0..=next(3) {
                    let at = next(packet.len());
                    if !(12..24).contains(&at) {
                        packet[at] = u8::try_from(next(256)).unwrap();
                    }
                }
                if next(4) == 0 {
                    packet.truncate(next(packet.len() + 1));
                }
            }
            let what = format!("{name}, round {round}: {packet:02x?}");
            pair.both_at_xdp(&what, &packet);
        }
    }
}

#[test]
fn sessions_are_translated_alike() {
    let mut pair = Pair::new("sessions");
    for (port, destination) in [(40_000, (POD, 8_080)), (40_001, (VIP, 80))] {
        let client = (CLIENT, port);
        for (what, flags, payload) in [
            ("SYN", "S", &b""[..]),
            ("ACK", "A", b""),
            ("data", "A", b"hello"),
            ("FIN", "FA", b""),
        ] {
            let (verdict, sent) = pair.both(
                what,
                UplinkIngress,
                &tcp(client, destination, flags, payload),
            );
            assert!(
                matches!(verdict, Verdict::Forward { .. }),
                "{what}: {verdict:?}"
            );
            assert_eq!(sent[12..20], [NAT, POD].concat()[..]);
            let back = if flags == "S" { "SA" } else { flags };
            let answer = tcp((POD, 8_080), (NAT, port), back, b"world");
            let (verdict, received) = pair.both("answer", ClusterIngress, &answer);
            assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
            assert_eq!(received[12..20], [destination.0, CLIENT].concat()[..]);
            let complaint = unreachable_about(&sent[..28], [10, 60, 20, 31], NAT);
            pair.both("an error from the cluster", ClusterIngress, &complaint);
            let complaint = unreachable_about(&received, [192, 168, 0, 1], destination.0);
            pair.both("an error from the office", UplinkIngress, &complaint);
        }
        pair.both("reset", UplinkIngress, &tcp(client, destination, "R", b""));
        pair.both(
            "a new SYN",
            UplinkIngress,
            &tcp(client, destination, "S", b""),
        );
    }
    let (_, sent) = pair.both(
        "UDP",
        UplinkIngress,
        &udp((CLIENT, 5_353), (VIP, 53), b"query"),
    );
    pair.both(
        "its answer",
        ClusterIngress,
        &udp((POD, 8_080), (NAT, 5_353), b"answer"),
    );
    pair.both(
        "an error about it",
        ClusterIngress,
        &unreachable_about(&sent, POD, NAT),
    );
    pair.both("ping", UplinkIngress, &echo(CLIENT, POD, 1, true));
    pair.both("its answer", ClusterIngress, &echo(POD, NAT, 1, false));
    pair.both(
        "ping to a service",
        UplinkIngress,
        &echo(CLIENT, VIP, 1, true),
    );
}

#[test]
fn what_the_kernel_routes_is_translated_alike() {
    let mut pair = Pair::new("stack");
    let (client, pod, nat) = ((CLIENT, 40_000), (POD, 8_080), (NAT, 40_000));
    for flags in ["S", "A", "FA"] {
        let (verdict, sent) = pair.both("out", ClusterEgress, &tcp(client, pod, flags, b"hello"));
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(sent[12..20], [NAT, POD].concat()[..]);
        let answer = tcp(pod, nat, if flags == "S" { "SA" } else { flags }, b"world");
        let (verdict, received) = pair.both("back", ClusterIngress, &answer);
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(received[12..20], [POD, CLIENT].concat()[..]);
        let complaint = unreachable_about(&sent[..28], [10, 60, 20, 31], NAT);
        let (verdict, _) = pair.both("an error from the cluster", ClusterIngress, &complaint);
        assert_eq!(verdict, Verdict::Continue);
        let complaint = unreachable_about(&received, CLIENT, POD);
        pair.both("an error at the uplink", UplinkIngress, &complaint);
        let (verdict, _) = pair.both("an error from the office", ClusterEgress, &complaint);
        assert_eq!(verdict, Verdict::Continue);
    }
    let (verdict, _) = pair.both("reset", ClusterEgress, &tcp((CLIENT, 1), pod, "A", b""));
    assert_eq!(verdict, Verdict::Reflect);
    pair.both("UDP", ClusterEgress, &udp(client, (POD, 53), b"query"));
    pair.both(
        "its answer",
        ClusterIngress,
        &udp((POD, 53), nat, b"answer"),
    );
    pair.both("ping", ClusterEgress, &echo(CLIENT, POD, 1, true));
    pair.both("its answer", ClusterIngress, &echo(POD, NAT, 1, false));
    let tunnelled = |source, destination| {
        with_header(&udp((source, 7), (destination, 8), b"GRE"), |header| {
            header.protocol = IpNumber::GRE;
        })
    };
    let (verdict, sent) = pair.both("GRE", ClusterEgress, &tunnelled(CLIENT, POD));
    assert_eq!(verdict, Verdict::Continue);
    let complaint = unreachable_about(&sent, [10, 60, 20, 31], NAT);
    let (verdict, _) = pair.both("an error about it", ClusterIngress, &complaint);
    assert_eq!(verdict, Verdict::Continue);
    let (verdict, _) = pair.both("its answer", ClusterIngress, &tunnelled(POD, NAT));
    assert_eq!(verdict, Verdict::Continue);
    // Masqueraded by somebody else.
    let (verdict, _) = pair.both(
        "ours already",
        ClusterEgress,
        &udp(nat, (POD, 53), b"query"),
    );
    assert_eq!(verdict, Verdict::Pass);
}

#[test]
fn what_the_tables_have_lost_goes_on_alike() {
    let mut pair = Pair::new("adopted");
    for (what, destination) in [("a pod", (POD, 8_080)), ("a service", (VIP, 80))] {
        let port = if destination.0 == POD { 40_000 } else { 40_001 };
        let data = tcp((CLIENT, port), destination, "A", b"hello");
        let (verdict, sent) = pair.both(what, UplinkIngress, &data);
        assert!(
            matches!(verdict, Verdict::Forward { .. }),
            "{what}: {verdict:?}"
        );
        assert_eq!(sent[12..20], [NAT, POD].concat()[..]);
        let answer = tcp((POD, 8_080), (NAT, port), "A", b"world");
        let (verdict, _) = pair.both(what, ClusterIngress, &answer);
        assert!(
            matches!(verdict, Verdict::Forward { .. }),
            "{what}: {verdict:?}"
        );
    }
    let routed = tcp((CLIENT, 40_002), (POD, 8_080), "A", b"hello");
    let (verdict, _) = pair.both("on the stack path", ClusterEgress, &routed);
    assert_eq!(verdict, Verdict::Continue);
}

#[test]
fn answers_to_pods_are_sent_on_alike() {
    let mut pair = Pair::new("answers");
    let (client, pod) = ((CLIENT, 9_003), (POD, 40_000));
    for flags in ["SA", "A", "FA", "R"] {
        let answer = tcp(client, pod, flags, b"");
        let (verdict, sent) = pair.both(flags, UplinkIngress, &answer);
        assert!(
            matches!(verdict, Verdict::Forward { .. }),
            "{flags}: {verdict:?}"
        );
        assert_eq!(sent[12..20], [CLIENT, POD].concat()[..]);
    }
    let (_, sent) = pair.both("a SYN", UplinkIngress, &tcp(client, pod, "S", b""));
    assert_eq!(sent[12..20], [NAT, POD].concat()[..]);
    let resolved = udp((CLIENT, 53), (POD, 40_001), b"answer");
    let (_, sent) = pair.both("UDP", UplinkIngress, &resolved);
    assert_eq!(sent[12..20], [CLIENT, POD].concat()[..]);
    let late = tcp((CLIENT, 9_004), pod, "A", b"");
    let (_, sent) = pair.both("under way", UplinkIngress, &late);
    assert_eq!(sent[12..20], [CLIENT, POD].concat()[..]);
}

#[test]
fn backends_on_the_node_itself_are_served_alike() {
    let mut pair = Pair::new("local");
    let (client, service, backend) = ((CLIENT, 40_000), (VIP, 443), (LOCAL, 6_443));
    for flags in ["S", "A", "FA"] {
        let (verdict, arrived) =
            pair.both("in", UplinkIngress, &tcp(client, service, flags, b"hello"));
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(arrived[12..20], [CLIENT, LOCAL].concat()[..]);
        let back = if flags == "S" { "SA" } else { flags };
        let (verdict, sent) = pair.both("out", UplinkEgress, &tcp(backend, client, back, b""));
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(sent[12..20], [VIP, CLIENT].concat()[..]);
    }
    let (_, arrived) = pair.both("a question", UplinkIngress, &udp(client, service, b"?"));
    let complaint = unreachable_about(&arrived, LOCAL, CLIENT);
    let (verdict, _) = pair.both("nobody listens", UplinkEgress, &complaint);
    assert_eq!(verdict, Verdict::Continue);
    let (_, sent) = pair.both("an answer", UplinkEgress, &udp(backend, client, b"!"));
    let complaint = unreachable_about(&sent, [192, 168, 0, 1], VIP);
    let (verdict, _) = pair.both("too large for the office", UplinkIngress, &complaint);
    assert_eq!(verdict, Verdict::Continue);
}

#[test]
fn a_large_ping_to_a_service_is_answered_alike() {
    let mut pair = Pair::new("fragments");
    let ping = echo(CLIENT, VIP, 1, true);
    for (what, more, offset) in [("the first", true, 0), ("the last", false, 2)] {
        let fragment = with_header(&ping, |header| {
            header.more_fragments = more;
            header.fragment_offset = offset.try_into().unwrap();
        });
        let (verdict, answer) = pair.both(what, UplinkIngress, &fragment);
        assert_eq!(verdict, Verdict::Reflect, "{what}");
        assert_eq!(answer[12..20], [VIP, CLIENT].concat()[..]);
    }
}

/// The fragments of a datagram, each with at most `size` bytes.
fn in_fragments(packet: &[u8], identification: u16, size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(size);
    let fragment = |(index, chunk): (usize, &[u8])| {
        with_header(&[header, chunk].concat(), |header| {
            header.identification = identification;
            header.dont_fragment = false;
            header.more_fragments = index + 1 < count;
            header.fragment_offset = u16::try_from(index * size / 8).unwrap().try_into().unwrap();
            header.set_payload_len(chunk.len()).unwrap();
        })
    };
    payload.chunks(size).enumerate().map(fragment).collect()
}

/// What comes in again in the kernel goes nowhere: to a loopback device that is down. The test lets it come in again on
/// both sides.
fn without_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
}

#[test]
fn fragments_in_any_order_are_treated_alike() {
    without_network();
    let mut pair = Pair::new("orders");
    let payload: Vec<u8> = (0..=255).cycle().take(2_500).collect();
    let mut large_ping = echo(CLIENT, VIP, 7, true);
    large_ping.extend(&payload);
    let requests = [
        udp((CLIENT, 5_353), (POD, 53), &payload),
        udp((CLIENT, 5_354), (VIP, 53), &payload),
        tcp((CLIENT, 5_355), (POD, 80), "S", &payload),
        udp((CLIENT, 5_356), (VIP, 443), &payload),
        udp((STRANGER, 5_357), (VIP, 53), &payload),
        large_ping,
    ];
    let mut identification = 0;
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        for request in &requests {
            identification += 1;
            let what = format!("{order:?}, {identification}");
            let fragments = in_fragments(request, identification, 1_000);
            let sent = order.map(|index| fragments[index].clone());
            let mut done = pair.both_with_held(&what, UplinkIngress, sent);
            assert_eq!(done.len(), 3, "{what}");
            done.sort_by_key(|(_, bytes)| [bytes[6] & 0x1F, bytes[7]]);
            let (Verdict::Forward { .. }, first) = &done[0] else {
                continue;
            };
            let [source, destination]: [[u8; 4]; 2] =
                [12, 16].map(|at| first[at..at + 4].try_into().unwrap());
            let port = |at: usize| u16::from_be_bytes([first[at], first[at + 1]]);
            let answer = udp((destination, port(22)), (source, port(20)), &payload);
            let fragments = in_fragments(&answer, identification, 1_000);
            let sent = order.map(|index| fragments[index].clone());
            let done = pair.both_with_held(&what, ClusterIngress, sent);
            assert_eq!(done.len(), 3, "{what} back");
        }
    }
}

#[test]
fn fragments_of_any_kind_are_treated_alike() {
    without_network();
    let mut pair = Pair::new("pieces");
    let mut next = dice();
    let mut seen = BTreeMap::new();
    let sound = [
        tcp((CLIENT, 40_000), (POD, 80), "S", &[1; 300]),
        udp((CLIENT, 40_000), (VIP, 53), &[2; 300]),
        udp((POD, 8_080), (NAT, 40_000), &[3; 300]),
        tcp((POD, 80), (NAT, 40_000), "SA", &[4; 300]),
        udp((POD, 9_999), (NAT, 40_000), &[5; 300]),
    ];
    pair.host.clock.set(clock::now());
    for packet in &sound {
        pair.both("opens a flow", UplinkIngress, packet);
    }
    for round in 0..4_000 {
        let which = next(sound.len());
        let (header, payload) = sound[which].split_at(20);
        let start = [0, 0, 8, 16, 64, 128, 192, 256][next(8)];
        let len = [0, 8, 12, 16, 64, 64, 64, 128][next(8)].min(payload.len() - start);
        let chunk = &payload[start..start + len];
        let packet = with_header(&[header, chunk].concat(), |header| {
            header.identification = u16::try_from(round / 40).unwrap();
            header.dont_fragment = false;
            header.more_fragments = next(3) > 0;
            header.fragment_offset = u16::try_from(start / 8).unwrap().try_into().unwrap();
            header.set_payload_len(len).unwrap();
        });
        let what = format!("round {round}: {packet:02x?}");
        let program = if which < 2 {
            UplinkIngress
        } else {
            ClusterIngress
        };
        for (verdict, _) in pair.both_with_held(&what, program, [packet]) {
            *seen.entry(format!("{verdict:?}")).or_insert(0) += 1;
        }
    }
    for kind in ["FragmentOverlap", "FragmentTiny", "Forward", "Pass"] {
        assert!(
            seen.iter().any(|(verdict, _)| verdict.contains(kind)),
            "{kind} is not among {seen:?}"
        );
    }
}

#[test]
fn refusals_and_answers_are_alike() {
    let mut pair = Pair::new("refusals");
    let client = (CLIENT, 40_000);
    let large = [7; 1_480];
    let pod_syn = tcp(client, (POD, 80), "S", b"");
    let cases = [
        ("no such service", tcp(client, (VIP, 444), "S", b"")),
        ("no backend", tcp(client, (VIP, 81), "S", b"")),
        ("no such UDP service", udp(client, (VIP, 123), b"time?")),
        ("nothing known", tcp(client, (POD, 80), "A", b"late")),
        ("late FIN", tcp(client, (POD, 80), "FA", b"")),
        ("late RST", tcp(client, (POD, 80), "R", b"")),
        (
            "a subnet without a node",
            udp(client, ([10, 244, 77, 1], 80), b"x"),
        ),
        ("our own address", udp(client, ([10, 244, 30, 1], 80), b"x")),
        ("an answer to a pod", tcp(client, (POD, 9_000), "SA", b"")),
        (
            "the last hop",
            with_header(&pod_syn, |header| header.time_to_live = 1),
        ),
        (
            "no fragments",
            with_header(&udp(client, (POD, 80), &large), |header| {
                header.dont_fragment = true;
            }),
        ),
        (
            "may be fragmented",
            with_header(&udp(client, (POD, 80), &large), |header| {
                header.dont_fragment = false;
            }),
        ),
        (
            "too large for a local pod",
            udp(client, ([10, 244, 30, 9], 80), &large),
        ),
        (
            "another protocol",
            with_header(&pod_syn, |header| header.protocol = IpNumber::SCTP),
        ),
        (
            "another protocol to a service",
            with_header(&tcp(client, (VIP, 80), "S", b""), |header| {
                header.protocol = IpNumber::SCTP;
            }),
        ),
        ("a stranger", tcp((STRANGER, 40_000), (POD, 80), "S", b"")),
        (
            "a stranger's SYN to a service",
            tcp((STRANGER, 1), (VIP, 80), "S", b""),
        ),
        (
            "a stranger's ACK to a service",
            tcp((STRANGER, 1), (VIP, 80), "A", b""),
        ),
        (
            "a stranger's question",
            udp((STRANGER, 1), (VIP, 53), b"query"),
        ),
        ("a stranger's ping", echo(STRANGER, VIP, 1, true)),
        ("a pod at a service", udp((POD, 9), (VIP, 53), b"query")),
        ("an echo reply to a service", echo(CLIENT, VIP, 1, false)),
        (
            "an unasked SYN-ACK to a service",
            tcp(client, (VIP, 80), "SA", b""),
        ),
        ("no business of ours", tcp(client, (UPLINK, 22), "S", b"")),
        (
            "a later fragment alone",
            with_header(&udp(client, (POD, 80), b"12345678"), |header| {
                header.fragment_offset = 8.try_into().unwrap();
            }),
        ),
    ];
    for (what, packet) in &cases {
        for program in EVERYWHERE {
            pair.both(what, program, packet);
        }
    }
}

#[test]
fn damaged_packets_are_treated_alike() {
    let mut pair = Pair::new("damaged");
    let mut next = dice();
    let sound = [
        tcp((CLIENT, 40_000), (POD, 80), "S", b"payload"),
        udp((CLIENT, 40_000), (VIP, 53), b"payload"),
        echo(CLIENT, POD, 7, true),
        unreachable_about(&udp((POD, 53), (CLIENT, 40_000), b"x"), CLIENT, POD),
        tcp((POD, 80), (NAT, 40_000), "SA", b""),
        tcp((CLIENT, 40_000), (VIP, 443), "S", b"payload"),
        tcp((LOCAL, 6_443), (CLIENT, 40_000), "SA", b""),
        tcp((STRANGER, 40_000), (VIP, 443), "S", b"payload"),
        unreachable_about(
            &tcp((CLIENT, 40_000), (LOCAL, 6_443), "A", b""),
            LOCAL,
            CLIENT,
        ),
    ];
    for round in 0..4_000 {
        let mut packet = sound[round % sound.len()].clone();
        for _ in 0..=next(3) {
            let at = next(packet.len());
            // Addresses stay, else hardly any packet is ours; so do ports, as a reserved one is replaced at random.
            if !(12..24).contains(&at) {
                packet[at] = u8::try_from(next(256)).unwrap();
            }
        }
        if next(4) == 0 {
            packet.truncate(20 + next(packet.len() - 19).max(1) - 1);
        }
        let what = format!("round {round}: {packet:02x?}");
        for program in EVERYWHERE {
            pair.both(&what, program, &packet);
        }
    }
}
