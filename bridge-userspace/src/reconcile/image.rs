//! What the tables hold, as userspace knows it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bridge_common::abi::{
    Backend, BackendKey, ClusterCidr, FastPath, LinkAddress, NatPort, NextHop, OfficeCidr, Route,
    Service, ServiceKey, Settings, UpperLink, Vtep,
};
use ipnet::Ipv4Net;

use super::write::Write;
use crate::maps::BackendLists;

/// The tables that userspace fills. `affinity`, which the datapath fills, is not among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Image {
    pub(super) settings: Settings,
    /// By port number.
    pub(super) nat_ports: Vec<NatPort>,
    pub(super) routes: BTreeMap<Ipv4Net, Route>,
    /// Entries that are not empty.
    pub(super) next_hops: BTreeMap<u16, NextHop>,
    /// Entries that are not empty.
    pub(super) vteps: BTreeMap<u16, Vtep>,
    pub(super) fast_path: FastPath,
    pub(super) services: BTreeMap<ServiceKey, Service>,
    /// None of the lists is empty.
    pub(super) backends: BackendLists,
    pub(super) cluster: BTreeMap<Ipv4Net, ClusterCidr>,
    pub(super) office: BTreeMap<Ipv4Net, OfficeCidr>,
    pub(super) link_addresses: BTreeMap<LinkAddress, UpperLink>,
}

impl Image {
    /// Changes the image as `write` changes the tables.
    pub(super) fn record(&mut self, write: &Write) {
        match write {
            Write::Settings(settings) => self.settings = **settings,
            Write::NatPort { index, port } => {
                if let Some(entry) = self.nat_ports.get_mut(*index as usize) {
                    *entry = *port;
                }
            }
            Write::Vtep { number, vtep } => drop(self.vteps.insert(*number, *vtep)),
            Write::ClearVtep(number) => drop(self.vteps.remove(number)),
            Write::NextHop { number, next_hop } => {
                self.next_hops.insert(*number, *next_hop);
            }
            Write::ClearNextHop(number) => drop(self.next_hops.remove(number)),
            Write::Route { prefix, route } => drop(self.routes.insert(*prefix, *route)),
            Write::RemoveRoute(prefix) => drop(self.routes.remove(prefix)),
            Write::FastPath(fast_path) => self.fast_path = **fast_path,
            Write::Backend { key, backend } => {
                let list = self.backends.entry(key.service_id).or_default();
                list.insert(key.slot, *backend);
            }
            Write::RemoveBackend(key) => self.remove_backend(*key),
            Write::Service { key, service } => drop(self.services.insert(*key, *service)),
            Write::RemoveService(key) => drop(self.services.remove(key)),
            Write::RemoveAffinity(_) => {}
            Write::ClusterCidr { prefix, cidr } => drop(self.cluster.insert(*prefix, *cidr)),
            Write::RemoveClusterCidr(prefix) => drop(self.cluster.remove(prefix)),
            Write::OfficeCidr { prefix, cidr } => drop(self.office.insert(*prefix, *cidr)),
            Write::RemoveOfficeCidr(prefix) => drop(self.office.remove(prefix)),
            Write::LinkAddress { address, device } => {
                self.link_addresses.insert(*address, *device);
            }
            Write::RemoveLinkAddress(address) => drop(self.link_addresses.remove(address)),
        }
    }

    /// The backend list with this id, in the order of its slots.
    pub(super) fn list(&self, id: u32) -> impl Iterator<Item = (BackendKey, Backend)> {
        let list = self.backends.get(&id).into_iter().flatten();
        list.map(move |(slot, backend)| {
            let key = BackendKey {
                service_id: id,
                slot: *slot,
            };
            (key, *backend)
        })
    }

    fn remove_backend(&mut self, key: BackendKey) {
        if let Entry::Occupied(mut list) = self.backends.entry(key.service_id) {
            list.get_mut().remove(&key.slot);
            if list.get().is_empty() {
                list.remove();
            }
        }
    }

    /// Numbers of next hops that routes name.
    pub(super) fn next_hops_in_use(&self) -> BTreeSet<u16> {
        let numbers = self.routes.values().map(|route| route.next_hop);
        numbers.filter(|&number| number != 0).collect()
    }

    /// Numbers of VTEPs that the next hops with these numbers name.
    pub(super) fn vteps_in_use(&self, next_hops: &BTreeSet<u16>) -> BTreeSet<u16> {
        next_hops
            .iter()
            .filter_map(|number| self.vtep_of(*number))
            .collect()
    }

    /// Numbers of next hops and of VTEPs that are there and not in use.
    pub(super) fn retired(&self) -> (BTreeSet<u16>, BTreeSet<u16>) {
        let next_hops = self.next_hops_in_use();
        let vteps = self.vteps_in_use(&next_hops);
        (
            others(self.next_hops.keys(), &next_hops),
            others(self.vteps.keys(), &vteps),
        )
    }

    /// The number of the VTEP that a next hop names.
    pub(super) fn vtep_of(&self, next_hop: u16) -> Option<u16> {
        let vtep = self.next_hops.get(&next_hop)?.vtep;
        u16::try_from(vtep).ok().filter(|&number| number != 0)
    }
}

fn others<'a>(numbers: impl Iterator<Item = &'a u16>, in_use: &BTreeSet<u16>) -> BTreeSet<u16> {
    numbers
        .filter(|number| !in_use.contains(number))
        .copied()
        .collect()
}
