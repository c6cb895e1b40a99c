//! The pinned tables, as a reconciliation reads and writes them.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{Array, MapData};
use bridge_common::abi::{
    Affinity, AffinityKey, Backend, BackendKey, ClusterCidr, FastPath, LinkAddress, NatPort,
    NextHop, OfficeCidr, Route, Service, ServiceKey, Settings, UpperLink, Vtep, capacity, name,
};
use ipnet::Ipv4Net;

use super::apply::TableWriter;
use super::image::Image;
use super::write::Write;
use crate::maps::{Hash, Prefixes, TableError, Tables, access, full, gone, prefix_key, prefix_of};

/// The pinned tables.
pub(super) struct KernelTables {
    tables: Tables,
    nat: NatTables,
    routes: RouteTables,
    services: ServiceTables,
    cidrs: CidrTables,
}

struct NatTables {
    settings: Array<MapData, Settings>,
    nat_ports: Array<MapData, NatPort>,
}

struct RouteTables {
    routes: Prefixes<Route>,
    next_hops: Array<MapData, NextHop>,
    vteps: Array<MapData, Vtep>,
    fast_path: Array<MapData, FastPath>,
}

struct ServiceTables {
    services: Hash<ServiceKey, Service>,
    backends: Hash<BackendKey, Backend>,
    affinity: Hash<AffinityKey, Affinity>,
}

struct CidrTables {
    cluster: Prefixes<ClusterCidr>,
    office: Prefixes<OfficeCidr>,
    link_addresses: Hash<LinkAddress, UpperLink>,
}

impl KernelTables {
    /// Opens the tables.
    ///
    /// # Errors
    /// When one can't be opened.
    pub(super) fn open(tables: &Tables) -> Result<Self, TableError> {
        Ok(Self {
            nat: NatTables {
                settings: tables.array(name::SETTINGS)?,
                nat_ports: tables.array(name::NAT_PORTS)?,
            },
            routes: RouteTables {
                routes: tables.prefixes(name::ROUTES)?,
                next_hops: tables.array(name::NEXT_HOPS)?,
                vteps: tables.array(name::VTEP_FDB)?,
                fast_path: tables.array(name::FAST_PATH)?,
            },
            services: ServiceTables {
                services: tables.hash(name::SERVICES)?,
                backends: tables.hash(name::BACKENDS)?,
                affinity: tables.hash(name::AFFINITY)?,
            },
            cidrs: CidrTables {
                cluster: tables.prefixes(name::CLUSTER_CIDRS)?,
                office: tables.prefixes(name::OFFICE_CIDRS)?,
                link_addresses: tables.hash(name::LINK_ADDRESSES)?,
            },
            tables: tables.clone(),
        })
    }

    /// Reads what is in the tables.
    ///
    /// # Errors
    /// When one can't be read.
    pub(super) fn read(&self) -> Result<Image, TableError> {
        let settings = self.nat.settings.get(&0, 0);
        let fast_path = self.routes.fast_path.get(&0, 0);
        let nat_ports: BTreeMap<u32, NatPort> = self.read_all(name::NAT_PORTS)?;
        Ok(Image {
            settings: settings.map_err(access(name::SETTINGS))?,
            nat_ports: nat_ports.into_values().collect(),
            routes: prefixes(&self.routes.routes, name::ROUTES)?,
            next_hops: numbered(self.read_all(name::NEXT_HOPS)?),
            vteps: numbered(self.read_all(name::VTEP_FDB)?),
            fast_path: fast_path.map_err(access(name::FAST_PATH))?,
            services: self.read_all(name::SERVICES)?,
            backends: self.tables.backend_lists()?,
            cluster: prefixes(&self.cidrs.cluster, name::CLUSTER_CIDRS)?,
            office: prefixes(&self.cidrs.office, name::OFFICE_CIDRS)?,
            link_addresses: self.read_all(name::LINK_ADDRESSES)?,
        })
    }

    fn read_all<K: Pod + Default + Ord, V: Pod + Default>(
        &self,
        table: &'static str,
    ) -> Result<BTreeMap<K, V>, TableError> {
        Ok(self.tables.read_all(table)?.into_iter().collect())
    }
}

fn prefixes<V: Pod>(
    table: &Prefixes<V>,
    name: &'static str,
) -> Result<BTreeMap<Ipv4Net, V>, TableError> {
    table
        .iter()
        .map(|entry| entry.map(|(key, value)| (prefix_of(&key), value)))
        .collect::<Result<_, _>>()
        .map_err(access(name))
}

