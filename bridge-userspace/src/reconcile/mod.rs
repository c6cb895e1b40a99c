//! Bringing the tables to what they should hold, by the difference: at start-up against what an earlier
//! `run` left, later against what was applied last.

mod affinity;
mod changes;
mod fast_path;
mod prefix_table;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData};
use bridge_common::abi::{
    Affinity, AffinityKey, Backend, BackendKey, ClusterCidr, NatPort, OfficeCidr, Seconds, Service,
    ServiceKey, Settings, capacity, name,
};

pub use self::changes::Changes;
pub use self::fast_path::LEASE;
use self::fast_path::RouteTables;
use self::prefix_table::PrefixTable;
use crate::maps::{Hash, TableError, Tables, access, full, gone};
use crate::plan::map_state::{Contents, ServiceEntry};
use crate::plan::nat_ports::rearranged;

/// The tables that are filled from outside, and what is in them.
pub struct Reconciler {
    office: PrefixTable<OfficeCidr>,
    cluster: PrefixTable<ClusterCidr>,
    routes: RouteTables,
    services: ServiceTables,
    nat_ports: Array<MapData, NatPort>,
    applied_nat_ports: Vec<NatPort>,
    settings: Array<MapData, Settings>,
    applied_settings: Settings,
}

impl Reconciler {
    /// Opens the tables and reads what is in them.
    ///
    /// # Errors
    /// When a table can't be opened or read.
    pub fn open(tables: &Tables) -> Result<Self, TableError> {
        let nat_ports: Array<MapData, NatPort> = tables.array(name::NAT_PORTS)?;
        let applied_nat_ports = nat_ports
            .iter()
            .collect::<Result<_, _>>()
            .map_err(access(name::NAT_PORTS))?;
        let settings: Array<MapData, Settings> = tables.array(name::SETTINGS)?;
        let applied_settings = settings.get(&0, 0).map_err(access(name::SETTINGS))?;
        Ok(Self {
            office: PrefixTable::open(tables, name::OFFICE_CIDRS, capacity::OFFICE_CIDRS)?,
            cluster: PrefixTable::open(tables, name::CLUSTER_CIDRS, capacity::CLUSTER_CIDRS)?,
            routes: RouteTables::open(tables)?,
            services: ServiceTables::open(tables)?,
            nat_ports,
            applied_nat_ports,
            settings,
            applied_settings,
        })
    }

    /// Applies the difference. What makes packets ours comes last, so that none is ours before the rest
    /// is there. `read_at` is when the kernel's routes were last read, in seconds of [`clock`](crate::kernel::clock):
    /// XDP believes next hops for a time from then on.
    ///
    /// # Errors
    /// When a table can't be written; what was written until then stays, and the next call goes on from there.
    pub fn apply(&mut self, contents: &Contents, read_at: Seconds) -> Result<Changes, TableError> {
        let mut changes = Changes::default();
        // Unknown services are rejected only when all that are known are there.
        let settings = Settings {
            authoritative: contents
                .settings
                .authoritative
                .min(self.applied_settings.authoritative),
            ..contents.settings
        };
        let count = self.applied_settings.nat_port_count as usize;
        if settings.nat_port_count < self.applied_settings.nat_port_count {
            // The datapath must not choose from the end that is about to go.
            self.apply_settings(&settings, &mut changes)?;
        }
        let nat_ports = rearranged(&self.applied_nat_ports, count, &contents.nat_ports);
        for (index, (port, applied)) in (0..).zip(nat_ports.iter().zip(&mut self.applied_nat_ports))
        {
            if port != applied {
                self.nat_ports
                    .set(index, port, 0)
                    .map_err(access(name::NAT_PORTS))?;
                *applied = *port;
                changes.written += 1;
            }
        }
        self.apply_settings(&settings, &mut changes)?;
        self.routes.apply(contents, read_at, &mut changes)?;
        // One service that does not fit must not keep the rest from being followed.
        let services = self.services.apply(&contents.services, &mut changes);
        self.apply_settings(&contents.settings, &mut changes)?;
        self.cluster.apply(&contents.cluster, &mut changes)?;
        self.office.apply(&contents.office, &mut changes)?;
        services.map(|()| changes)
    }
}

impl Reconciler {
    fn apply_settings(
        &mut self,
        settings: &Settings,
        changes: &mut Changes,
    ) -> Result<(), TableError> {
        if *settings != self.applied_settings {
            self.settings
                .set(0, settings, 0)
                .map_err(access(name::SETTINGS))?;
            self.applied_settings = *settings;
            changes.written += 1;
        }
        Ok(())
    }
}

/// `services` and `backends`. A backend list is never changed: a new one is written under a new id, then
/// the service points to it, then the old one goes.
struct ServiceTables {
    services: Hash<ServiceKey, Service>,
    backends: Hash<BackendKey, Backend>,
    affinity: Hash<AffinityKey, Affinity>,
    /// Whether there may be clients that would come to a backend which their service has lost.
    affinity_is_stale: bool,
    applied: BTreeMap<ServiceKey, (Service, ServiceEntry)>,
    used_ids: BTreeSet<u32>,
    last_id: u32,
}

