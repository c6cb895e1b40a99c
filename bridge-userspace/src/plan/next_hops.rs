//! What XDP has to write in front of packets, and where it sends them: a pure function of the kernel's routes,
//! neighbours and VXLAN FDBs.
//!
//! A next hop is known where the whole way is: the interface is one that XDP can send by, and the neighbour's Ethernet
//! address is there; through a VXLAN device also the remote tunnel end and the way to it. Everything else is left to
//! the kernel, by the TC path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bridge_common::abi::{NextHop, Route, Tunnel, Vtep, XdpPort, capacity};
use bridge_common::packet::frame::ETHERNET;
use bridge_common::packet::vxlan;
use ipnet::Ipv4Net;

use crate::datapath::XdpInterfaces;
use crate::kernel::netlink::{
    self, DEFAULT_ENTRY, FdbEntry, Link, Neighbour, NetworkState, Remote, Vxlan, cluster_interfaces,
};
use crate::model::networks::longest_prefix;

/// Bytes that VXLAN puts in front of a packet, the outer Ethernet header not counted.
const VXLAN_OVERHEAD: u32 = vxlan::INNER - ETHERNET;

/// Entries of `routes` that hosts of connected networks may take; the rest is for prefixes.
const HOSTS_MAX: usize = capacity::ROUTES / 2;

/// A next hop without the numbers that it has in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// The entry of `next_hops`, but for [`NextHop::vtep`].
    pub next_hop: NextHop,
    /// The entry of `vtep_fdb`, through a VXLAN device.
    pub vtep: Option<Vtep>,
}

/// What XDP can do, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// The next hops of prefixes in `routes` and of `hosts`.
    pub hops: BTreeMap<Ipv4Net, Hop>,
    /// Entries of `routes` for single hosts of connected networks, as each has a next hop of its own. They say the same
    /// as their network's.
    pub hosts: BTreeMap<Ipv4Net, Route>,
    /// The interfaces.
    pub ports: [XdpPort; capacity::XDP_PORTS],
    /// VXLAN devices to decapsulate for.
    pub tunnels: [Tunnel; capacity::TUNNELS],
    /// Neighbours that the next hops depend on.
    pub neighbours: BTreeSet<Neighbour>,
    /// What XDP leaves to the TC path for reasons that can be helped.
    pub problems: Vec<String>,
}

impl NextHops {
    /// The next hops for `routes`, which are those of `network` as the tables hold them. `uplink` is the name of the
    /// interface where clients come in, `backends` are the networks on the cluster's side.
    #[must_use]
    pub fn new(
        uplink: &str,
        backends: &[Ipv4Net],
        network: &NetworkState,
        routes: &BTreeMap<Ipv4Net, Route>,
        xdp_interfaces: &XdpInterfaces,
    ) -> Self {
        let mut this = Self::default();
        if xdp_interfaces.receive.is_empty() {
            return this;
        }
        this.add_ports(uplink, network, xdp_interfaces);
        this.add_tunnels(backends, network, xdp_interfaces);
        let mut resolver = NextHopResolver {
            network,
            xdp_interfaces,
            used: BTreeSet::new(),
        };
        let mut connected = BTreeMap::new();
        for route in &network.routes {
            let is_usable = routes
                .get(&route.prefix)
                .is_some_and(|entry| !entry.is_unreachable() && !entry.is_local());
            if !is_usable {
                continue;
            }
            match route.gateway {
                Some(gateway) => {
                    if let Some(hop) = resolver.hop(route, gateway) {
                        this.hops.insert(route.prefix, hop);
                    }
                }
                None => {
                    connected.insert(route.prefix, route);
                }
            }
        }
        this.add_hosts(&connected, routes, &mut resolver);
        this.neighbours = resolver.used;
        this
    }

    fn add_ports(&mut self, uplink: &str, network: &NetworkState, xdp_interfaces: &XdpInterfaces) {
        let links = xdp_interfaces
            .receive
            .iter()
            .filter_map(|ifindex| network.links.get(ifindex))
            .filter_map(|link| Some((link, link.mac?)));
        for (port, (link, mac)) in self.ports.iter_mut().zip(links) {
            *port = XdpPort {
                ifindex: link.index,
                mac,
                is_uplink: u8::from(link.name == uplink),
                pad: 0,
            };
        }
    }

    fn add_tunnels(
        &mut self,
        backends: &[Ipv4Net],
        network: &NetworkState,
        xdp_interfaces: &XdpInterfaces,
    ) {
        let mut slots = self.tunnels.iter_mut();
        for link in cluster_interfaces(network, backends)
            .iter()
            .filter_map(|ifindex| network.links.get(ifindex))
        {
            let (Some(vxlan), Some(mac)) = (&link.vxlan, link.mac) else {
                continue;
            };
            if let Some(special) = vxlan.special {
                self.problems.push(format!(
                    "{}: XDP can't do {special}; the TC path carries what goes through it",
                    link.name
                ));
                continue;
            }
            let Some(local) = local_end(link, vxlan, network, xdp_interfaces) else {
                continue;
            };
            if let Some(tunnel) = slots.next() {
                *tunnel = Tunnel {
                    local: local.octets(),
                    vni: vxlan.vni,
                    port: vxlan.port,
                    mac,
                };
            } else {
                self.problems.push(format!(
                    "{}: XDP decapsulates for {} VXLAN devices only; the TC path carries its replies",
                    link.name,
                    capacity::TUNNELS
                ));
            }
        }
    }

