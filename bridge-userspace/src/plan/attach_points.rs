//! Which programs belong on which interfaces: a pure function of the configuration, the cluster's desired state and the
//! kernel's routes and devices.

use std::collections::BTreeSet;

use crate::cluster::DesiredState;
use crate::config::{Config, Datapath};
use crate::datapath::{XdpIncompatibilities, XdpIncompatibility};
use crate::kernel::netlink::{Link, LinkKind, NetworkState, cluster_interfaces};
use crate::model::networks::overlaps;
use crate::model::program::{AttachPoint, AttachPoints, Program};
use crate::plan::map_state::backend_networks;

/// What to attach where; nothing on the uplink while that is missing. `serves_itself` says that services
/// or flows have backends on this node itself.
#[must_use]
pub fn attach_points(
    config: &Config,
    desired: &DesiredState,
    network: &NetworkState,
    serves_itself: bool,
) -> AttachPoints {
    let uplink = network.link_named(&config.uplink);
    let routed: Vec<&Link> = cluster_interfaces(network, &backend_networks(config, desired))
        .into_iter()
        .filter_map(|ifindex| network.links.get(&ifindex))
        // Packets of other devices have no Ethernet header to read past.
        .filter(|link| link.mac.is_some())
        .collect();
    // A pod's packets are met at the bridge's port, before bridge netfilter (`bridge-nf-call-iptables`, on wherever
    // kube-proxy runs) puts fragments together that could not be sent on whole. What the kernel routes to a pod leaves
    // through the bridge itself.
    let is_port = |link: &&Link| {
        routed
            .iter()
            .any(|bridge| bridge.kind == LinkKind::Bridge && link.master == Some(bridge.index))
    };
    let ports = network.links.values().filter(is_port);
    let replies = routed
        .iter()
        .copied()
        .chain(ports)
        // The uplink's own program takes replies too.
        .filter(|link| Some(link.index) != uplink.map(|uplink| uplink.index))
        .map(|link| (Program::ClusterIngress, link));
    let requests = uplink.map(|link| (Program::UplinkIngress, link));
    let local_replies = uplink
        .filter(|_| serves_itself && config.datapath != Datapath::Stack)
        // The program that is there already does both.
        .filter(|uplink| routed.iter().all(|link| link.index != uplink.index))
        .map(|link| (Program::UplinkEgress, link));
    let xdp = xdp_interfaces(config, desired, network)
        .into_iter()
        .map(|link| (Program::XdpFast, link));
    let routed = routed.iter().map(|&link| (Program::ClusterEgress, link));
    replies
        .chain(local_replies)
        .chain(requests)
        .chain(routed)
        .chain(xdp)
        .map(|(program, link)| AttachPoint {
            ifindex: link.index,
            interface: link.name.clone(),
            program,
        })
        .map(|point| (point.key(), point))
        .collect()
}

/// What keeps XDP from being used where it is wanted, whatever the drivers can do.
#[must_use]
pub fn xdp_incompatibilities(
    config: &Config,
    desired: &DesiredState,
    network: &NetworkState,
) -> XdpIncompatibilities {
    xdp_interfaces(config, desired, network)
        .into_iter()
        .filter_map(|link| Some((link.index, XdpIncompatibility::at(link, network)?)))
        .collect()
}

/// Where XDP is wanted: on the uplink and on the NICs by which packets to other nodes leave, in VXLAN or not. Packets to
/// and from local pods are the TC path's.
fn xdp_interfaces<'a>(
    config: &Config,
    desired: &DesiredState,
    network: &'a NetworkState,
) -> Vec<&'a Link> {
    let is_wanted = |link: &&Link| match config.datapath {
        Datapath::Xdp => true,
        Datapath::Auto => !has_unfinished_checksums(link),
        Datapath::Tc | Datapath::Stack => false,
    };
    let uplink = network.link_named(&config.uplink);
    let mut nics: BTreeSet<u32> = uplink.map(|link| link.index).into_iter().collect();
    nics.extend(cluster_nics(config, desired, network));
    nics.iter()
        .filter_map(|ifindex| network.links.get(ifindex))
        .filter(is_wanted)
        .collect()
}

/// Whether packets come in whose checksums their sender has left to a NIC that they never meet. XDP can't tell them from
/// complete ones, and what it makes of them is wrong.
#[must_use]
pub fn has_unfinished_checksums(link: &Link) -> bool {
    link.kind == LinkKind::Veth
}

fn cluster_nics<'a>(
    config: &Config,
    desired: &DesiredState,
    network: &'a NetworkState,
) -> impl Iterator<Item = u32> + 'a {
    let backends = backend_networks(config, desired);
    let interfaces = cluster_interfaces(network, &backends);
    let tunnels = interfaces
        .iter()
        .filter_map(|ifindex| network.links.get(ifindex)?.vxlan);
    let underlying: Vec<u32> = tunnels
        .filter_map(|vxlan| vxlan.underlying)
        .chain(network.underlay.values().map(|way| way.ifindex))
        .collect();
    let native = network
        .routes
        .iter()
        .filter(move |route| {
            interfaces.contains(&route.ifindex)
                && backends
                    .iter()
                    .any(|&network| overlaps(network, route.prefix))
        })
        // A veth without a next hop behind it leads to a pod of this node.
        .filter(|route| {
            route.gateway.is_some()
                || network
                    .links
                    .get(&route.ifindex)
                    .is_some_and(|link| link.kind != LinkKind::Veth)
        })
        .map(|route| route.ifindex);
    underlying.into_iter().chain(native).filter(|ifindex| {
        network.links.get(ifindex).is_some_and(|link| {
            matches!(
                link.kind,
                LinkKind::Veth
                    | LinkKind::Vlan
                    | LinkKind::MacVlan
                    | LinkKind::Bond
                    | LinkKind::Other
            ) && link.master.is_none()
                && link.mac.is_some()
        })
    })
}

#[cfg(test)]
mod tests;
