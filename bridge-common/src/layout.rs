//! The kernel tables: names, sizes, keys and values.
//!
//! `bpftool map dump` is a user interface, so field names explain themselves, addresses are
//! `[u8; 4]` in network order (they print as `[192,168,0,10]`), ports are numbers in host order and
//! every struct is padded by hand. Times are seconds of `CLOCK_MONOTONIC`.
//!
//! A change of any key or value must raise [`LAYOUT_VERSION`]: tables are pinned below a directory
//! that carries it, and a running older bridge keeps its own.

/// Version of everything in this module; part of the pin directory (`…/v3`).
pub const LAYOUT_VERSION: u32 = 3;

/// An IPv4 address in network order.
pub type Ipv4 = [u8; 4];

/// Seconds of `CLOCK_MONOTONIC`.
pub type Seconds = u32;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Names of the tables, at most 15 characters (`BPF_OBJ_NAME_LEN` less its NUL).
pub mod name {
    /// Office networks, [`super::OfficeCidr`] by longest prefix.
    pub const OFFICE_CIDRS: &str = "office_cidrs";
    /// Pod and service networks and our NAT addresses, [`super::ClusterCidr`] by longest prefix.
    pub const CLUSTER_CIDRS: &str = "cluster_cidrs";
    /// The kernel's routes as the bridge mirrors them, [`super::Route`] by longest prefix.
    pub const ROUTES: &str = "routes";
    /// [`super::NextHop`] by the number that [`super::Route::next_hop`] gives.
    pub const NEXT_HOPS: &str = "next_hops";
    /// [`super::Vtep`] by the number that [`super::NextHop::vtep`] gives: the VXLAN devices' FDBs.
    pub const VTEP_FDB: &str = "vtep_fdb";
    /// One [`super::FastPath`].
    pub const FAST_PATH: &str = "fast_path";
    /// [`super::ServiceKey`] to [`super::Service`].
    pub const SERVICES: &str = "services";
    /// [`super::BackendKey`] to [`super::Backend`].
    pub const BACKENDS: &str = "backends";
    /// [`super::AffinityKey`] to [`super::Affinity`].
    pub const AFFINITY: &str = "affinity";
    /// [`super::FlowKey`] to [`super::Flow`]: client to backend.
    pub const FLOWS: &str = "flows";
    /// [`super::ReplyKey`] to [`super::Reply`]: backend to client.
    pub const REPLIES: &str = "replies";
    /// [`super::FragmentKey`] to [`super::Fragment`].
    pub const FRAGMENTS: &str = "fragments";
    /// [`super::NatPort`] by port number.
    pub const NAT_PORTS: &str = "nat_ports";
    /// [`super::Counter`] per CPU by [`crate::verdict::Count`].
    pub const COUNTERS: &str = "counters";
    /// One [`super::Settings`].
    pub const SETTINGS: &str = "settings";
    /// One [`super::AnswerTokens`] per CPU.
    pub const ANSWER_TOKENS: &str = "answer_tokens";
    /// Ring buffer of [`super::Event`].
    pub const EVENTS: &str = "events";
    /// One program, that opens flows for `xdp_fast`.
    pub const XDP_NEXT: &str = "xdp_next";
    /// The same for `xdp_fast_frags`.
    pub const XDP_NEXT_FRAGS: &str = "xdp_next_frags";
}

