//! Reading the kernel's state.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::NetlinkError;
use super::neighbours::{along, fdb, needed, neighbours};
use super::offloads::strips_tags;
use super::routes::{RouteQuery, route_queries};
use super::stacking::taker_of_tags;
use super::state::{Fdb, FdbEntry};
use super::state::{InterfaceAddress, Link, LinkKind, NetworkState, Route};
use super::vxlan::{Defaults, Vxlan};
use crate::model::networks::longest_prefix;

/// What was read, and what it takes to read parts of it again.
pub(super) struct Reading {
    pub(super) state: NetworkState,
    /// The prefixes of all routing tables.
    tables: BTreeSet<Ipv4Net>,
}

impl Reading {
    /// Reads everything: links, addresses, the routes into the networks of interest, and who is met along them.
    ///
    /// # Errors
    /// When the kernel refuses a dump, or the connection behind the handle is gone.
    pub(super) async fn take(handle: &Handle, interest: &[Ipv4Net]) -> Result<Self, NetlinkError> {
        let links = links(handle).await?;
        let addresses = addresses(handle).await?;
        let tables = prefixes(handle).await?;
        let mut routes = Vec::new();
        let mut unreachable = Vec::new();
        let mut local = Vec::new();
        for query in route_queries(&tables, interest) {
            match ask(handle, &links, query).await? {
                RouteReply::Unicast(route) => routes.push(route),
                RouteReply::Unreachable => unreachable.push(query.prefix),
                RouteReply::Local => local.push(query.prefix),
            }
        }
        let state = NetworkState {
            links,
            routes,
            unreachable,
            local,
            addresses,
            ..NetworkState::default()
        };
        Self { state, tables }.with_neighbours(handle).await
    }

    /// Reads neighbours and FDBs again, and what is the way to remote tunnel ends that were not known; links and routes
    /// stay as they were read.
    ///
    /// # Errors
    /// As for [`Reading::take`].
    pub(super) async fn with_neighbours(mut self, handle: &Handle) -> Result<Self, NetlinkError> {
        let state = &mut self.state;
        let all = neighbours(handle).await?;
        let over_vxlan = |route: &&Route| {
            let link = state.links.get(&route.ifindex);
            link.is_some_and(|link| link.vxlan.is_some())
        };
        let fdb = if state.routes.iter().any(|route| over_vxlan(&route)) {
            let inner = along(state.routes.iter().filter(over_vxlan), &state.links, &all);
            needed(fdb(handle, &state.links).await?, &inner)
        } else {
            Fdb::new()
        };
        let remotes: BTreeSet<Ipv4Addr> = fdb
            .values()
            .filter_map(|entry| match entry {
                FdbEntry::Remote(remote) => Some(remote.address),
                FdbEntry::Other => None,
            })
            .collect();
        let mut underlay = std::mem::take(&mut state.underlay);
        underlay.retain(|remote, _| remotes.contains(remote));
        let new = remotes
            .iter()
            .filter(|remote| !underlay.contains_key(remote));
        let new = routes_to(handle, &state.links, &self.tables, new).await?;
        underlay.extend(new);
        let routes = state.routes.iter().chain(underlay.values());
        state.neighbours = along(routes, &state.links, &all);
        state.fdb = fdb;
        state.underlay = underlay;
        Ok(self)
    }
}

/// The ways to single hosts. Those that the same prefix of the routing tables covers have the same one.
async fn routes_to(
    handle: &Handle,
    links: &BTreeMap<u32, Link>,
    tables: &BTreeSet<Ipv4Net>,
    hosts: impl Iterator<Item = &Ipv4Addr>,
) -> Result<BTreeMap<Ipv4Addr, Route>, NetlinkError> {
    let mut answers: BTreeMap<Ipv4Net, Option<Route>> = BTreeMap::new();
    let mut ways = BTreeMap::new();
    for &host in hosts {
        let matched = longest_prefix(host, |prefix| tables.contains(prefix)).unwrap_or_default();
        let prefix = Ipv4Net::from(host);
        let answer = match answers.entry(matched) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let query = RouteQuery {
                    prefix,
                    matched,
                    address: host,
                };
                let answer = ask(handle, links, query).await?;
                unknown.insert(match answer {
                    RouteReply::Unicast(route) => Some(route),
                    RouteReply::Unreachable | RouteReply::Local => None,
                })
            }
        };
        if let Some(route) = answer {
            let route = Route {
                prefix,
                ..route.clone()
            };
            ways.insert(host, route);
        }
    }
    Ok(ways)
}

