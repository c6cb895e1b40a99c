//! An office, a cluster, and the tables of the node between them.

use std::sync::LazyLock;

use bridge_common::abi::{
    Backend, BackendKey, DestinationKind, FastPath, Ipv4, Mac, NatPort, NextHop, Route, Service,
    ServiceKey, Settings, Tunnel, Vtep, XdpPort,
};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::xdp::Step;
use bridge_common::sim::{SimFrame, SimTables};

use crate::packet::{ETHERNET, View, Wire};
use crate::sound::has_sound_header;

/// A host of the office.
pub const PC: Ipv4 = [192, 168, 0, 10];
/// Another one.
pub const LAPTOP: Ipv4 = [192, 168, 1, 20];
/// Neither office nor cluster.
pub const OUTSIDER: Ipv4 = [203, 0, 113, 7];
/// The node's address on the uplink.
pub const NODE: Ipv4 = [10, 60, 20, 30];
/// The node's address on the tunnel.
pub const NAT: Ipv4 = [10, 244, 30, 0];
/// A pod behind the tunnel.
pub const POD: Ipv4 = [10, 244, 1, 7];
/// A pod behind a plain route.
pub const ROUTED_POD: Ipv4 = [10, 244, 2, 7];
/// A pod on the node itself.
pub const LOCAL_POD: Ipv4 = [10, 244, 30, 9];
/// A pod without a way to it.
pub const LOST_POD: Ipv4 = [10, 244, 9, 9];
/// The address of a service.
pub const VIP: Ipv4 = [10, 96, 10, 10];
/// The address of a service without a ready backend.
pub const EMPTY_VIP: Ipv4 = [10, 96, 10, 11];
/// A service whose backends are behind the tunnel.
pub const MYSQL: Endpoint = at(VIP, 3306);
/// The same, over UDP.
pub const DNS: Endpoint = at(VIP, 53);
/// A port without a ready backend.
pub const EMPTY: Endpoint = at(VIP, 81);
/// A service whose backend is the node itself.
pub const API: Endpoint = at(VIP, 443);

/// The interface where clients come in.
pub const UPLINK: u32 = 2;
/// The tunnel's device.
pub const TUNNEL: u32 = 5;
/// The bridge of the node's own pods.
pub const BRIDGE: u32 = 6;
/// The interface under the tunnel, and towards [`ROUTED_POD`].
pub const NIC: u32 = 7;

const UPLINK_MAC: Mac = [2, 0, 0, 0, 0, 2];
const NIC_MAC: Mac = [2, 0, 0, 0, 0, 7];
const ROUTER_MAC: Mac = [2, 0, 0, 0, 1, 1];
const WORKER_MAC: Mac = [2, 0, 0, 0, 1, 2];
const VXLAN_MAC: Mac = [2, 0, 0, 0, 0, 5];
const REMOTE_VXLAN_MAC: Mac = [2, 0, 0, 0, 1, 5];
const REMOTE: Ipv4 = [10, 60, 20, 31];
const VNI: u32 = 0x01_02_03;
const VXLAN_PORT: u16 = 8472;
/// Bytes of the headers from the outer IPv4 header to the inner one.
const ENCAPSULATION: usize = 20 + 8 + 8 + ETHERNET;

const MTU: u32 = 1_500;
const TUNNEL_MTU: u32 = 1_450;
const BACKENDS: u32 = 4;
/// The ports of the backends of [`MYSQL`], [`DNS`] and [`API`].
const BACKEND_PORTS: [u16; 3] = [13_306, 1_053, 6_443];

/// An address and a port.
#[must_use]
pub const fn at(address: Ipv4, port: u16) -> Endpoint {
    Endpoint { address, port }
}

/// As on a node: some servers, ephemeral ports, `NodePort`s, the tunnel's own.
fn is_reserved(port: u16) -> bool {
    [0, 22, 53, 80, 443, VXLAN_PORT].contains(&port) || (30_000..=60_999).contains(&port)
}

