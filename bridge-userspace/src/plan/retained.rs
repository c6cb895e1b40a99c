//! What was ours, is no longer asked for, and still carries flows: a network or an address that vanishes and comes back
//! ends nothing, and one that is gone for good is given up when nobody uses it any more.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bridge_common::abi::{Seconds, since};
use ipnet::Ipv4Net;

use crate::cluster::{CidrKind, ClusterCidr, DesiredState};
use crate::conntrack::in_use::InUse;
use crate::model::networks::overlaps;

/// For how long something is kept without a question where flows are looked at in turns: by then it is known whether they
/// use it.
pub const SETTLE: Seconds = 12;

/// What is kept although nobody asks for it, and since when.
#[derive(Debug)]
pub struct Retained<K> {
    since: BTreeMap<K, Seconds>,
}

impl<K> Default for Retained<K> {
    fn default() -> Self {
        Self {
            since: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> Retained<K> {
    /// What of `before`, as it was in force until now, stays beside what is wanted: for `settle` seconds everything, and
    /// then what flows use.
    pub fn keep(
        &mut self,
        before: impl IntoIterator<Item = K>,
        is_wanted: impl Fn(&K) -> bool,
        mut is_in_use: impl FnMut(&K) -> bool,
        settle: Seconds,
        now: Seconds,
    ) -> Vec<K> {
        let mut kept = BTreeMap::new();
        for key in before {
            if is_wanted(&key) {
                continue;
            }
            let begun = self.since.get(&key).copied().unwrap_or(now);
            if since(now, begun) < settle || is_in_use(&key) {
                kept.insert(key, begun);
            }
        }
        self.since = kept;
        self.since.keys().copied().collect()
    }
}

/// The networks of a cluster that are kept.
pub type RetainedNetworks = Retained<(CidrKind, Ipv4Net)>;

impl RetainedNetworks {
    /// `announced` and those networks of `before` that flows use, by what `in_use` says if it is asked. None is kept that
    /// contradicts an announced one or the office, or that lies in one of its kind. One in which others of its kind lie
    /// is kept for the rest of it: single cluster IPs are announced when the network around them has vanished.
    pub fn complete(
        &mut self,
        before: &DesiredState,
        announced: &Arc<DesiredState>,
        office: &[Ipv4Net],
        in_use: impl FnOnce() -> InUse,
        now: Seconds,
    ) -> Arc<DesiredState> {
        let key = |cidr: &ClusterCidr| (cidr.kind, cidr.cidr);
        let stands_against = |cidr: &ClusterCidr, (kind, network): (CidrKind, Ipv4Net)| {
            cidr.cidr.contains(&network) || (cidr.kind != kind && overlaps(cidr.cidr, network))
        };
        let is_wanted = |&(kind, network): &(CidrKind, Ipv4Net)| {
            let mut cidrs = announced.cidrs.iter();
            cidrs.any(|cidr| stands_against(cidr, (kind, network)))
                || office.iter().any(|office| overlaps(*office, network))
        };
        let is_announced = |address: &Ipv4Addr| {
            let mut cidrs = announced.cidrs.iter();
            cidrs.any(|cidr| cidr.cidr.contains(address))
        };
        let mut ask = Some(in_use);
        let mut asked = InUse::default();
        let is_in_use = |&(_, network): &(CidrKind, Ipv4Net)| {
            if let Some(ask) = ask.take() {
                asked = ask();
            }
            asked
                .destinations
                .iter()
                .chain(&asked.backends)
                .any(|address| network.contains(address) && !is_announced(address))
        };
        let kept = self.keep(before.cidrs.iter().map(key), is_wanted, is_in_use, 0, now);
        if kept.is_empty() {
            return Arc::clone(announced);
        }
        let mut cidrs = announced.cidrs.clone();
        cidrs.extend(
            before
                .cidrs
                .iter()
                .filter(|cidr| kept.contains(&key(cidr)))
                .map(|cidr| ClusterCidr {
                    source: format!("{} {GONE}", cidr.source.trim_end_matches(GONE).trim_end()),
                    ..cidr.clone()
                }),
        );
        cidrs.sort();
        Arc::new(DesiredState {
            cidrs,
            ..DesiredState::clone(announced)
        })
    }
}

/// How the source of a network is shown that is kept.
const GONE: &str = "(gone; kept for its flows)";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: Seconds = 1_000;

    fn state(networks: &[(CidrKind, &str)]) -> Arc<DesiredState> {
        let cidr = |&(kind, network): &(CidrKind, &str)| ClusterCidr {
            kind,
            cidr: network.parse().unwrap(),
            source: "Node a".to_owned(),
        };
        Arc::new(DesiredState {
            cidrs: networks.iter().map(cidr).collect(),
            ..DesiredState::default()
        })
    }

    fn used(destination: &str) -> InUse {
        InUse {
            destinations: HashSet::from([destination.parse().unwrap()]),
            ..InUse::default()
        }
    }

    fn shown(state: &DesiredState) -> Vec<String> {
        let cidrs = state.cidrs.iter();
        cidrs
            .map(|cidr| format!("{} {}", cidr.cidr, cidr.source))
            .collect()
    }

    #[test]
    fn a_network_stays_as_long_as_flows_use_it() {
        let before = state(&[(CidrKind::Pod, "10.244.1.0/24")]);
        let gone = state(&[]);
        let mut retained = RetainedNetworks::default();
        let kept = retained.complete(&before, &gone, &[], || used("10.244.1.5"), NOW);
        let row = "10.244.1.0/24 Node a (gone; kept for its flows)";
        assert_eq!(shown(&kept), [row]);
        let later = NOW + 1_000;
        let kept = retained.complete(&kept, &gone, &[], || used("10.244.1.5"), later);
        assert_eq!(shown(&kept), [row]);
        let kept = retained.complete(&kept, &gone, &[], || used("10.244.2.5"), later);
        assert!(kept.cidrs.is_empty());
    }

    #[test]
    fn what_is_looked_at_in_turns_is_kept_until_the_next() {
        let mut retained = Retained::default();
        let mut keep = |now| retained.keep([1], |_| false, |_| false, SETTLE, now);
        assert_eq!(keep(NOW), [1]);
        assert_eq!(keep(NOW + SETTLE - 1), [1]);
        assert!(keep(NOW + SETTLE).is_empty());
    }

    #[test]
    fn one_that_comes_back_is_as_it_was() {
        let before = state(&[(CidrKind::Service, "10.96.0.0/12")]);
        let mut retained = RetainedNetworks::default();
        let kept = retained.complete(&before, &state(&[]), &[], || used("10.96.0.1"), NOW);
        let back = retained.complete(&kept, &before, &[], InUse::default, NOW + 1);
        assert_eq!(back, before);
        assert!(retained.since.is_empty());
    }

    #[test]
    fn one_around_single_addresses_is_kept_for_the_others() {
        let before = state(&[(CidrKind::Service, "10.96.0.0/12")]);
        let single = state(&[(CidrKind::Service, "10.96.0.1/32")]);
        let mut retained = RetainedNetworks::default();
        let kept = retained.complete(&before, &single, &[], || used("10.96.7.7"), NOW);
        let row = "10.96.0.0/12 Node a (gone; kept for its flows)";
        assert_eq!(shown(&kept), [row, "10.96.0.1/32 Node a"]);
        let given_up = retained.complete(&kept, &single, &[], || used("10.96.0.1"), NOW);
        assert_eq!(given_up, single);
    }

    #[test]
    fn none_is_kept_against_another() {
        let before = state(&[(CidrKind::Pod, "10.244.1.0/24")]);
        let mut retained = RetainedNetworks::default();
        for (announced, office) in [
            (state(&[(CidrKind::Pod, "10.244.0.0/16")]), None),
            (state(&[(CidrKind::Service, "10.244.1.0/28")]), None),
            (state(&[]), Some("10.244.0.0/16".parse().unwrap())),
        ] {
            let office: Vec<Ipv4Net> = office.into_iter().collect();
            let now = retained.complete(&before, &announced, &office, || used("10.244.1.5"), NOW);
            assert_eq!(now, announced);
        }
    }
}