impl ServiceTables {
    fn open(tables: &Tables) -> Result<Self, TableError> {
        let mut lists = tables.backend_lists()?;
        let mut this = Self {
            services: tables.hash(name::SERVICES)?,
            backends: tables.hash(name::BACKENDS)?,
            affinity: tables.hash(name::AFFINITY)?,
            affinity_is_stale: true,
            applied: BTreeMap::new(),
            used_ids: BTreeSet::new(),
            last_id: lists.keys().max().copied().unwrap_or_default(),
        };
        for (key, service) in tables.read_all::<ServiceKey, Service>(name::SERVICES)? {
            let entry = if key.protocol == bridge_common::packet::parse::ICMP {
                ServiceEntry::Address(service.backend_count)
            } else {
                // What an interrupted change left incomplete differs from any list that is wanted.
                this.used_ids.insert(service.id);
                ServiceEntry::Port {
                    backends: lists
                        .remove(&service.id)
                        .unwrap_or_default()
                        .into_values()
                        .collect(),
                    affinity_seconds: service.affinity_seconds,
                }
            };
            this.applied.insert(key, (service, entry));
        }
        // Lists that no service points to.
        for (id, list) in lists {
            for slot in list.into_keys() {
                this.backends
                    .remove(&BackendKey {
                        service_id: id,
                        slot,
                    })
                    .map_err(access(name::BACKENDS))?;
            }
        }
        Ok(this)
    }

    fn new_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if self.last_id != 0 && self.used_ids.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    fn apply(
        &mut self,
        wanted: &BTreeMap<ServiceKey, ServiceEntry>,
        changes: &mut Changes,
    ) -> Result<(), TableError> {
        let obsolete: Vec<ServiceKey> = self
            .applied
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in obsolete {
            gone(self.services.remove(&key)).map_err(access(name::SERVICES))?;
            if let Some((service, entry)) = self.applied.remove(&key) {
                self.affinity_is_stale |= service.affinity_seconds != 0;
                self.remove_list(service, &entry)?;
            }
            changes.removed += 1;
        }
        let mut result = Ok(());
        for (key, entry) in wanted {
            if self
                .applied
                .get(key)
                .is_some_and(|(_, applied)| applied == entry)
            {
                continue;
            }
            match self.replace(*key, entry) {
                Ok(()) => changes.written += 1,
                Err(error) if result.is_ok() => result = Err(error),
                Err(_) => {}
            }
        }
        if self.affinity_is_stale {
            let services = &self.applied;
            changes.removed += affinity::forget_lost(&mut self.affinity, |key| {
                services.get(key).map(|(_, entry)| entry)
            })?;
            self.affinity_is_stale = false;
        }
        result
    }

    fn replace(&mut self, key: ServiceKey, entry: &ServiceEntry) -> Result<(), TableError> {
        let service = self.write_list(entry)?;
        if let Err(error) = self.services.insert(key, service, 0) {
            self.remove_list(service, entry)?;
            return Err(full(name::SERVICES, capacity::SERVICES)(error));
        }
        if let Some((old, entry)) = self.applied.insert(key, (service, entry.clone())) {
            self.affinity_is_stale |= old.affinity_seconds != 0;
            self.remove_list(old, &entry)?;
        }
        Ok(())
    }

    fn write_list(&mut self, entry: &ServiceEntry) -> Result<Service, TableError> {
        let (backends, affinity_seconds) = match entry {
            ServiceEntry::Address(ready) => {
                return Ok(Service {
                    id: 0,
                    backend_count: *ready,
                    ..Service::default()
                });
            }
            ServiceEntry::Port {
                backends,
                affinity_seconds,
            } => (backends, *affinity_seconds),
        };
        let service = Service {
            id: self.new_id(),
            backend_count: u32::try_from(backends.len()).unwrap_or(u32::MAX),
            affinity_seconds,
            only: match backends[..] {
                [only] => only,
                _ => Backend::default(),
            },
        };
        for (slot, backend) in (0..).zip(backends) {
            let key = BackendKey {
                service_id: service.id,
                slot,
            };
            if let Err(error) = self.backends.insert(key, backend, 0) {
                self.remove_list(service, entry)?;
                return Err(full(name::BACKENDS, capacity::BACKENDS)(error));
            }
        }
        Ok(service)
    }

    fn remove_list(&mut self, service: Service, entry: &ServiceEntry) -> Result<(), TableError> {
        let ServiceEntry::Port { backends, .. } = entry else {
            return Ok(());
        };
        for (slot, _) in (0..).zip(backends) {
            // An interrupted change may have left gaps.
            gone(self.backends.remove(&BackendKey {
                service_id: service.id,
                slot,
            }))
            .map_err(access(name::BACKENDS))?;
        }
        self.used_ids.remove(&service.id);
        Ok(())
    }
}
