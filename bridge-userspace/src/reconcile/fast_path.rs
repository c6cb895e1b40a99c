//! `routes`, and what XDP needs besides: `next_hops`, `vtep_fdb` and `fast_path`.
//!
//! Programs read these while they are written, and flows keep the number of a next hop as long as the epoch lasts.
//! Hence the order: first the entries that new numbers stand for, then the routes that give these numbers, then the
//! epoch, which has every flow look up its route again. What was given up rests before it is used again ([`Slots`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use aya::Pod;
use aya::maps::{Array, MapData};
use bridge_common::abi::{
    ClusterCidr, Destination, FastPath, NextHop, Route, Seconds, Vtep, capacity, name,
};
use ipnet::Ipv4Net;
use tracing::warn;

use super::changes::Changes;
use super::prefix_table::PrefixTable;
use super::slots::{Number, Slots};
use crate::maps::{TableError, Tables, access};
use crate::plan::map_state::Contents;
use crate::plan::next_hops::Hop;

/// Seconds for which XDP believes next hops after the kernel was last read: the lease. `run` reads the kernel and renews
/// the lease every ten seconds at least.
pub const LEASE: Seconds = 30;

pub(super) struct RouteTables {
    routes: PrefixTable<Route>,
    next_hops: Numbered<NextHop>,
    vteps: Numbered<Vtep>,
    fast_path: Array<MapData, FastPath>,
    applied: FastPath,
    /// Whether flows may have cached what does not hold any more.
    epoch_is_over: bool,
}

impl RouteTables {
    pub(super) fn open(tables: &Tables) -> Result<Self, TableError> {
        let routes: PrefixTable<Route> = PrefixTable::open(tables, name::ROUTES, capacity::ROUTES)?;
        let in_use = routes.applied.values().map(|route| route.next_hop);
        let (next_hops, hops) = Numbered::open(
            tables,
            name::NEXT_HOPS,
            capacity::NEXT_HOPS,
            &in_use.collect(),
        )?;
        let in_use = hops
            .iter()
            .filter_map(|hop: &NextHop| u16::try_from(hop.vtep).ok());
        let (vteps, _) = Numbered::open(
            tables,
            name::VTEP_FDB,
            capacity::VTEP_FDB,
            &in_use.collect(),
        )?;
        let fast_path: Array<MapData, FastPath> = tables.array(name::FAST_PATH)?;
        let applied = fast_path.get(&0, 0).map_err(access(name::FAST_PATH))?;
        Ok(Self {
            // An earlier process may have ended after it gave up numbers and before it said so.
            epoch_is_over: next_hops.slots.may_be_cached(),
            routes,
            next_hops,
            vteps,
            fast_path,
            applied,
        })
    }

    pub(super) fn apply(
        &mut self,
        contents: &Contents,
        read_at: Seconds,
        changes: &mut Changes,
    ) -> Result<(), TableError> {
        let now = Instant::now();
        self.next_hops.take_back(now)?;
        self.vteps.take_back(now)?;

        let mut hops = BTreeSet::new();
        let mut vteps = BTreeSet::new();
        let routes = self.numbered(contents, &mut hops, &mut vteps, changes)?;

        self.epoch_is_over |= self.routes.applied != routes;
        self.routes.apply(&routes, changes)?;
        self.next_hops.slots.keep(&hops);
        self.vteps.slots.keep(&vteps);

        self.apply_fast_path(contents, read_at, now, changes)
    }

    /// The routes with the numbers of their next hops, and all numbers that are in use then.
    fn numbered(
        &mut self,
        contents: &Contents,
        hops: &mut BTreeSet<u16>,
        vteps: &mut BTreeSet<u16>,
        changes: &mut Changes,
    ) -> Result<BTreeMap<Ipv4Net, Route>, TableError> {
        let next_hops = &contents.next_hops;
        let mut routes = contents.routes.clone();
        routes.extend(&next_hops.hosts);
        let mut without_number: usize = 0;
        for (prefix, hop) in &next_hops.hops {
            let Some(route) = routes.get_mut(prefix) else {
                continue;
            };
            let Some((number, vtep)) = self.number(hop, changes)? else {
                without_number += 1;
                continue;
            };
            route.next_hop = number;
            hops.insert(number);
            vteps.extend(vtep);
        }
        if without_number > 0 {
            warn!(
                "{without_number} routes are left to the TC path for some seconds: too many next hops have changed \
                 at once"
            );
        }
        Ok(routes)
    }

