//! Which interfaces lead to pods.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::state::{LinkKind, NetworkState, Route};
use crate::model::networks::overlaps;

/// The interfaces that carry a route into one of the pod CIDRs: `flannel.1` and `cni0`, or with
/// host-gw the network card towards the workers.
///
/// The default route leads to everything and says nothing about pods, so it only counts for a pod
/// CIDR that no other route leads into.
#[must_use]
pub fn cluster_interfaces(state: &NetworkState, pod_cidrs: &[Ipv4Net]) -> BTreeSet<u32> {
    let mut interfaces = BTreeSet::new();
    for &pods in pod_cidrs {
        let ways = |default: bool| {
            state.routes.iter().filter(move |route| {
                overlaps(route.prefix, pods) && (route.matched.prefix_len() == 0) == default
            })
        };
        let index = |route: &Route| route.ifindex;
        let specific: BTreeSet<u32> = ways(false).map(index).collect();
        if specific.is_empty() {
            interfaces.extend(ways(true).map(index));
        } else {
            interfaces.extend(specific);
        }
    }
    interfaces.retain(|index| {
        state
            .links
            .get(index)
            .is_some_and(|link| link.kind != LinkKind::Loopback)
    });
    interfaces
}

/// The interfaces that the kernel has been given routes to pods by.
///
/// Fewer than [`cluster_interfaces`]: a default route, or one that is wider than a pod CIDR beside others within it, was
/// not made for pods. A program attached by mistake costs a look-up for each packet; this is for what must not be said by
/// mistake.
#[must_use]
pub fn pod_route_interfaces(state: &NetworkState, pod_cidrs: &[Ipv4Net]) -> BTreeSet<u32> {
    let mut interfaces = BTreeSet::new();
    for pods in pod_cidrs {
        let (within, wider): (Vec<&Route>, Vec<&Route>) = state
            .routes
            .iter()
            .filter(|route| route.matched.prefix_len() > 0 && overlaps(route.prefix, *pods))
            .partition(|route| pods.contains(&route.matched));
        let routes = if within.is_empty() { wider } else { within };
        interfaces.extend(routes.iter().map(|route| route.ifindex));
    }
    let mut all = cluster_interfaces(state, pod_cidrs);
    all.retain(|ifindex| interfaces.contains(ifindex));
    all
}