async fn links(handle: &Handle) -> Result<BTreeMap<u32, Link>, NetlinkError> {
    let defaults = Defaults::read()?;
    let messages: Vec<LinkMessage> =
        handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::Request {
                what: "links",
                error,
            })?;
    let mut links: BTreeMap<u32, Link> = messages
        .into_iter()
        .map(|message| (message.header.index, link(message, defaults)))
        .collect();
    let below_tags: Vec<u32> = links
        .values()
        // A veth has no say in it: tags are where the other end has put them.
        .filter(|link| link.kind != LinkKind::Veth)
        .map(|link| link.index)
        .filter(|&ifindex| taker_of_tags(&links, ifindex).is_some())
        .collect();
    for ifindex in below_tags {
        if let Some(link) = links.get_mut(&ifindex) {
            link.strips_tags = strips_tags(&link.name).await;
        }
    }
    Ok(links)
}

fn link(message: LinkMessage, defaults: Defaults) -> Link {
    let header = message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mtu: 0,
        kind: if header.link_layer_type == LinkLayerType::Loopback {
            LinkKind::Loopback
        } else {
            LinkKind::Other
        },
        mac: None,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        vxlan: None,
        master: None,
        lower: None,
        takes_tags: false,
        strips_tags: Vec::new(),
    };
    let mut lower = None;
    let mut is_elsewhere = false;
    let mut is_stacked = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Link(ifindex) => lower = Some(ifindex),
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = address.try_into().ok();
            }
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => {
                            link.kind = link_kind(&kind);
                            link.takes_tags |= takes_tags(&kind);
                            is_stacked = is_stacked_kind(&kind);
                        }
                        LinkInfo::Data(InfoData::Bridge(parameters)) => {
                            link.takes_tags |=
                                parameters.contains(&InfoBridge::VlanFiltering(true));
                        }
                        LinkInfo::Data(InfoData::Vxlan(parameters)) => {
                            link.vxlan = Some(Vxlan::new(&parameters, defaults));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.lower = lower.filter(|_| is_stacked && !is_elsewhere);
    link
}

/// Whether the device is one of those that live on another's packets. `IFLA_LINK` of others is a veth's peer, or what a
/// tunnel sends through.
fn is_stacked_kind(kind: &InfoKind) -> bool {
    matches!(
        kind,
        InfoKind::Vlan
            | InfoKind::MacVlan
            | InfoKind::MacVtap
            | InfoKind::IpVlan
            | InfoKind::IpVtap
            | InfoKind::MacSec
    )
}

fn takes_tags(kind: &InfoKind) -> bool {
    matches!(kind, InfoKind::Vlan) || matches!(kind, InfoKind::Other(name) if name == "openvswitch")
}

/// What kind of device these attributes are of.
pub(super) fn kind(attributes: &[LinkAttribute]) -> LinkKind {
    attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })
        .flatten()
        .find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(link_kind(kind)),
            _ => None,
        })
        .unwrap_or(LinkKind::Other)
}

fn link_kind(kind: &InfoKind) -> LinkKind {
    match kind {
        InfoKind::Vxlan => LinkKind::Vxlan,
        InfoKind::Geneve => LinkKind::Geneve,
        InfoKind::Wireguard => LinkKind::Wireguard,
        InfoKind::IpIp
        | InfoKind::GreTun
        | InfoKind::GreTap
        | InfoKind::SitTun
        | InfoKind::Ip6Tnl
        | InfoKind::GreTun6
        | InfoKind::GreTap6 => LinkKind::IpTunnel,
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::Veth => LinkKind::Veth,
        InfoKind::Vlan => LinkKind::Vlan,
        InfoKind::MacVlan => LinkKind::MacVlan,
        InfoKind::Bond => LinkKind::Bond,
        _ => LinkKind::Other,
    }
}

