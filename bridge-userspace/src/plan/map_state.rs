//! What the tables should hold: a pure function of the configuration, the cluster's desired state and
//! the kernel's routes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use bridge_common::abi::{
    Backend, ClientLimits, ClusterCidr, DestinationKind, Ipv4, LinkAddress, NatPort, OfficeCidr,
    Route, Seconds, ServiceKey, Settings, Timeouts, UpperLink, capacity,
};
use bridge_common::packet::parse::ICMP;
use ipnet::Ipv4Net;

use crate::cluster::{CidrKind, DesiredState};
use crate::config::{self, Config, Datapath};
use crate::datapath::XdpInterfaces;
use crate::kernel::ReservedPorts;
use crate::kernel::netlink::{Link, LinkKind, NetworkState};
use crate::model::networks::overlaps;
use crate::model::ports::PortSet;
use crate::plan::next_hops::NextHops;

/// What one service address and port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceEntry {
    /// A TCP or UDP port.
    Port {
        /// Where new flows go.
        backends: Vec<Backend>,
        /// How long a client comes to the same backend; 0 without session affinity.
        affinity_seconds: Seconds,
    },
    /// The address as a whole, for pings: how many ready backends there are behind it.
    Address(u32),
}

/// What the tables should hold.
#[derive(Clone, Debug, PartialEq)]
pub struct MapState {
    /// `office_cidrs`.
    pub office: BTreeMap<Ipv4Net, OfficeCidr>,
    /// `cluster_cidrs`.
    pub cluster: BTreeMap<Ipv4Net, ClusterCidr>,
    /// `routes`, without next hops.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// `next_hops`, `vtep_fdb` and `fast_path`, and what these add to `routes`.
    pub next_hops: NextHops,
    /// `services` and `backends`.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// `nat_ports`.
    pub nat_ports: Vec<NatPort>,
    /// `link_addresses`.
    pub link_addresses: BTreeMap<LinkAddress, UpperLink>,
    /// `settings`.
    pub settings: Settings,
}

/// The networks whose routes matter: the office, the pods, and backends outside of the pod networks. `in_use` are
/// backends of flows, which their services may have lost.
#[must_use]
pub fn watched_prefixes(
    config: &Config,
    desired: &DesiredState,
    in_use: impl IntoIterator<Item = Ipv4Addr>,
) -> Vec<Ipv4Net> {
    let pods: Vec<Ipv4Net> = desired.cidrs_of(CidrKind::Pod).collect();
    let known = desired
        .services
        .values()
        .flat_map(|service| &service.alive)
        .map(|backend| backend.address);
    let outside = known
        .chain(in_use)
        .map(Ipv4Net::from)
        .filter(|backend| !pods.iter().any(|pods| pods.contains(backend)));
    let mut networks: BTreeSet<Ipv4Net> = outside.collect();
    networks.extend(&pods);
    networks.extend(&config.office_cidrs);
    networks.into_iter().collect()
}

/// The networks on the cluster's side of [`watched_prefixes`].
pub(crate) fn backend_networks(config: &Config, desired: &DesiredState) -> Vec<Ipv4Net> {
    let mut networks = watched_prefixes(config, desired, []);
    networks.retain(|network| !config.office_cidrs.contains(network));
    networks
}

impl MapState {
    /// The state that follows from what is known. `xdp_interfaces` are the interfaces that XDP can receive and send by.
    #[must_use]
    pub fn new(
        config: &Config,
        desired: &DesiredState,
        network: &NetworkState,
        reserved: &ReservedPorts,
        xdp_interfaces: &XdpInterfaces,
    ) -> Self {
        let routes = routes(network);
        let nat_ports = nat_ports(&reserved.ports);
        Self {
            office: config
                .office_cidrs
                .iter()
                .zip(0..)
                .map(|(&cidr, index)| (cidr, OfficeCidr { index }))
                .collect(),
            cluster: destinations(config, desired, &routes),
            next_hops: NextHops::new(
                &config.uplink,
                &backend_networks(config, desired),
                network,
                &routes,
                xdp_interfaces,
            ),
            routes,
            services: services(desired),
            link_addresses: link_addresses(config, network),
            nat_ports,
            settings: settings(config, desired, network, reserved),
        }
    }