/// How many entries each table holds unless configured otherwise.
pub mod capacity {
    /// Prefixes in `office_cidrs`.
    pub const OFFICE_CIDRS: usize = 1024;
    /// Prefixes in `cluster_cidrs`.
    pub const CLUSTER_CIDRS: usize = 1024;
    /// Prefixes in `routes`.
    pub const ROUTES: usize = 16_384;
    /// Next hops that XDP knows; number 0 is none.
    pub const NEXT_HOPS: usize = 32_768;
    /// Remote VTEPs; number 0 is none.
    pub const VTEP_FDB: usize = 16_384;
    /// Interfaces with XDP.
    pub const XDP_PORTS: usize = 4;
    /// VXLAN devices that XDP decapsulates for.
    pub const TUNNELS: usize = 2;
    /// Prefixes of `cluster_cidrs` that are compared one by one.
    pub const DESTINATIONS: usize = 8;
    /// Service ports.
    pub const SERVICES: usize = 65_536;
    /// Backends of all services, twice over while a list is being replaced.
    pub const BACKENDS: usize = 262_144;
    /// Clients of services with session affinity.
    pub const AFFINITY: usize = 65_536;
    /// Flows, and as many replies; `--flow-capacity` changes it.
    pub const FLOWS: usize = 262_144;
    /// Datagrams whose fragments are on their way.
    pub const FRAGMENTS: usize = 65_536;
    /// One entry for each port number.
    pub const NAT_PORTS: usize = 65_536;
    /// Bytes of the event ring.
    pub const EVENTS: usize = 65_536;
    /// Addresses of a configured SNAT pool.
    pub const SNAT_ADDRESSES: usize = 8;
}

/// Value of `office_cidrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfficeCidr {
    /// Which of the configured CIDRs this is, counted from 0.
    pub index: u32,
}

/// Value of `cluster_cidrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterCidr {
    /// A [`DestinationKind`] as a number.
    pub kind: u32,
}

/// What an address in `cluster_cidrs` is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// A pod network.
    Pod = 1,
    /// A service network.
    Service = 2,
    /// An address that we translate sources to: what arrives for it may be a reply.
    Nat = 3,
}

impl ClusterCidr {
    /// The value for a destination of `kind`.
    #[must_use]
    pub const fn new(kind: DestinationKind) -> Self {
        Self { kind: kind as u32 }
    }

    /// The kind, or `None` for a number that this version does not know.
    #[must_use]
    #[inline]
    pub const fn kind(self) -> Option<DestinationKind> {
        match self.kind {
            1 => Some(DestinationKind::Pod),
            2 => Some(DestinationKind::Service),
            3 => Some(DestinationKind::Nat),
            _ => None,
        }
    }
}

/// Value of `routes`: where the kernel would send a packet, and from which address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Egress interface.
    pub ifindex: u32,
    /// The kernel's preferred source towards this prefix: what replies come home to.
    pub source: Ipv4,
    /// Bytes of the largest IPv4 packet that the interface takes.
    pub mtu: u32,
    /// [`Route::TUNNEL`], [`Route::LOCAL`], [`Route::UNREACHABLE`].
    pub flags: u16,
    /// Number of the [`NextHop`] by which XDP sends there; 0 if it can't.
    pub next_hop: u16,
    /// The neighbour that packets are given to; 0.0.0.0 if each destination is a neighbour itself.
    pub gateway: Ipv4,
}

impl Route {
    /// The interface encapsulates; a packet above its MTU is fragmented outside the tunnel.
    pub const TUNNEL: u16 = 1;
    /// The address is the node's own.
    pub const LOCAL: u16 = 2;
    /// There is no way, or only the default route back to where the packet came from.
    pub const UNREACHABLE: u16 = 4;

    /// The neighbour that a packet to `destination` is given to.
    #[must_use]
    #[inline(always)]
    pub const fn neighbour(&self, destination: Ipv4) -> Ipv4 {
        match self.gateway {
            [0, 0, 0, 0] => destination,
            gateway => gateway,
        }
    }

    /// Whether the interface encapsulates.
    #[must_use]
    #[inline]
    pub const fn is_tunnel(&self) -> bool {
        self.flags & Self::TUNNEL != 0
    }

    /// Whether there is no way.
    #[must_use]
    #[inline]
    pub const fn is_unreachable(&self) -> bool {
        self.flags & Self::UNREACHABLE != 0
    }

    /// Whether the address is the node's own.
    #[must_use]
    #[inline]
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }
}

/// Value of `next_hops`: what XDP writes in front of a packet, and where it sends it.
///
/// A number that was given up is not given to another next hop before the epoch has advanced, see
/// [`FastPath::epoch`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Egress interface, of a tunnel the one under it; 0 in an unused entry.
    pub ifindex: u32,
    /// Number of the [`Vtep`] that the packet is sent to in VXLAN; 0 without a tunnel.
    pub vtep: u32,
    /// Bytes of the largest IPv4 packet, before encapsulation.
    pub mtu: u32,
    /// The neighbour's Ethernet address.
    pub destination: Mac,
    /// The interface's own.
    pub source: Mac,
}