/// `nat_ports` takes longer to fill than most inputs take to run.
static NAT_PORTS: LazyLock<(Vec<NatPort>, Settings)> = LazyLock::new(|| {
    let mut tables = SimTables::default();
    tables.set_nat_ports(is_reserved);
    (tables.nat_ports, tables.settings)
});

/// How a world differs from the ordinary one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Bits of settings: see [`tables`].
    pub settings: u8,
    /// Flows that fit; 0 for as many as ever come.
    pub capacity: usize,
    /// NAT ports; 0 for all.
    pub nat_ports: u32,
}

impl Options {
    /// Services are not all known.
    pub const PARTIAL: u8 = 1;
    /// The kernel carries the flows.
    pub const STACK_ONLY: u8 = 2;
    /// Pings to services are not answered.
    pub const SILENT: u8 = 4;
    /// Backends on the node itself are not served.
    pub const NO_LOCAL_BACKENDS: u8 = 8;
    /// Packets from elsewhere pass.
    pub const PASS_OTHERS: u8 = 16;
    /// Clients come to the same backend again.
    pub const AFFINITY: u8 = 32;
    /// Networks are looked up in the table, not in the fast path's copy.
    pub const MANY_NETWORKS: u8 = 64;
    /// There is a pool of NAT addresses.
    pub const POOL: u8 = 128;

    const fn has(&self, bit: u8) -> bool {
        self.settings & bit != 0
    }
}

const fn route(ifindex: u32, source: Ipv4, mtu: u32, flags: u16, next_hop: u16) -> Route {
    Route {
        ifindex,
        source,
        mtu,
        flags,
        next_hop,
        gateway: [0; 4],
    }
}

/// The tables that userspace would have filled.
#[must_use]
pub fn tables(options: Options) -> SimTables {
    let (nat_ports, settings) = &*NAT_PORTS;
    let mut tables = SimTables {
        office: vec![([192, 168, 0, 0], 22)],
        destinations: vec![
            ([10, 244, 0, 0], 16, DestinationKind::Pod),
            ([10, 96, 0, 0], 12, DestinationKind::Service),
            (NAT, 32, DestinationKind::Nat),
            (NODE, 32, DestinationKind::Nat),
        ],
        routes: vec![
            ([0; 4], 0, route(UPLINK, NODE, MTU, Route::UNREACHABLE, 0)),
            ([192, 168, 0, 0], 22, route(UPLINK, NODE, MTU, 0, 1)),
            (
                [10, 244, 1, 0],
                24,
                route(TUNNEL, NAT, TUNNEL_MTU, Route::TUNNEL, 2),
            ),
            ([10, 244, 2, 0], 24, route(NIC, NODE, MTU, 0, 3)),
            ([10, 244, 30, 0], 24, route(BRIDGE, NAT, TUNNEL_MTU, 0, 0)),
            (NAT, 32, route(1, NAT, 65_535, Route::LOCAL, 0)),
            (NODE, 32, route(1, NODE, 65_535, Route::LOCAL, 0)),
        ],
        nat_ports: nat_ports.clone(),
        settings: *settings,
        ..SimTables::default()
    };
    if options.capacity != 0 {
        tables.capacity = options.capacity;
    }
    let settings = &mut tables.settings;
    if options.nat_ports != 0 {
        settings.nat_port_count = options.nat_ports;
    }
    settings.authoritative = u8::from(!options.has(Options::PARTIAL));
    settings.stack_only = u8::from(options.has(Options::STACK_ONLY));
    settings.answer_ping = u8::from(!options.has(Options::SILENT));
    if !options.has(Options::NO_LOCAL_BACKENDS) {
        settings.flags |= Settings::HAS_LOCAL_BACKENDS;
    }
    if options.has(Options::PASS_OTHERS) {
        settings.flags |= Settings::PASS_OTHERS;
    }
    if options.has(Options::POOL) {
        settings.snat_address_count = 2;
        settings.snat_addresses[0] = NAT;
        settings.snat_addresses[1] = [10, 244, 30, 1];
        settings.exclusive = 2;
        let kind = DestinationKind::Nat;
        tables.destinations.push(([10, 244, 30, 1], 32, kind));
    }
    let affinity_seconds = if options.has(Options::AFFINITY) {
        60
    } else {
        0
    };
    add_services(&mut tables, affinity_seconds);
    add_fast_path(&mut tables, !options.has(Options::MANY_NETWORKS));
    tables
}