    /// Keeps addresses among those that sources are translated to.
    pub fn keep_nat_addresses(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        for address in addresses {
            self.cluster
                .entry(address.into())
                .or_insert(ClusterCidr::new(DestinationKind::Nat));
        }
    }

    /// Networks that there is a way to.
    pub fn reachable(&self) -> impl Iterator<Item = Ipv4Net> {
        self.routes
            .iter()
            .filter(|(_, route)| !route.is_unreachable() && !route.is_local())
            .map(|(&prefix, _)| prefix)
    }

    /// The addresses that sources are translated to.
    pub fn nat_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.cluster
            .iter()
            .filter(|(_, cidr)| cidr.kind() == Some(DestinationKind::Nat))
            .map(|(cidr, _)| cidr.addr())
    }
}

fn destinations(
    config: &Config,
    desired: &DesiredState,
    routes: &BTreeMap<Ipv4Net, Route>,
) -> BTreeMap<Ipv4Net, ClusterCidr> {
    let mut destinations: BTreeMap<Ipv4Net, ClusterCidr> = desired
        .cidrs
        .iter()
        .map(|cidr| {
            let kind = match cidr.kind {
                CidrKind::Pod => DestinationKind::Pod,
                CidrKind::Service => DestinationKind::Service,
            };
            (cidr.cidr, ClusterCidr::new(kind))
        })
        .collect();
    let nat: BTreeSet<Ipv4Addr> = if config.snat_addresses.is_empty() {
        let backends = backend_networks(config, desired);
        routes
            .iter()
            .filter(|(prefix, route)| {
                !route.is_unreachable()
                    && !route.is_local()
                    && backends.iter().any(|network| overlaps(*network, **prefix))
            })
            .map(|(_, route)| Ipv4Addr::from(route.source))
            .collect()
    } else {
        config.snat_addresses.iter().copied().collect()
    };
    for address in nat {
        destinations.insert(
            Ipv4Net::from(address),
            ClusterCidr::new(DestinationKind::Nat),
        );
    }
    destinations
}

/// The kernel's routes as the engine wants them.
fn routes(network: &NetworkState) -> BTreeMap<Ipv4Net, Route> {
    let unreachable = Route {
        flags: Route::UNREACHABLE,
        ..Route::default()
    };
    let mut routes = BTreeMap::new();
    for route in &network.routes {
        let entry = Route {
            ifindex: route.ifindex,
            source: route.preferred_source.octets(),
            mtu: route.mtu,
            flags: if route.tunnel { Route::TUNNEL } else { 0 },
            next_hop: 0,
            gateway: route.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
        };
        routes.insert(route.prefix, entry);
    }
    routes.extend(
        network
            .unreachable
            .iter()
            .map(|&prefix| (prefix, unreachable)),
    );
    let local = Route {
        flags: Route::LOCAL,
        ..Route::default()
    };
    routes.extend(network.local.iter().map(|&prefix| (prefix, local)));
    routes
}

fn services(desired: &DesiredState) -> BTreeMap<ServiceKey, ServiceEntry> {
    let mut services = BTreeMap::new();
    let mut ready: BTreeMap<Ipv4, u32> = BTreeMap::new();
    for (port, service) in &desired.services {
        let vip = port.vip.octets();
        let backends: Vec<Backend> = service
            .backends
            .iter()
            .map(|backend| Backend {
                address: backend.address.octets(),
                port: backend.port,
                pad: [0; 2],
            })
            .collect();
        *ready.entry(vip).or_default() += u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let key = ServiceKey {
            vip,
            port: port.port,
            protocol: port.protocol.number(),
            pad: 0,
        };
        let entry = ServiceEntry::Port {
            backends,
            affinity_seconds: service.affinity_seconds.unwrap_or_default(),
        };
        services.insert(key, entry);
    }
    services.extend(ready.into_iter().map(|(vip, count)| {
        let key = ServiceKey {
            vip,
            port: 0,
            protocol: ICMP,
            pad: 0,
        };
        (key, ServiceEntry::Address(count))
    }));
    services
}

/// The backends of services that are addresses of this node itself.
pub(crate) fn has_local_backends(desired: &DesiredState, network: &NetworkState) -> bool {
    let local: HashSet<Ipv4Addr> = network.addresses.iter().map(|own| own.address).collect();
    let mut backends = desired.services.values().flat_map(|service| &service.alive);
    backends.any(|backend| local.contains(&backend.address))
}