    fn number(
        &mut self,
        hop: &Hop,
        changes: &mut Changes,
    ) -> Result<Option<(u16, Option<u16>)>, TableError> {
        let vtep = match &hop.vtep {
            Some(vtep) => match self.vteps.number(*vtep, changes)? {
                None => return Ok(None),
                number => number,
            },
            None => None,
        };
        let next_hop = NextHop {
            vtep: vtep.map_or(0, u32::from),
            ..hop.next_hop
        };
        let number = self.next_hops.number(next_hop, changes)?;
        Ok(number.map(|number| (number, vtep)))
    }

    fn apply_fast_path(
        &mut self,
        contents: &Contents,
        read_at: Seconds,
        now: Instant,
        changes: &mut Changes,
    ) -> Result<(), TableError> {
        let epoch = if self.epoch_is_over || self.applied.epoch == 0 {
            next_epoch(self.applied.epoch)
        } else {
            self.applied.epoch
        };
        let wanted = FastPath {
            epoch,
            valid_until: self.applied.valid_until,
            ports: contents.next_hops.ports,
            tunnels: contents.next_hops.tunnels,
            destinations: destinations(&contents.cluster),
        };
        changes.written += usize::from(wanted != self.applied);
        // To renew the lease is no change of what is forwarded.
        self.applied = FastPath {
            valid_until: read_at.saturating_add(LEASE),
            ..wanted
        };
        self.fast_path
            .set(0, self.applied, 0)
            .map_err(access(name::FAST_PATH))?;
        if self.epoch_is_over {
            self.epoch_is_over = false;
            self.next_hops.slots.caches_are_void(now);
            self.vteps.slots.caches_are_void(now);
        }
        Ok(())
    }
}

/// The prefixes as XDP compares them, the longest first; none if there are too many.
fn destinations(cluster: &BTreeMap<Ipv4Net, ClusterCidr>) -> [Destination; capacity::DESTINATIONS] {
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

/// Its lower 16 bits, which flows keep, are never 0: that is what a new flow has.
fn next_epoch(epoch: u32) -> u32 {
    let next = epoch.wrapping_add(1);
    if next.is_multiple_of(1 << 16) {
        next + 1
    } else {
        next
    }
}

/// An array whose entries have numbers that other tables hold.
struct Numbered<V: Pod> {
    name: &'static str,
    map: Array<MapData, V>,
    slots: Slots<V>,
}

impl<V: Pod + Ord + Default> Numbered<V> {
    /// Opens the table, and tells its entries with `in_use` numbers.
    fn open(
        tables: &Tables,
        name: &'static str,
        capacity: usize,
        in_use: &BTreeSet<u16>,
    ) -> Result<(Self, Vec<V>), TableError> {
        let entries: Vec<(u16, V)> = tables
            .read_all::<u32, V>(name)?
            .into_iter()
            .filter(|(_, value)| *value != V::default())
            .filter_map(|(number, value)| Some((u16::try_from(number).ok()?, value)))
            .collect();
        let used = entries
            .iter()
            .filter(|(number, _)| in_use.contains(number))
            .map(|(_, value)| *value)
            .collect();
        let this = Self {
            name,
            map: tables.array(name)?,
            slots: Slots::new(capacity, entries, in_use),
        };
        Ok((this, used))
    }

    /// The number of an entry with these contents; `None` when there is none left.
    fn number(&mut self, value: V, changes: &mut Changes) -> Result<Option<u16>, TableError> {
        match self.slots.number(value) {
            Number::Known(number) => Ok(Some(number)),
            Number::New(number) => {
                self.map
                    .set(u32::from(number), value, 0)
                    .map_err(access(self.name))?;
                self.slots.take(value, number);
                changes.written += 1;
                Ok(Some(number))
            }
            Number::None => Ok(None),
        }
    }

    fn take_back(&mut self, now: Instant) -> Result<(), TableError> {
        for number in self.slots.take_back(now) {
            self.map
                .set(u32::from(number), V::default(), 0)
                .map_err(access(self.name))?;
        }
        Ok(())
    }
}