/// Value of `vtep_fdb`: a remote tunnel end, as the FDB of a kernel's VXLAN device has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vtep {
    /// Its address.
    pub remote: Ipv4,
    /// Our own address.
    pub local: Ipv4,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// The lowest UDP source port.
    pub source_port_min: u16,
    /// How many source ports there are from that on; at least 1.
    pub source_port_count: u16,
    /// TTL of the outer packet.
    pub ttl: u8,
    /// TOS byte of the outer packet, without its ECN bits.
    pub tos: u8,
    /// Ethernet address of the remote VXLAN device.
    pub inner_destination: Mac,
    /// Ethernet address of our VXLAN device.
    pub inner_source: Mac,
}

/// An interface with XDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpPort {
    /// Its index; 0 in an unused entry.
    pub ifindex: u32,
    /// Its Ethernet address: frames for others are left alone.
    pub mac: Mac,
    /// 1 where clients come in.
    pub is_uplink: u8,
    /// Always 0.
    pub pad: u8,
}

/// A VXLAN device of this node whose packets XDP decapsulates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The outer destination address.
    pub local: Ipv4,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port; 0 in an unused entry.
    pub port: u16,
    /// Ethernet address of the device.
    pub mac: Mac,
}

/// A prefix of `cluster_cidrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Its network address.
    pub network: Ipv4,
    /// Its mask.
    pub mask: Ipv4,
    /// A [`DestinationKind`] as a number; 0 in an unused entry, which all others stand before.
    pub kind: u32,
}

impl Destination {
    /// Whether the address lies in the prefix.
    #[must_use]
    #[inline(always)]
    pub const fn contains(&self, address: Ipv4) -> bool {
        u32::from_ne_bytes(address) & u32::from_ne_bytes(self.mask)
            == u32::from_ne_bytes(self.network)
    }
}

/// Value of `fast_path`: what XDP needs to know of the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastPath {
    /// Advances with every change of routes, neighbours or FDB, once `routes` and `next_hops` hold it: a flow's cached
    /// next hop counts in the epoch that it was cached in only. The lower 16 bits count and are never 0, which is a new
    /// flow's epoch.
    pub epoch: u32,
    /// Until when next hops may be believed. The process that mirrors them renews this; without one XDP leaves packets
    /// to TC, whose neighbours the kernel itself keeps up to date.
    pub valid_until: Seconds,
    /// The interfaces.
    pub ports: [XdpPort; capacity::XDP_PORTS],
    /// The VXLAN devices.
    pub tunnels: [Tunnel; capacity::TUNNELS],
    /// What `cluster_cidrs` holds, the longest prefix first: a handful is compared faster than looked up. None where
    /// there are more than fit: they are looked up then.
    pub destinations: [Destination; capacity::DESTINATIONS],
}

impl FastPath {
    /// What an address is to us: `Some` of the answer, `None` where `cluster_cidrs` is to be asked.
    #[must_use]
    #[inline(always)]
    pub fn destination(&self, address: Ipv4) -> Option<Option<DestinationKind>> {
        if self.destinations[0].kind == 0 {
            return None;
        }
        for destination in &self.destinations {
            // An unused entry, all zeros, contains every address, and is of no kind.
            if destination.contains(address) {
                return Some(
                    ClusterCidr {
                        kind: destination.kind,
                    }
                    .kind(),
                );
            }
        }
        Some(None)
    }
}

/// Key of `services`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The cluster IP.
    pub vip: Ipv4,
    /// The service port; 0 with ICMP, for the address as a whole.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `services`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Names one backend list; a changed list gets a new id, so that no packet sees half a change.
    pub id: u32,
    /// Backends in that list; with ICMP, ready backends behind the address.
    pub backend_count: u32,
    /// How long a client comes to the same backend after its last new flow; 0 without session affinity.
    pub affinity_seconds: Seconds,
}

