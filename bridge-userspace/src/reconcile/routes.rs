//! `routes`, and what XDP needs besides: `next_hops`, `vtep_fdb` and `fast_path`.
//!
//! Programs read these while they are written, and flows keep the number of a next hop as long as the epoch lasts.
//! Hence the order: first the entries that new numbers stand for, then the routes that give these numbers, then the
//! epoch, which has every flow look up its route again. Retired numbers stay in [quarantine](super::numbers) before they
//! are used again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bridge_common::abi::{
    ClusterCidr, Destination, FastPath, NextHop, Route, Seconds, Vtep, capacity, name,
};
use ipnet::Ipv4Net;

use super::applied::Applied;
use super::numbers::{Allocation, NumberAllocator};
use super::prefixes::PrefixTable;
use super::write::Write;
use crate::maps::TableError;
use crate::plan::map_state::MapState;
use crate::plan::next_hops::Hop;

/// Seconds for which XDP believes next hops after the kernel was last read: the lease. `run` reads the kernel and renews
/// the lease every ten seconds at least.
pub const LEASE: Seconds = 30;

/// The writes, and what they lead to.
#[derive(Debug)]
pub(super) struct RouteDiff {
    pub(super) writes: Vec<Write>,
    /// `fast_path` when they are done. Its destinations are the applied ones still, as they make packets ours.
    pub(super) fast_path: FastPath,
    /// Routes whose next hops got no number: XDP leaves them to the TC path.
    pub(super) without_number: usize,
}

/// What makes the wanted routes and next hops of the applied ones, in order. `read_at` is when the kernel was last read.
///
/// # Errors
/// When there are more routes than fit.
pub(super) fn diff(
    applied: &Applied,
    wanted: &MapState,
    read_at: Seconds,
    now: Instant,
) -> Result<RouteDiff, TableError> {
    let hops = applied.retired_hops.reclaimable(now);
    let vteps = applied.retired_vteps.reclaimable(now);
    let mut writes: Vec<Write> = hops.iter().copied().map(Write::ClearNextHop).collect();
    writes.extend(vteps.iter().copied().map(Write::ClearVtep));

    let mut numbers = Numbers::new(applied, &hops, &vteps);
    let mut without_number = 0;
    let next_hops = &wanted.next_hops;
    let mut routes = wanted.routes.clone();
    routes.extend(&next_hops.hosts);
    for (prefix, hop) in &next_hops.hops {
        let Some(route) = routes.get_mut(prefix) else {
            continue;
        };
        match numbers.next_hop(hop) {
            Some(number) => route.next_hop = number,
            None => without_number += 1,
        }
    }
    writes.append(&mut numbers.writes);

    let table = PrefixTable {
        name: name::ROUTES,
        capacity: capacity::ROUTES,
        insert: |prefix, route: Route| Write::Route { prefix, route },
        remove: Write::RemoveRoute,
    };
    let changed = table.diff(&applied.tables.routes, &routes)?;
    let epoch_is_over = applied.epoch_is_stale || !changed.is_empty();
    writes.extend(changed);

    let fast_path = FastPath {
        epoch: match applied.tables.fast_path.epoch {
            epoch if epoch_is_over || epoch == 0 => next_epoch(epoch),
            epoch => epoch,
        },
        valid_until: read_at.saturating_add(LEASE),
        ports: next_hops.ports,
        tunnels: next_hops.tunnels,
        destinations: applied.tables.fast_path.destinations,
    };
    if fast_path != applied.tables.fast_path {
        writes.push(Write::FastPath(Box::new(fast_path)));
    }
    Ok(RouteDiff {
        writes,
        fast_path,
        without_number,
    })
}

/// The prefixes as XDP compares them, the longest first; none if there are too many.
pub(super) fn destinations(
    cluster: &BTreeMap<Ipv4Net, ClusterCidr>,
) -> [Destination; capacity::DESTINATIONS] {
    let mut destinations = [Destination::default(); capacity::DESTINATIONS];
    if cluster.len() > destinations.len() {
        return destinations;
    }
    let mut prefixes: Vec<_> = cluster.iter().collect();
    prefixes.sort_by_key(|(prefix, _)| Reverse(prefix.prefix_len()));
    for (destination, (prefix, cidr)) in destinations.iter_mut().zip(prefixes) {
        *destination = Destination {
            network: prefix.network().octets(),
            mask: prefix.netmask().octets(),
            kind: cidr.kind,
        };
    }
    destinations
}

/// The numbers of next hops and VTEPs.
struct Numbers {
    next_hops: NumberAllocator<NextHop>,
    vteps: NumberAllocator<Vtep>,
    writes: Vec<Write>,
}

impl Numbers {
    /// The numbers that are there, less the reclaimed ones.
    fn new(
        applied: &Applied,
        reclaimed_hops: &BTreeSet<u16>,
        reclaimed_vteps: &BTreeSet<u16>,
    ) -> Self {
        let tables = &applied.tables;
        let hops_in_use = tables.next_hops_in_use();
        let vteps_in_use = tables.vteps_in_use(&hops_in_use);
        Self {
            next_hops: NumberAllocator::new(
                capacity::NEXT_HOPS,
                remaining(&tables.next_hops, reclaimed_hops),
                &hops_in_use,
            ),
            vteps: NumberAllocator::new(
                capacity::VTEP_FDB,
                remaining(&tables.vteps, reclaimed_vteps),
                &vteps_in_use,
            ),
            writes: Vec::new(),
        }
    }

    /// The number of a next hop; `None` where there is none left.
    fn next_hop(&mut self, hop: &Hop) -> Option<u16> {
        let vtep = match hop.vtep {
            Some(vtep) => self.vtep(vtep)?,
            None => 0,
        };
        let next_hop = NextHop {
            vtep: u32::from(vtep),
            ..hop.next_hop
        };
        match self.next_hops.allocate(next_hop) {
            Allocation::Known(number) => Some(number),
            Allocation::New(number) => {
                self.writes.push(Write::NextHop { number, next_hop });
                Some(number)
            }
            Allocation::Exhausted => None,
        }
    }

    fn vtep(&mut self, vtep: Vtep) -> Option<u16> {
        match self.vteps.allocate(vtep) {
            Allocation::Known(number) => Some(number),
            Allocation::New(number) => {
                self.writes.push(Write::Vtep { number, vtep });
                Some(number)
            }
            Allocation::Exhausted => None,
        }
    }
}

fn remaining<'a, V: Copy>(
    entries: &'a BTreeMap<u16, V>,
    reclaimed: &'a BTreeSet<u16>,
) -> impl Iterator<Item = (u16, V)> + Clone {
    entries
        .iter()
        .filter(|(number, _)| !reclaimed.contains(number))
        .map(|(number, value)| (*number, *value))
}

/// Its lower 16 bits, which flows keep, are never 0: that is what a new flow has.
fn next_epoch(epoch: u32) -> u32 {
    let next = epoch.wrapping_add(1);
    if next.is_multiple_of(1 << 16) {
        next + 1
    } else {
        next
    }
}