fn add_services(tables: &mut SimTables, affinity_seconds: u32) {
    let [mysql, dns, api] = BACKEND_PORTS;
    for (id, endpoint, protocol, port, count) in [
        (1, MYSQL, TCP, mysql, BACKENDS),
        (2, DNS, UDP, dns, BACKENDS),
        (3, EMPTY, TCP, 0, 0),
        (4, EMPTY, UDP, 0, 0),
        (5, at(VIP, 0), ICMP, 0, BACKENDS),
        (6, at(EMPTY_VIP, 0), ICMP, 0, 0),
        (7, API, TCP, api, 1),
    ] {
        let backend = |slot: u32| Backend {
            address: if id == 7 { NODE } else { backend(slot) },
            port,
            pad: [0; 2],
        };
        let key = ServiceKey {
            vip: endpoint.address,
            port: endpoint.port,
            protocol,
            pad: 0,
        };
        let service = Service {
            id,
            backend_count: count,
            affinity_seconds,
            only: if count == 1 {
                backend(0)
            } else {
                Backend::default()
            },
        };
        tables.services.insert(key, service);
        for slot in 0..count {
            let key = BackendKey {
                service_id: id,
                slot,
            };
            tables.backends.insert(key, backend(slot));
        }
    }
}

/// Address of a backend of the services.
fn backend(slot: u32) -> Ipv4 {
    [10, 244, 1, 100 + slot.to_le_bytes()[0]]
}

fn add_fast_path(tables: &mut SimTables, has_destinations: bool) {
    let hop = |ifindex, vtep, mtu, destination, source| NextHop {
        ifindex,
        vtep,
        mtu,
        destination,
        source,
    };
    tables.next_hops = vec![
        NextHop::default(),
        hop(UPLINK, 0, MTU, ROUTER_MAC, UPLINK_MAC),
        hop(NIC, 1, TUNNEL_MTU, WORKER_MAC, NIC_MAC),
        hop(NIC, 0, MTU, WORKER_MAC, NIC_MAC),
    ];
    let vtep = Vtep {
        remote: REMOTE,
        local: NODE,
        vni: VNI,
        port: VXLAN_PORT,
        source_port_min: 32_768,
        source_port_count: 28_232,
        ttl: 63,
        tos: 0,
        inner_destination: REMOTE_VXLAN_MAC,
        inner_source: VXLAN_MAC,
    };
    tables.vteps = vec![Vtep::default(), vtep];
    let mut fast = FastPath {
        epoch: 7,
        valid_until: u32::MAX,
        ..FastPath::default()
    };
    let port = |ifindex, mac, is_uplink| XdpPort {
        ifindex,
        mac,
        is_uplink,
        pad: 0,
    };
    fast.ports[0] = port(UPLINK, UPLINK_MAC, 1);
    fast.ports[1] = port(NIC, NIC_MAC, 0);
    fast.tunnels[0] = Tunnel {
        local: NODE,
        vni: VNI,
        port: VXLAN_PORT,
        mac: VXLAN_MAC,
    };
    if has_destinations {
        let mut known: Vec<_> = tables.destinations.clone();
        known.sort_by_key(|&(_, len, _)| std::cmp::Reverse(len));
        for (entry, (network, len, kind)) in fast.destinations.iter_mut().zip(known) {
            entry.network = network;
            entry.mask = u32::MAX
                .checked_shl(32 - len)
                .unwrap_or(u32::MAX)
                .to_be_bytes();
            entry.kind = kind as u32;
        }
    }
    tables.fast_path = fast;
}

