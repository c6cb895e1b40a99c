//! Which routes to ask the kernel for so that the answers hold for whole prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::networks::intersection;

/// One query: the kernel's answer for `address` holds for all of `prefix` that no longer prefix
/// covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RouteQuery {
    /// The part of the network of interest that the route `matched` covers.
    pub(super) prefix: Ipv4Net,
    /// The prefix of the kernel's route.
    pub(super) matched: Ipv4Net,
    /// A destination in `prefix` for which no longer prefix is there.
    pub(super) address: Ipv4Addr,
}

/// The queries for all parts of the networks of interest.
///
/// `tables` are the prefixes of all routing tables, the `local` one included: its entries (own
/// addresses, broadcasts) cut holes into the other prefixes. The default route is asked for
/// even if no table has one, so that "no route" is an answer too. Ascending by prefix.
pub(super) fn route_queries(tables: &BTreeSet<Ipv4Net>, interest: &[Ipv4Net]) -> Vec<RouteQuery> {
    let mut prefixes = tables.clone();
    prefixes.insert(Ipv4Net::default());
    let mut route_queries: BTreeMap<Ipv4Net, RouteQuery> = BTreeMap::new();
    for &interest in interest {
        // In this order everything inside a prefix follows it at once.
        let relevant: Vec<Ipv4Net> = prefixes
            .iter()
            .copied()
            .filter(|prefix| intersection(*prefix, interest).is_some())
            .collect();
        for (index, &matched) in relevant.iter().enumerate() {
            let Some(prefix) = intersection(matched, interest) else {
                continue;
            };
            let longer = relevant[index + 1..]
                .iter()
                .copied()
                .take_while(|other| matched.contains(other));
            if let Some(address) = uncovered(prefix, longer) {
                route_queries.insert(
                    prefix,
                    RouteQuery {
                        prefix,
                        matched,
                        address,
                    },
                );
            }
        }
    }
    route_queries.into_values().collect()
}

/// The lowest address of a prefix that none of the others contains, passing over the network's own
/// address where there is a choice: on a connected network it is a broadcast address
/// (`fib_add_ifaddr` in `net/ipv4/fib_frontend.c`).
fn uncovered(prefix: Ipv4Net, others: impl Iterator<Item = Ipv4Net>) -> Option<Ipv4Addr> {
    let mut holes: Vec<(u32, u32)> = others
        .map(|other| (other.network().into(), other.broadcast().into()))
        .collect();
    holes.sort_unstable();
    let first: u32 = prefix.network().into();
    let last: u32 = prefix.broadcast().into();
    let start = if prefix.prefix_len() < 31 {
        first + 1
    } else {
        first
    };
    let mut candidate = u64::from(start);
    for (from, to) in holes {
        if u64::from(from) > candidate {
            break;
        }
        candidate = candidate.max(u64::from(to) + 1);
    }
    u32::try_from(candidate)
        .ok()
        .filter(|candidate| *candidate <= last)
        .map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ask(tables: &[&str], interest: &[&str]) -> Vec<(String, String, String)> {
        let tables = tables.iter().map(|text| net(text)).collect();
        let interest: Vec<Ipv4Net> = interest.iter().map(|text| net(text)).collect();
        route_queries(&tables, &interest)
            .into_iter()
            .map(|query| {
                (
                    query.prefix.to_string(),
                    query.matched.to_string(),
                    query.address.to_string(),
                )
            })
            .collect()
    }

    fn row(prefix: &str, matched: &str, address: &str) -> (String, String, String) {
        (prefix.to_owned(), matched.to_owned(), address.to_owned())
    }

    #[test]
    fn flannels_routes_are_asked_for_one_by_one_and_the_rest_by_the_default_route() {
        let tables = [
            "0.0.0.0/0",
            "10.60.20.0/24",
            "10.244.1.0/24",
            "10.244.30.0/24",
            // the local table: cni0's own address and broadcasts
            "10.244.30.0/32",
            "10.244.30.1/32",
            "10.244.30.255/32",
        ];
        let route_queries = ask(&tables, &["10.244.0.0/16"]);
        assert_eq!(
            route_queries,
            [
                row("10.244.0.0/16", "0.0.0.0/0", "10.244.0.1"),
                row("10.244.1.0/24", "10.244.1.0/24", "10.244.1.1"),
                row("10.244.30.0/24", "10.244.30.0/24", "10.244.30.2"),
                row("10.244.30.0/32", "10.244.30.0/32", "10.244.30.0"),
                row("10.244.30.1/32", "10.244.30.1/32", "10.244.30.1"),
                row("10.244.30.255/32", "10.244.30.255/32", "10.244.30.255"),
            ]
        );
    }

    #[test]
    fn a_route_that_longer_ones_cover_completely_is_never_asked_for() {
        let route_queries = ask(
            &["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"],
            &["10.0.0.0/8"],
        );
        assert_eq!(
            route_queries,
            [
                row("10.0.0.0/9", "10.0.0.0/9", "10.0.0.1"),
                row("10.128.0.0/9", "10.128.0.0/9", "10.128.0.1"),
            ]
        );
    }

    #[test]
    fn without_any_route_the_question_is_still_asked() {
        assert_eq!(
            ask(&[], &["255.255.255.254/31"]),
            [row("255.255.255.254/31", "0.0.0.0/0", "255.255.255.254")]
        );
    }

    fn any_net() -> impl Strategy<Value = Ipv4Net> {
        // A small corner of the address space, so that prefixes nest often.
        (0u32..256, 24u8..=32).prop_map(|(low, prefix)| {
            Ipv4Net::new_assert(Ipv4Addr::from(0x0af4_0000 | low), prefix).trunc()
        })
    }

    fn longest(prefixes: impl Iterator<Item = Ipv4Net>, address: Ipv4Addr) -> Option<Ipv4Net> {
        prefixes
            .filter(|prefix| prefix.contains(&address))
            .max_by_key(Ipv4Net::prefix_len)
    }

    proptest! {
        #[test]
        fn every_answer_holds_for_every_address_that_matches_it(
            tables in proptest::collection::btree_set(any_net(), 0..12),
            interest in any_net(),
        ) {
            let route_queries = route_queries(&tables, &[interest]);
            let routes = || tables.iter().copied().chain([Ipv4Net::default()]);
            for address in interest.network().into()..=u32::from(interest.broadcast()) {
                let address = Ipv4Addr::from(address);
                let best = longest(route_queries.iter().map(|query| query.prefix), address);
                let Some(best) = best else {
                    // Only a network's own address may be left without one.
                    continue;
                };
                let query = route_queries.iter().find(|query| query.prefix == best).unwrap();
                let kernel = longest(routes(), address);
                if kernel == Some(query.matched) {
                    prop_assert_eq!(longest(routes(), query.address), kernel);
                } else {
                    prop_assert!(routes().any(|route| route.network() == address));
                }
            }
        }
    }
}