/// The entries of an array that are not empty; number 0 stands for none.
fn numbered<V: Default + PartialEq>(entries: BTreeMap<u32, V>) -> BTreeMap<u16, V> {
    entries
        .into_iter()
        .filter(|(number, value)| *number != 0 && *value != V::default())
        .filter_map(|(number, value)| Some((u16::try_from(number).ok()?, value)))
        .collect()
}

impl TableWriter for KernelTables {
    fn write(&mut self, write: &Write) -> Result<(), TableError> {
        let Self {
            nat,
            routes,
            services,
            cidrs,
            ..
        } = self;
        match write {
            Write::Settings(settings) => set(&mut nat.settings, 0, **settings, name::SETTINGS),
            Write::NatPort { index, port } => {
                set(&mut nat.nat_ports, *index, *port, name::NAT_PORTS)
            }
            Write::Vtep { number, vtep } => routes.set_vtep(*number, *vtep),
            Write::ClearVtep(number) => routes.set_vtep(*number, Vtep::default()),
            Write::NextHop { number, next_hop } => routes.set_next_hop(*number, *next_hop),
            Write::ClearNextHop(number) => routes.set_next_hop(*number, NextHop::default()),
            Write::Route { prefix, route } => {
                insert(&mut routes.routes, *prefix, *route, name::ROUTES)
            }
            Write::RemoveRoute(prefix) => remove(&mut routes.routes, *prefix, name::ROUTES),
            Write::FastPath(fast_path) => {
                set(&mut routes.fast_path, 0, **fast_path, name::FAST_PATH)
            }
            Write::Backend { key, backend } => services
                .backends
                .insert(key, backend, 0)
                .map_err(full(name::BACKENDS, capacity::BACKENDS)),
            Write::RemoveBackend(key) => {
                gone(services.backends.remove(key)).map_err(access(name::BACKENDS))
            }
            Write::Service { key, service } => services
                .services
                .insert(key, service, 0)
                .map_err(full(name::SERVICES, capacity::SERVICES)),
            Write::RemoveService(key) => {
                gone(services.services.remove(key)).map_err(access(name::SERVICES))
            }
            Write::RemoveAffinity(key) => {
                gone(services.affinity.remove(key)).map_err(access(name::AFFINITY))
            }
            Write::ClusterCidr { prefix, cidr } => {
                insert(&mut cidrs.cluster, *prefix, *cidr, name::CLUSTER_CIDRS)
            }
            Write::RemoveClusterCidr(prefix) => {
                remove(&mut cidrs.cluster, *prefix, name::CLUSTER_CIDRS)
            }
            Write::OfficeCidr { prefix, cidr } => {
                insert(&mut cidrs.office, *prefix, *cidr, name::OFFICE_CIDRS)
            }
            Write::RemoveOfficeCidr(prefix) => {
                remove(&mut cidrs.office, *prefix, name::OFFICE_CIDRS)
            }
            Write::LinkAddress { address, device } => cidrs
                .link_addresses
                .insert(address, device, 0)
                .map_err(full(name::LINK_ADDRESSES, capacity::LINK_ADDRESSES)),
            Write::RemoveLinkAddress(address) => {
                gone(cidrs.link_addresses.remove(address)).map_err(access(name::LINK_ADDRESSES))
            }
        }
    }

    fn affinity(&self) -> Result<Vec<(AffinityKey, Affinity)>, TableError> {
        self.tables.read_all(name::AFFINITY)
    }
}

impl RouteTables {
    fn set_next_hop(&mut self, number: u16, next_hop: NextHop) -> Result<(), TableError> {
        set(
            &mut self.next_hops,
            u32::from(number),
            next_hop,
            name::NEXT_HOPS,
        )
    }

    fn set_vtep(&mut self, number: u16, vtep: Vtep) -> Result<(), TableError> {
        set(&mut self.vteps, u32::from(number), vtep, name::VTEP_FDB)
    }
}

fn set<V: Pod>(
    table: &mut Array<MapData, V>,
    index: u32,
    value: V,
    name: &'static str,
) -> Result<(), TableError> {
    table.set(index, value, 0).map_err(access(name))
}

fn insert<V: Pod>(
    table: &mut Prefixes<V>,
    prefix: Ipv4Net,
    value: V,
    name: &'static str,
) -> Result<(), TableError> {
    table
        .insert(&prefix_key(prefix), value, 0)
        .map_err(access(name))
}

fn remove<V: Pod>(
    table: &mut Prefixes<V>,
    prefix: Ipv4Net,
    name: &'static str,
) -> Result<(), TableError> {
    gone(table.remove(&prefix_key(prefix))).map_err(access(name))
}