/// Key of `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// [`Service::id`].
    pub service_id: u32,
    /// 0 to `backend_count` - 1.
    pub slot: u32,
}

/// Value of `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// The pod that really gets the packet.
    pub address: Ipv4,
    /// Its port.
    pub port: u16,
    /// Always 0.
    pub pad: [u8; 2],
}

/// Key of `affinity`: a client and what it addressed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityKey {
    /// Office host.
    pub client: Ipv4,
    /// The service.
    pub service: ServiceKey,
}

/// Value of `affinity`: the backend that the client came to last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Its address and port.
    pub backend: Backend,
    /// When the client's last new flow went there.
    pub last_used: Seconds,
}

/// Key of `flows`: what the client wrote on the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Office host.
    pub client: Ipv4,
    /// What the client addressed: a pod or a service.
    pub destination: Ipv4,
    /// Source port, or the identifier of an ICMP echo.
    pub client_port: u16,
    /// Destination port; 0 with ICMP.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
}

/// Value of `flows`: how packets from the client are translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The pod that really gets it.
    pub backend: Ipv4,
    /// Source address that the backend sees.
    pub nat: Ipv4,
    /// The backend's port; 0 with ICMP.
    pub backend_port: u16,
    /// Source port, or ICMP identifier, that the backend sees.
    pub nat_port: u16,
    /// When the client's last packet came by.
    pub last_seen: Seconds,
    /// Packets from the client, and those from the backend that no longer fit into its [`Reply`]; wraps.
    pub packets: u32,
    /// Bytes of these, IPv4 header included: the lower 32 bits.
    pub bytes_low: u32,
    /// The upper 16 bits.
    pub bytes_high: u16,
    /// The [`FastPath::epoch`] that `next_hop` was cached in.
    pub epoch: u16,
    /// Number of the [`NextHop`] towards the backend; 0 if XDP can't send there.
    pub next_hop: u16,
    /// [`crate::tcp::Seen`] of the client's packets.
    pub tcp_seen: u8,
    /// A [`Layer`] as a number.
    pub layer: u8,
}

impl Flow {
    /// Bytes counted, IPv4 headers included.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> u64 {
        (self.bytes_high as u64) << 32 | self.bytes_low as u64
    }

    /// Counts packets and bytes.
    #[inline(always)]
    pub const fn count(&mut self, packets: u32, bytes: u32) {
        self.packets = self.packets.wrapping_add(packets);
        let (low, carry) = self.bytes_low.overflowing_add(bytes);
        self.bytes_low = low;
        if carry {
            self.bytes_high = self.bytes_high.wrapping_add(1);
        }
    }
}

/// Key of `replies`: what the backend wrote on the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyKey {
    /// The pod.
    pub backend: Ipv4,
    /// Our NAT address.
    pub nat: Ipv4,
    /// The pod's port; 0 with ICMP.
    pub backend_port: u16,
    /// NAT port, or ICMP identifier.
    pub nat_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
}

/// Value of `replies`: how packets from the backend are translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Office host.
    pub client: Ipv4,
    /// What the client addressed, so what it expects as the source.
    pub destination: Ipv4,
    /// The client's port, or ICMP identifier.
    pub client_port: u16,
    /// The port that the client addressed; 0 with ICMP.
    pub destination_port: u16,
    /// When the backend's last packet came by; when the flow was opened, before the first.
    pub last_seen: Seconds,
    /// Bytes from the backend, IPv4 header included, since they were last added to the flow's.
    pub bytes: u32,
    /// Packets from the backend since then; 0 only before the first.
    pub packets: u16,
    /// [`crate::tcp::Seen`] of the backend's packets.
    pub tcp_seen: u8,
    /// A [`Layer`] as a number.
    pub layer: u8,
}

impl Reply {
    /// Whether the counters are about to run out of bits: they are to be added to the flow's then. Leaves room for one
    /// more packet of any size.
    #[must_use]
    #[inline(always)]
    pub const fn is_brimful(&self) -> bool {
        self.packets & 0x8000 != 0 || self.bytes & 0x8000_0000 != 0
    }