/// The frame in which a packet comes to the node by an interface with XDP.
#[must_use]
pub fn frame(ingress: u32, packet: &[u8]) -> SimFrame {
    let mac = if ingress == UPLINK {
        UPLINK_MAC
    } else {
        NIC_MAC
    };
    let header = [&mac[..], &ROUTER_MAC, &[8, 0]].concat();
    SimFrame::new(ingress, [&header, packet].concat())
}

/// What the other end of the tunnel sends for a packet.
#[must_use]
pub fn tunnelled(packet: &[u8]) -> Vec<u8> {
    let mut outer = Wire::new(UDP, at(REMOTE, 50_000), at(NODE, VXLAN_PORT));
    let ethernet = [&VXLAN_MAC[..], &REMOTE_VXLAN_MAC, &[8, 0]].concat();
    outer.payload = [&[8, 0, 0, 0, 1, 2, 3, 0][..], &ethernet, packet].concat();
    outer.bytes()
}

/// The packet inside of a frame that comes to an end of a tunnel, as far as lengths tell.
#[must_use]
pub fn inside_of_tunnel(frame: &[u8]) -> Option<&[u8]> {
    frame.get(ETHERNET + ENCAPSULATION..)
}

/// The packet in a frame that XDP has sent, which was `len` bytes long when it came; `None` if the frame was left to
/// others.
///
/// # Panics
/// When what stands in front of the packet is wrong.
#[must_use]
pub fn packet_of_sent(step: Step, frame: &SimFrame, len: usize) -> Option<&[u8]> {
    let ifindex = match step {
        Step::Pass => return None,
        Step::Reflect => frame.ingress,
        Step::Redirect { ifindex } => ifindex,
        Step::Drop | Step::OpenFlow => panic!("{step:?}: half written"),
    };
    let bytes = &frame.bytes;
    let (destination, source) = match ifindex {
        UPLINK => (ROUTER_MAC, UPLINK_MAC),
        NIC => (WORKER_MAC, NIC_MAC),
        other => panic!("no way out: {other}"),
    };
    assert_eq!(bytes[..6], destination, "the neighbour's address");
    assert_eq!(bytes[6..12], source, "the interface's address");
    assert_eq!(bytes[12..14], [8, 0]);
    let packet = &bytes[ETHERNET..];
    if bytes.len() <= len {
        return Some(packet);
    }
    assert_eq!(packet.len(), len - ETHERNET + ENCAPSULATION);
    let outer = View::of(packet).expect("a tunnel's packet is IPv4");
    assert!(has_sound_header(&outer), "checksum of the tunnel's header");
    assert_eq!((outer.source(), outer.destination()), (NODE, REMOTE));
    assert_eq!(
        usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        packet.len(),
        "total length of the tunnel's packet"
    );
    let udp = outer.transport();
    assert_eq!(outer.endpoints().1.port, VXLAN_PORT);
    assert_eq!(
        usize::from(u16::from_be_bytes([udp[4], udp[5]])),
        udp.len(),
        "length of the tunnel's datagram"
    );
    assert_eq!(udp[6..16], [0, 0, 8, 0, 0, 0, 1, 2, 3, 0]);
    Some(&packet[ENCAPSULATION..])
}

/// Packets that were counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// As forwarded, by any path.
    pub forwarded: u64,
    /// As dropped, for any reason.
    pub dropped: u64,
    /// As pings that were answered.
    pub pings: u64,
    /// As the first of their flow.
    pub opened: u64,
}

impl Counted {
    /// What the counters say.
    #[must_use]
    pub fn of(tables: &SimTables) -> Self {
        let all = |counts: &[Count]| counts.iter().map(|&count| tables.counted(count)).sum();
        let drops: Vec<Count> = DropReason::ALL
            .iter()
            .map(|&reason| Count::Drop(reason))
            .collect();
        Self {
            forwarded: all(&[
                Count::ToBackend,
                Count::ToClient,
                Count::XdpToBackend,
                Count::XdpToClient,
            ]),
            dropped: all(&drops),
            pings: tables.counted(Count::PingAnswered),
            opened: all(&[Count::FlowOpened, Count::FlowAdopted]),
        }
    }
}