async fn addresses(handle: &Handle) -> Result<Vec<InterfaceAddress>, NetlinkError> {
    let mut messages = handle.address().get().execute();
    let mut addresses = Vec::new();
    while let Some(message) = messages
        .try_next()
        .await
        .map_err(|error| NetlinkError::Request {
            what: "addresses",
            error,
        })?
    {
        if message.header.family != AddressFamily::Inet {
            continue;
        }
        // `Local` is the host's own address; `Address` is the peer's on point-to-point links.
        let local = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
        if let Some(address) = local {
            addresses.push(InterfaceAddress {
                ifindex: message.header.index,
                address,
                prefix_len: message.header.prefix_len,
            });
        }
    }
    // The kernel lists an interface's primary address first: a stable sort keeps that.
    addresses.sort_by_key(|address| address.ifindex);
    Ok(addresses)
}

/// The prefixes of all IPv4 routing tables.
async fn prefixes(handle: &Handle) -> Result<BTreeSet<Ipv4Net>, NetlinkError> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut messages = handle.route().get(all).execute();
    let mut prefixes = BTreeSet::new();
    while let Some(message) = messages
        .try_next()
        .await
        .map_err(|error| NetlinkError::Request {
            what: "routes",
            error,
        })?
    {
        let destination = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
                _ => None,
            });
        let prefix = Ipv4Net::new(
            destination.unwrap_or(Ipv4Addr::UNSPECIFIED),
            message.header.destination_prefix_length,
        );
        if let Ok(prefix) = prefix {
            prefixes.insert(prefix);
        }
    }
    Ok(prefixes)
}

enum RouteReply {
    Unicast(Route),
    Unreachable,
    /// The address is the host's own, or a broadcast address.
    Local,
}

async fn ask(
    handle: &Handle,
    links: &BTreeMap<u32, Link>,
    query: RouteQuery,
) -> Result<RouteReply, NetlinkError> {
    let request = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(query.address, 32)
        .build();
    let message = match handle.route().get(request).execute().try_next().await {
        Ok(Some(message)) => message,
        // The kernel answers with what a sender would get: ENETUNREACH, EHOSTUNREACH, EACCES,
        // EINVAL (`fib_props` in net/ipv4/fib_semantics.c).
        Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(RouteReply::Unreachable),
        Err(error) => {
            return Err(NetlinkError::Request {
                what: "route to an address",
                error,
            });
        }
    };
    Ok(answer(&message, links, query))
}

fn answer(message: &RouteMessage, links: &BTreeMap<u32, Link>, query: RouteQuery) -> RouteReply {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return RouteReply::Local;
        }
        _ => return RouteReply::Unreachable,
    }
    if message
        .header
        .flags
        .intersects(RouteFlags::Dead | RouteFlags::Linkdown)
    {
        return RouteReply::Unreachable;
    }
    let mut ifindex = None;
    let mut gateway = None;
    let mut preferred_source = None;
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                preferred_source = Some(*address);
            }
            // An IPv6 next hop has no IPv4 neighbour entry to send to.
            RouteAttribute::Via(_) => return RouteReply::Unreachable,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let (Some(link), Some(preferred_source)) = (
        ifindex.and_then(|index| links.get(&index)),
        preferred_source,
    ) else {
        return RouteReply::Unreachable;
    };
    if !link.up || !link.carrier {
        return RouteReply::Unreachable;
    }
    RouteReply::Unicast(Route {
        prefix: query.prefix,
        matched: query.matched,
        ifindex: link.index,
        gateway,
        preferred_source,
        mtu: mtu.unwrap_or(link.mtu),
        tunnel: link.kind.is_tunnel(),
    })
}