    fn add_hosts(
        &mut self,
        connected: &BTreeMap<Ipv4Net, &netlink::Route>,
        routes: &BTreeMap<Ipv4Net, Route>,
        resolver: &mut NextHopResolver<'_>,
    ) {
        if connected.is_empty() {
            return;
        }
        let mut left_out: usize = 0;
        for neighbour in resolver.network.neighbours.keys() {
            let matched = longest_prefix(neighbour.address, |prefix| routes.contains_key(prefix));
            let Some((prefix, route)) =
                matched.and_then(|prefix| Some((prefix, *connected.get(&prefix)?)))
            else {
                continue;
            };
            if route.ifindex != neighbour.ifindex {
                continue;
            }
            if self.hosts.len() == HOSTS_MAX {
                left_out += 1;
                continue;
            }
            let Some(hop) = resolver.hop(route, neighbour.address) else {
                continue;
            };
            let host = Ipv4Net::from(neighbour.address);
            self.hops.insert(host, hop);
            if host != prefix {
                self.hosts.insert(host, routes[&prefix]);
            }
        }
        if left_out > 0 {
            self.problems.push(format!(
                "{left_out} hosts of connected networks are left to the TC path: XDP knows {HOSTS_MAX} at most"
            ));
        }
    }
}

/// The address that packets for a VXLAN device come in to, if they may come in where XDP is.
fn local_end(
    link: &Link,
    vxlan: &Vxlan,
    network: &NetworkState,
    xdp_interfaces: &XdpInterfaces,
) -> Option<Ipv4Addr> {
    let resolver: Vec<&netlink::Route> = network
        .fdb
        .range((link.index, DEFAULT_ENTRY)..=(link.index, [0xff; 6]))
        .filter_map(|(_, entry)| match entry {
            FdbEntry::Remote(remote) => network.underlay.get(&remote.address),
            FdbEntry::Other => None,
        })
        .collect();
    resolver
        .iter()
        .map(|way| way.ifindex)
        .chain(vxlan.underlying)
        .any(|ifindex| xdp_interfaces.receive.contains(&ifindex))
        .then(|| {
            vxlan
                .local
                .or_else(|| Some(resolver.first()?.preferred_source))
        })
        .flatten()
}

/// Finds the way from a route to the wire.
struct NextHopResolver<'a> {
    network: &'a NetworkState,
    xdp_interfaces: &'a XdpInterfaces,
    /// Neighbours that were asked for.
    used: BTreeSet<Neighbour>,
}

impl NextHopResolver<'_> {
    /// The next hop of a route whose packets go to the neighbour with this address.
    fn hop(&mut self, route: &netlink::Route, next: Ipv4Addr) -> Option<Hop> {
        let link = self.network.links.get(&route.ifindex)?;
        match &link.vxlan {
            Some(vxlan) => self.through_vxlan(route, next, link, vxlan),
            None if route.tunnel => None,
            None => Some(Hop {
                next_hop: self.native(route.ifindex, next, route.mtu)?,
                vtep: None,
            }),
        }
    }

    fn through_vxlan(
        &mut self,
        route: &netlink::Route,
        next: Ipv4Addr,
        link: &Link,
        vxlan: &Vxlan,
    ) -> Option<Hop> {
        if vxlan.special.is_some() {
            return None;
        }
        let inner_destination = self.mac_of(route.ifindex, next)?;
        let remote = self.remote(route.ifindex, inner_destination)?;
        let underlay = self.network.underlay.get(&remote.address)?;
        if underlay.tunnel
            || remote
                .ifindex
                .is_some_and(|ifindex| ifindex != underlay.ifindex)
        {
            return None;
        }
        let mtu = route.mtu.min(underlay.mtu.saturating_sub(VXLAN_OVERHEAD));
        let outer = underlay.gateway.unwrap_or(remote.address);
        Some(Hop {
            next_hop: self.native(underlay.ifindex, outer, mtu)?,
            vtep: Some(Vtep {
                remote: remote.address.octets(),
                local: vxlan.local.unwrap_or(underlay.preferred_source).octets(),
                vni: remote.vni.unwrap_or(vxlan.vni),
                port: remote.port.unwrap_or(vxlan.port),
                source_port_min: vxlan.source_port_min,
                source_port_count: vxlan.source_port_count,
                ttl: vxlan.ttl,
                tos: 0,
                inner_destination,
                inner_source: link.mac?,
            }),
        })
    }

    fn native(&mut self, ifindex: u32, next: Ipv4Addr, mtu: u32) -> Option<NextHop> {
        if !self.xdp_interfaces.send.contains(&ifindex) {
            return None;
        }
        let source = self.network.links.get(&ifindex)?.mac?;
        Some(NextHop {
            ifindex,
            vtep: 0,
            mtu,
            destination: self.mac_of(ifindex, next)?,
            source,
        })
    }

    fn mac_of(&mut self, ifindex: u32, address: Ipv4Addr) -> Option<netlink::Mac> {
        let neighbour = Neighbour { ifindex, address };
        self.used.insert(neighbour);
        self.network.neighbours.get(&neighbour).copied()
    }

    /// As `vxlan_xmit` (`drivers/net/vxlan/vxlan_core.c`): an address without an entry has the default one.
    fn remote(&self, ifindex: u32, mac: netlink::Mac) -> Option<Remote> {
        let fdb = &self.network.fdb;
        let entry = fdb
            .get(&(ifindex, mac))
            .or_else(|| fdb.get(&(ifindex, DEFAULT_ENTRY)))?;
        match entry {
            FdbEntry::Remote(remote) => Some(*remote),
            FdbEntry::Other => None,
        }
    }
}

#[cfg(test)]
mod tests;
