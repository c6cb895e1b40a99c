//! Where the default route is no way to pods.
//!
//! A piece of a pod network that only the default route covers has no pods if another route leads into the network: sent
//! there, a packet would come back from the office router until its TTL ends. A network that such a route has led into and
//! leads no more has lost its way for a moment, as while a tunnel is made anew; the source that replies come home to is
//! gone with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::kernel::netlink::{NetworkState, Route};
use crate::model::networks::overlaps;

/// Pod networks that another route than the default one has led into, for as long as they are the cluster's.
#[derive(Debug, Default)]
pub struct PodRouteGuard(BTreeSet<Ipv4Net>);

const fn is_default(route: &Route) -> bool {
    route.matched.prefix_len() == 0
}

impl PodRouteGuard {
    /// Notes the ways that there are now, and gives the network with what the default route only stands in for as
    /// unreachable.
    pub fn settle(
        &mut self,
        pods: &BTreeSet<Ipv4Net>,
        network: Arc<NetworkState>,
    ) -> Arc<NetworkState> {
        self.0.retain(|pod| pods.contains(pod));
        let has_way = |pod: &&Ipv4Net| {
            let mut routes = network.routes.iter();
            routes.any(|route| !is_default(route) && overlaps(route.prefix, **pod))
        };
        let more: Vec<Ipv4Net> = pods.difference(&self.0).filter(has_way).copied().collect();
        self.0.extend(more);
        let stands_in = |route: &Route| {
            is_default(route) && self.0.iter().any(|pod| pod.contains(&route.prefix))
        };
        if !network.routes.iter().any(stands_in) {
            return network;
        }
        let mut network = Arc::unwrap_or_clone(network);
        let (lost, kept) = network.routes.into_iter().partition(stands_in);
        network.routes = kept;
        let lost: Vec<Route> = lost;
        network
            .unreachable
            .extend(lost.iter().map(|route| route.prefix));
        network.unreachable.sort_unstable();
        Arc::new(network)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn pods() -> BTreeSet<Ipv4Net> {
        BTreeSet::from([net("10.244.1.0/24"), net("10.244.2.0/24")])
    }

    /// Routes as the network of interest and the kernel's prefix that it is covered by.
    fn network(routes: &[(&str, &str)]) -> Arc<NetworkState> {
        Arc::new(NetworkState {
            routes: routes
                .iter()
                .map(|(prefix, matched)| Route {
                    prefix: net(prefix),
                    matched: net(matched),
                    ifindex: 2,
                    gateway: None,
                    preferred_source: Ipv4Addr::new(10, 60, 20, 30),
                    mtu: 1500,
                    tunnel: false,
                })
                .collect(),
            ..NetworkState::default()
        })
    }

    fn by_the_tunnel() -> Arc<NetworkState> {
        network(&[
            ("10.244.1.0/24", "10.244.1.0/24"),
            ("10.244.2.0/24", "10.244.2.0/24"),
        ])
    }

    fn by_default() -> Arc<NetworkState> {
        network(&[
            ("10.244.1.0/24", "0.0.0.0/0"),
            ("10.244.2.0/24", "0.0.0.0/0"),
        ])
    }

    #[test]
    fn where_the_default_route_has_always_been_the_way_it_is_one() {
        let mut guard = PodRouteGuard::default();
        assert_eq!(guard.settle(&pods(), by_default()), by_default());
    }

    #[test]
    fn pieces_that_no_other_route_covers_have_no_pods() {
        let pods = BTreeSet::from([net("10.244.0.0/16")]);
        let one_node = network(&[
            ("10.244.0.0/16", "0.0.0.0/0"),
            ("10.244.1.0/24", "10.244.1.0/24"),
            ("192.168.0.0/22", "0.0.0.0/0"),
        ]);
        let settled = PodRouteGuard::default().settle(&pods, one_node.clone());
        assert_eq!(settled.routes, one_node.routes[1..]);
        assert_eq!(settled.unreachable, [net("10.244.0.0/16")]);
    }

    #[test]
    fn the_default_route_does_not_stand_in_for_a_tunnel() {
        let mut guard = PodRouteGuard::default();
        assert_eq!(guard.settle(&pods(), by_the_tunnel()), by_the_tunnel());
        let away = guard.settle(&pods(), by_default());
        assert!(away.routes.is_empty(), "{:?}", away.routes);
        assert_eq!(
            away.unreachable,
            [net("10.244.1.0/24"), net("10.244.2.0/24")]
        );
        assert_eq!(guard.settle(&pods(), by_the_tunnel()), by_the_tunnel());
    }

    #[test]
    fn each_network_is_judged_by_itself() {
        let mut guard = PodRouteGuard::default();
        let local = [
            ("10.244.1.0/24", "10.244.1.0/24"),
            ("10.244.2.0/24", "0.0.0.0/0"),
        ];
        assert_eq!(guard.settle(&pods(), network(&local)), network(&local));
        let away = guard.settle(&pods(), by_default());
        assert_eq!(away.routes, by_default().routes[1..]);
        assert_eq!(away.unreachable, [net("10.244.1.0/24")]);
    }

    #[test]
    fn a_network_that_was_the_clusters_is_forgotten() {
        let mut guard = PodRouteGuard::default();
        guard.settle(&pods(), by_the_tunnel());
        guard.settle(&BTreeSet::new(), network(&[]));
        assert_eq!(guard.settle(&pods(), by_default()), by_default());
    }
}
