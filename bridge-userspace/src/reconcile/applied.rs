//! What was applied, write by write.

use std::time::Instant;

use super::image::Image;
use super::numbers::Quarantine;
use super::write::Write;

/// What is in the tables, and what else the next diff must know.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Applied {
    pub(super) tables: Image,
    pub(super) retired_hops: Quarantine,
    pub(super) retired_vteps: Quarantine,
    /// Whether flows may have cached next hops that do not hold any more.
    pub(super) epoch_is_stale: bool,
    /// Whether there may be clients that would come to a backend which their service has lost.
    pub(super) affinity_is_stale: bool,
    /// The id of the list that a service was given last.
    pub(super) last_list_id: u32,
}

impl Applied {
    /// What an earlier process left.
    pub(super) fn new(tables: Image) -> Self {
        let last = tables.backends.last_key_value();
        Self {
            retired_hops: Quarantine::default(),
            retired_vteps: Quarantine::default(),
            // That process may have ended after it retired numbers and before it said so.
            epoch_is_stale: tables.retired() != Default::default(),
            affinity_is_stale: true,
            last_list_id: last.map_or(0, |(id, _)| *id),
            tables,
        }
    }

    /// Notes a write that has succeeded at `now`.
    pub(super) fn record(&mut self, write: &Write, now: Instant) {
        match write {
            Write::Route { route, .. } => {
                self.epoch_is_stale = true;
                self.retired_hops.end(route.next_hop);
                if let Some(vtep) = self.tables.vtep_of(route.next_hop) {
                    self.retired_vteps.end(vtep);
                }
            }
            Write::RemoveRoute(_) => self.epoch_is_stale = true,
            Write::FastPath(fast_path) if fast_path.epoch != self.tables.fast_path.epoch => {
                self.epoch_is_stale = false;
                self.quarantine(now);
            }
            Write::ClearNextHop(number) => self.retired_hops.end(*number),
            Write::ClearVtep(number) => self.retired_vteps.end(*number),
            Write::Service { key, service } => {
                if service.id != 0 {
                    self.last_list_id = service.id;
                }
                let before = self.tables.services.get(key);
                self.affinity_is_stale |= before.is_some_and(|old| old.affinity_seconds != 0);
            }
            Write::RemoveService(key) => {
                let before = self.tables.services.get(key);
                self.affinity_is_stale |= before.is_some_and(|old| old.affinity_seconds != 0);
            }
            _ => {}
        }
        self.tables.record(write);
    }

    /// With the new epoch nothing counts that flows have cached.
    fn quarantine(&mut self, now: Instant) {
        let (hops, vteps) = self.tables.retired();
        self.retired_hops.start(hops, now);
        self.retired_vteps.start(vteps, now);
    }
}
