//! The kernel's links, addresses, routes, neighbours and FDBs as values.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::vxlan::Vxlan;

/// What the kernel knows about the ways in and out of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Network devices by interface index.
    pub links: BTreeMap<u32, Link>,
    /// The usable ways to the networks of interest, ascending by prefix. A longest-prefix match in
    /// this list, `unreachable` and `local` together gives the kernel's own choice.
    pub routes: Vec<Route>,
    /// Parts of the networks of interest that the kernel has no way to, ascending: `unreachable`,
    /// `blackhole` and `prohibit` routes, no route at all, and routes over a device without carrier.
    pub unreachable: Vec<Ipv4Net>,
    /// Parts of the networks of interest that end at this host, ascending: its own addresses, and
    /// broadcast addresses.
    pub local: Vec<Ipv4Net>,
    /// The host's own IPv4 addresses, ascending by interface.
    pub addresses: Vec<InterfaceAddress>,
    /// The Ethernet addresses of neighbours that the kernel would send to now, of those along `routes` and `underlay`:
    /// gateways, and hosts of connected networks.
    pub neighbours: BTreeMap<Neighbour, Mac>,
    /// Where VXLAN devices send frames to these neighbours.
    pub fdb: Fdb,
    /// The ways to the remote tunnel ends in `fdb`.
    pub underlay: BTreeMap<Ipv4Addr, Route>,
}

impl NetworkState {
    /// The device of this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The IPv4 addresses of an interface, the primary one first.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses
            .iter()
            .filter(move |address| address.ifindex == ifindex)
            .map(|address| address.address)
    }

    /// Whether an address is one of this host's.
    #[must_use]
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() || self.addresses.iter().any(|own| own.address == address)
    }

    /// The way to an address within the networks of interest, by longest prefix.
    #[must_use]
    pub fn route_to(&self, destination: Ipv4Addr) -> Option<&Route> {
        let best = self
            .routes
            .iter()
            .filter(|route| route.prefix.contains(&destination))
            .max_by_key(|route| route.prefix.prefix_len())?;
        let hidden = self.unreachable.iter().chain(&self.local).any(|prefix| {
            prefix.contains(&destination) && prefix.prefix_len() > best.prefix.prefix_len()
        });
        (!hidden).then_some(best)
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in the network namespace and never zero.
    pub index: u32,
    /// The device's name.
    pub name: String,
    /// Largest layer-3 packet in octets.
    pub mtu: u32,
    /// What kind of device it is.
    pub kind: LinkKind,
    /// The hardware address, if the device has one of Ethernet's.
    pub mac: Option<Mac>,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// Whether it can transmit (`IFF_LOWER_UP`): cable plugged, or a bridge with a port up.
    pub carrier: bool,
    /// Tunnel parameters of a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// The bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// The device that it shares the packets of, such as a VLAN's or macvlan's. `None` where that is in another namespace.
    pub lower: Option<u32>,
    /// Whether packets come to it, or to one of its ports, because of their VLAN tag.
    pub takes_tags: bool,
    /// The features, by the names that `ethtool -K` knows, with which it takes VLAN tags off packets that come in.
    /// Only looked for where another device takes tagged packets from it; else empty.
    pub strips_tags: Vec<&'static str>,
}

#[cfg(test)]
impl Link {
    /// An interface that is up, on nothing and below nothing.
    pub(crate) fn example(index: u32, name: &str, kind: LinkKind) -> Self {
        Self {
            index,
            name: name.to_owned(),
            mtu: 1500,
            kind,
            mac: Some([2, 0, 0, 0, 0, 1]),
            up: true,
            carrier: true,
            vxlan: None,
            master: None,
            lower: None,
            takes_tags: false,
            strips_tags: Vec::new(),
        }
    }
}

/// Kinds of network devices, as far as they make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// The loopback device.
    Loopback,
    /// VXLAN tunnel (RFC 7348).
    Vxlan,
    /// Geneve tunnel (RFC 8926).
    Geneve,
    /// IP-in-IP, GRE or a similar tunnel without a port.
    IpTunnel,
    /// `WireGuard` tunnel.
    Wireguard,
    /// Software bridge.
    Bridge,
    /// One end of a pair.
    Veth,
    /// VLAN on another device.
    Vlan,
    /// Another Ethernet address on a device, as VRRP daemons make one.
    MacVlan,
    /// Several devices as one, by the kernel's bonding.
    Bond,
    /// Physical devices and every other kind.
    Other,
}

impl LinkKind {
    /// Whether packets leave the device inside another IP packet.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(
            self,
            Self::Vxlan | Self::Geneve | Self::IpTunnel | Self::Wireguard
        )
    }
}

/// What the kernel does with packets to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destinations: the kernel's prefix or, if that is wider, the network of interest in it.
    pub prefix: Ipv4Net,
    /// The prefix of the kernel's route, e.g. `0.0.0.0/0` for the default route.
    pub matched: Ipv4Net,
    /// Interface through which they leave. With several next hops the one that the kernel has
    /// chosen for one address of the prefix.
    pub ifindex: u32,
    /// The next hop; none if destinations are neighbours.
    pub gateway: Option<Ipv4Addr>,
    /// The source that the kernel would give its own packets, so where replies come home to.
    pub preferred_source: Ipv4Addr,
    /// Largest layer-3 packet in octets: the route's own limit if it has one, else the device's.
    pub mtu: u32,
    /// Whether packets leave inside another IP packet, which may be fragmented outside.
    pub tunnel: bool,
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// Interface index.
    pub ifindex: u32,
    /// The host's own address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix_len: u8,
}

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The address of a VXLAN device's default entry, for frames that no other entry is for.
pub const DEFAULT_ENTRY: Mac = [0; 6];

/// An IPv4 neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface that it is behind.
    pub ifindex: u32,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Where a VXLAN device sends frames for one Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbEntry {
    /// To one remote end.
    Remote(Remote),
    /// To several, by a nexthop group, to a multicast group, or over IPv6.
    Other,
}

/// A remote end of a VXLAN tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its UDP port, where it isn't the device's.
    pub port: Option<u16>,
    /// Its VXLAN network identifier, where it isn't the device's.
    pub vni: Option<u32>,
    /// The only interface that packets to it may leave by.
    pub ifindex: Option<u32>,
}

/// Where frames for an Ethernet address go, by the VXLAN device's interface index and that address.
pub type Fdb = BTreeMap<(u32, Mac), FdbEntry>;