/// Ethernet addresses of devices above the uplink: what comes for them comes to this host.
fn link_addresses(config: &Config, network: &NetworkState) -> BTreeMap<LinkAddress, UpperLink> {
    let Some(uplink) = network.link_named(&config.uplink) else {
        return BTreeMap::new();
    };
    let is_above = |link: &&Link| {
        link.kind == LinkKind::MacVlan && link.lower == Some(uplink.index) && link.up
    };
    let devices = network.links.values().filter(is_above);
    devices
        .filter_map(|link| {
            let address = LinkAddress {
                ifindex: uplink.index,
                mac: link.mac?,
                pad: 0,
            };
            let device = UpperLink {
                ifindex: link.index,
            };
            Some((address, device))
        })
        .take(capacity::LINK_ADDRESSES)
        .collect()
}

/// The ports that any client may get beside the node's own.
fn candidates(reserved: &PortSet) -> impl Iterator<Item = u16> {
    (NatPort::FIRST_USER..=u16::MAX).filter(|&port| !reserved.contains(port))
}

/// How many ports are left to translate connections to, towards each backend's port and on each NAT address that the
/// node itself uses.
#[must_use]
pub fn free_nat_ports(reserved: &PortSet) -> u32 {
    u32::try_from(candidates(reserved).count()).unwrap_or(u32::MAX)
}

/// Which addresses of the pool the node itself does not use: nothing is bound to them, and they are not what the kernel
/// chooses as the source of a connection to a pod.
pub fn exclusive_addresses(
    config: &Config,
    network: &NetworkState,
    reserved: &ReservedPorts,
) -> impl Iterator<Item = bool> {
    let is_source = |address: &Ipv4Addr| {
        let mut routes = network.routes.iter();
        routes.any(|route| route.preferred_source == *address)
    };
    config
        .snat_addresses
        .iter()
        .map(move |address| !reserved.addresses.contains(address) && !is_source(address))
}

fn nat_ports(reserved: &PortSet) -> Vec<NatPort> {
    NatPort::table(&|port| reserved.contains(port)).collect()
}

fn settings(
    config: &Config,
    desired: &DesiredState,
    network: &NetworkState,
    reserved: &ReservedPorts,
) -> Settings {
    let mut snat_addresses = [Ipv4::default(); capacity::SNAT_ADDRESSES];
    for (slot, address) in snat_addresses.iter_mut().zip(&config.snat_addresses) {
        *slot = address.octets();
    }
    let mut flags = 0;
    if config.pass_other_sources {
        flags |= Settings::PASS_OTHERS;
    }
    if config.datapath != Datapath::Stack && has_local_backends(desired, network) {
        flags |= Settings::HAS_LOCAL_BACKENDS;
    }
    let pool = config.snat_addresses.len().min(capacity::SNAT_ADDRESSES);
    let mut settings = Settings {
        authoritative: u8::from(desired.authoritative),
        answer_ping: u8::from(config.answer_ping),
        stack_only: u8::from(config.datapath == Datapath::Stack),
        flags,
        nat_port_count: free_nat_ports(&reserved.ports),
        timeouts: timeouts(&config.timeouts),
        clients: ClientLimits::default(),
        snat_address_count: u16::try_from(pool).unwrap_or_default(),
        exclusive: exclusive_addresses(config, network, reserved)
            .zip(0_u32..)
            .map(|(is_exclusive, index)| u16::from(is_exclusive) << index)
            .sum(),
        snat_addresses,
    };
    settings.clients = config.clients.of(settings.nat_ports());
    settings
}

/// A duration as the tables have it.
#[must_use]
pub fn seconds(duration: Duration) -> Seconds {
    Seconds::try_from(duration.as_secs()).unwrap_or(Seconds::MAX)
}

fn timeouts(configured: &config::Timeouts) -> Timeouts {
    Timeouts {
        tcp_established: seconds(configured.tcp_established),
        tcp_transitory: seconds(configured.tcp_transitory),
        udp: seconds(configured.udp),
        udp_unreplied: seconds(configured.udp_unreplied),
        icmp: seconds(configured.icmp),
    }
}

#[cfg(test)]
mod tests;
