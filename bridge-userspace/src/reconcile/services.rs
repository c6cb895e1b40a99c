//! `services` and `backends`.
//!
//! A backend list is never changed: a new one is written under a new id, then the service points to it, then the old
//! one goes. So no packet sees half a change.

use std::collections::BTreeMap;

use bridge_common::abi::{Backend, BackendKey, Service, ServiceKey};

use super::applied::Applied;
use super::image::Image;
use super::list_ids::ListIdAllocator;
use super::write::Write;
use crate::plan::map_state::ServiceEntry;

/// Writes that do not depend on each other, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct ServiceDiff {
    /// What belongs together, one service each.
    pub(super) steps: Vec<Vec<Write>>,
    /// Whether clients are to be forgotten then, as their services may have lost backends.
    pub(super) forgets_clients: bool,
}

/// What makes `wanted` of the applied services.
pub(super) fn diff(applied: &Applied, wanted: &BTreeMap<ServiceKey, ServiceEntry>) -> ServiceDiff {
    let tables = &applied.tables;
    let mut ids = ListIdAllocator::new(tables, applied.last_list_id);
    let mut steps = Vec::new();

    let orphans: Vec<Write> = tables
        .backends
        .keys()
        .filter(|id| !ids.is_used(**id))
        .flat_map(|id| remove_list(tables, *id))
        .collect();
    if !orphans.is_empty() {
        steps.push(orphans);
    }

    let mut forgets_clients = applied.affinity_is_stale;
    for (key, service) in &tables.services {
        if !wanted.contains_key(key) {
            forgets_clients |= service.affinity_seconds != 0;
            let mut step = vec![Write::RemoveService(*key)];
            step.extend(remove_list(tables, service.id));
            steps.push(step);
        }
    }
    for (key, entry) in wanted {
        let before = tables.services.get(key);
        if before.is_some_and(|service| holds(tables, service, entry)) {
            continue;
        }
        forgets_clients |= before.is_some_and(|service| service.affinity_seconds != 0);
        let mut step = put(*key, entry, &mut ids);
        step.extend(
            before
                .into_iter()
                .flat_map(|service| remove_list(tables, service.id)),
        );
        steps.push(step);
    }
    ServiceDiff {
        steps,
        forgets_clients,
    }
}

/// What takes back the writes of a step that could not go on: the backends that no service points to yet.
pub(super) fn undo(written: &[Write]) -> Vec<Write> {
    let has_service = |write: &Write| matches!(write, Write::Service { .. });
    if written.iter().any(has_service) {
        return Vec::new();
    }
    let backends = written.iter().filter_map(|write| match write {
        Write::Backend { key, .. } => Some(Write::RemoveBackend(*key)),
        _ => None,
    });
    backends.collect()
}

/// Whether the tables lead from this service to what is wanted.
fn holds(tables: &Image, service: &Service, entry: &ServiceEntry) -> bool {
    match entry {
        ServiceEntry::Address(ready) => *service == address(*ready),
        ServiceEntry::Port {
            backends,
            affinity_seconds,
        } => {
            *service == port(service.id, backends, *affinity_seconds)
                && tables.list(service.id).eq(list(service.id, backends))
        }
    }
}

fn put(key: ServiceKey, entry: &ServiceEntry, ids: &mut ListIdAllocator<'_>) -> Vec<Write> {
    match entry {
        ServiceEntry::Address(ready) => vec![Write::Service {
            key,
            service: address(*ready),
        }],
        ServiceEntry::Port {
            backends,
            affinity_seconds,
        } => {
            let service = port(ids.allocate(), backends, *affinity_seconds);
            list(service.id, backends)
                .map(|(key, backend)| Write::Backend { key, backend })
                .chain([Write::Service { key, service }])
                .collect()
        }
    }
}

fn address(ready: u32) -> Service {
    Service {
        backend_count: ready,
        ..Service::default()
    }
}

fn port(id: u32, backends: &[Backend], affinity_seconds: u32) -> Service {
    Service {
        id,
        backend_count: u32::try_from(backends.len()).unwrap_or(u32::MAX),
        affinity_seconds,
        only: match *backends {
            [only] => only,
            _ => Backend::default(),
        },
    }
}

fn list(id: u32, backends: &[Backend]) -> impl Iterator<Item = (BackendKey, Backend)> {
    (0..).zip(backends).map(move |(slot, backend)| {
        let key = BackendKey {
            service_id: id,
            slot,
        };
        (key, *backend)
    })
}

fn remove_list(tables: &Image, id: u32) -> impl Iterator<Item = Write> {
    tables.list(id).map(|(key, _)| Write::RemoveBackend(key))
}