    /// Counts packets and bytes.
    #[inline(always)]
    pub const fn count(&mut self, packets: u32, bytes: u32) {
        self.packets = self.packets.saturating_add(packets as u16);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Adds the counters to the flow's, but for one packet: that there was one is what tells an answered flow.
    #[inline(always)]
    pub const fn pour_into(&mut self, flow: &mut Flow) {
        flow.count(self.packets.saturating_sub(1) as u32, self.bytes);
        self.bytes = 0;
        if self.packets > 1 {
            self.packets = 1;
        }
    }
}

/// The layer that carries a flow. A flow stays on the layer that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Translated and redirected at TC ingress.
    Tc = 1,
    /// Not ours: a connection that a pod opened, whose answers the kernel forwards as they are, or one to a service
    /// that kube-proxy translates.
    Kernel = 2,
    /// Routed by the kernel; its source is translated at TC egress, after netfilter.
    Stack = 3,
}

impl Layer {
    /// The layer for a number in a table.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Tc),
            2 => Some(Self::Kernel),
            3 => Some(Self::Stack),
            _ => None,
        }
    }

    /// The name that commands show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Kernel => "kernel",
            Self::Stack => "stack",
        }
    }
}

impl FlowKey {
    /// The key of the entry that translates this flow's replies.
    #[must_use]
    #[inline]
    pub const fn reply_key(&self, flow: &Flow) -> ReplyKey {
        ReplyKey {
            backend: flow.backend,
            nat: flow.nat,
            backend_port: flow.backend_port,
            nat_port: flow.nat_port,
            protocol: self.protocol,
            pad: 0,
            pad2: 0,
        }
    }
}

impl ReplyKey {
    /// The key of the entry that translates the client's packets.
    #[must_use]
    #[inline]
    pub const fn flow_key(&self, reply: &Reply) -> FlowKey {
        FlowKey {
            client: reply.client,
            destination: reply.destination,
            client_port: reply.client_port,
            destination_port: reply.destination_port,
            protocol: self.protocol,
            pad: 0,
            pad2: 0,
        }
    }
}

/// Key of `fragments`: what makes the fragments of one datagram one (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address as it arrived.
    pub source: Ipv4,
    /// Destination address as it arrived.
    pub destination: Ipv4,
    /// IPv4 identification.
    pub identification: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `fragments`: what only the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Source port, or ICMP identifier.
    pub source_port: u16,
    /// Destination port; 0 with ICMP.
    pub destination_port: u16,
    /// When the first fragment came by.
    pub seen: Seconds,
}

/// Value of `nat_ports` at index n.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatPort {
    /// The n-th port that may be chosen, for n below [`Settings::nat_port_count`].
    pub candidate: u16,
    /// 1 where port n itself is used by the node and must not be chosen.
    pub reserved: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `counters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; segments of a GSO packet count one by one.
    pub packets: u64,
    /// Bytes from the IPv4 header on.
    pub bytes: u64,
}

/// Value of `clock`, one for each CPU: what `CLOCK_MONOTONIC` said when the kernel's tick was last counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// `jiffies_64` (linux/jiffies.h) then.
    pub jiffies: u64,
    /// The time then.
    pub seconds: Seconds,
    /// Zero.
    pub pad: u32,
}

/// Value of `answer_tokens`: a token bucket for the ICMP errors and resets that we make.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerTokens {
    /// Answers that may still be sent.
    pub tokens: u32,
    /// When the bucket was last filled up.
    pub filled: Seconds,
}

impl AnswerTokens {
    /// Answers per second and CPU, and the size of the bucket: enough for a port scan of a VIP,
    /// well below what would make an amplifier of the node (`net.ipv4.icmp_msgs_per_sec` is 10,000).
    pub const PER_SECOND: u32 = 2_000;

    /// Takes one token, filling the bucket first when a second has passed.
    #[inline]
    pub fn take(&mut self, now: Seconds) -> bool {
        if self.filled != now {
            self.filled = now;
            self.tokens = Self::PER_SECOND;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

/// How long idle flows live.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP with both sides established; RFC 5382 REQ-5 asks for 7,440 at least.
    pub tcp_established: Seconds,
    /// TCP opening, closing, or after a reset; RFC 5382 REQ-5 asks for 240 at least.
    pub tcp_transitory: Seconds,
    /// UDP; RFC 4787 REQ-5c recommends 300.
    pub udp: Seconds,
    /// UDP that was never answered; RFC 4787 REQ-5 asks for 120 at least.
    pub udp_unreplied: Seconds,
    /// ICMP echo; RFC 5508 REQ-2 asks for 60 at least.
    pub icmp: Seconds,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: 86_400,
            tcp_transitory: 240,
            udp: 300,
            udp_unreplied: 120,
            icmp: 60,
        }
    }
}

/// The one value of `settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// 1 where the cluster source knows every service and the TC path carries them: an unknown one is rejected.
    pub authoritative: u8,
    /// 1 where a ping to a service with a ready backend is answered.
    pub answer_ping: u8,
    /// 1 where the TC path opens no flow and leaves them all to the stack path.
    pub stack_only: u8,
    /// Always 0.
    pub pad: u8,
    /// How many candidates `nat_ports` holds.
    pub nat_port_count: u32,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// How many of `snat_addresses` are set; with 0 the route's source is used.
    pub snat_address_count: u32,
    /// The configured pool.
    pub snat_addresses: [Ipv4; capacity::SNAT_ADDRESSES],
}

/// A record of the `events` ring: something rare that userspace should act on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// An [`EventKind`] as a number.
    pub kind: u32,
    /// The client's address.
    pub client: Ipv4,
    /// The destination's address.
    pub destination: Ipv4,
    /// The client's port.
    pub client_port: u16,
    /// The destination's port.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A new flow found the tables full: sweep now.
    TableFull = 1,
    /// Every NAT port tried towards one backend was taken.
    NoNatPort = 2,
}

impl EventKind {
    /// The kind for a number in a record.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::TableFull),
            2 => Some(Self::NoNatPort),
            _ => None,
        }
    }
}

const _: () = {
    assert!(size_of::<ServiceKey>() == 8);
    assert!(size_of::<Service>() == 12);
    assert!(size_of::<AffinityKey>() == 12);
    assert!(size_of::<Affinity>() == 12);
    assert!(size_of::<BackendKey>() == 8);
    assert!(size_of::<Backend>() == 8);
    assert!(size_of::<Route>() == 20);
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<Vtep>() == 32);
    assert!(size_of::<XdpPort>() == 12);
    assert!(size_of::<Tunnel>() == 16);
    assert!(size_of::<Destination>() == 12);
    assert!(size_of::<FastPath>() == 184);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Flow>() == 32);
    assert!(size_of::<ReplyKey>() == 16);
    assert!(size_of::<Reply>() == 24);
    assert!(size_of::<FragmentKey>() == 12);
    assert!(size_of::<Fragment>() == 8);
    assert!(size_of::<NatPort>() == 4);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<AnswerTokens>() == 8);
    assert!(size_of::<Settings>() == 64);
    assert!(size_of::<Event>() == 20);
};

#[cfg(feature = "userspace")]
mod pod {
    use super::{
        Affinity, AffinityKey, AnswerTokens, Backend, BackendKey, ClusterCidr, Counter, Event,
        FastPath, Flow, FlowKey, Fragment, FragmentKey, NatPort, NextHop, OfficeCidr, Reply,
        ReplyKey, Route, Service, ServiceKey, Settings, Vtep,
    };

    macro_rules! pod {
        ($($layout:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, padded by hand (asserted above), and of integers alone.
            unsafe impl aya::Pod for $layout {}
        )+};
    }

    pod!(
        Affinity,
        AffinityKey,
        AnswerTokens,
        Backend,
        BackendKey,
        ClusterCidr,
        Counter,
        Event,
        FastPath,
        Flow,
        FlowKey,
        Fragment,
        FragmentKey,
        NatPort,
        NextHop,
        OfficeCidr,
        Reply,
        ReplyKey,
        Route,
        Service,
        ServiceKey,
        Settings,
        Vtep,
    );
}
