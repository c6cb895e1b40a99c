//! Bringing the tables to what they should hold, by the difference: at start-up against what an earlier
//! `run` left, later against what was applied last.
//!
//! The [difference](diff) is a value, computed without a look at the kernel: writes in the order in which they keep the
//! datapath's view consistent. [Applying](apply) it notes write by write what is in the tables. So after a write that
//! failed the next difference is what is missing.

mod affinity;
mod applied;
mod apply;
mod changes;
mod diff;
mod image;
mod kernel_tables;
mod list_ids;
mod numbers;
mod prefixes;
mod routes;
mod services;
mod settings;
#[cfg(test)]
mod tests;
mod write;

use std::net::Ipv4Addr;
use std::time::Instant;

use bridge_common::abi::{DestinationKind, Seconds};
use tracing::warn;

use self::applied::Applied;
pub use self::changes::Changes;
use self::diff::Diff;
use self::kernel_tables::KernelTables;
pub use self::routes::LEASE;
use crate::maps::{TableError, Tables};
use crate::plan::map_state::MapState;

/// The tables that are filled from outside, and what is in them.
pub struct Reconciler {
    tables: KernelTables,
    applied: Applied,
}

impl Reconciler {
    /// Opens the tables and reads what is in them.
    ///
    /// # Errors
    /// When a table can't be opened or read.
    pub fn open(tables: &Tables) -> Result<Self, TableError> {
        let tables = KernelTables::open(tables)?;
        let applied = Applied::new(tables.read()?);
        Ok(Self { tables, applied })
    }

    /// The NAT addresses in the tables.
    pub fn nat_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.applied
            .tables
            .cluster
            .iter()
            .filter(|(_, cidr)| cidr.kind() == Some(DestinationKind::Nat))
            .map(|(cidr, _)| cidr.addr())
    }

    /// Applies the difference. What makes packets ours comes last, so that none is ours before the rest
    /// is there. `read_at` is when the kernel's routes were last read, in seconds of [`clock`](crate::kernel::clock):
    /// XDP believes next hops for a time from then on.
    ///
    /// # Errors
    /// When a table can't be written; what was written until then stays, and the next call goes on from there.
    pub fn apply(&mut self, wanted: &MapState, read_at: Seconds) -> Result<Changes, TableError> {
        let now = Instant::now();
        let diff = Diff::new(&self.applied, wanted, read_at, now);
        if diff.routes_without_number > 0 {
            warn!(
                "{} routes are left to the TC path for some seconds: too many next hops have changed at once",
                diff.routes_without_number
            );
        }
        diff.apply(&mut self.applied, &mut self.tables, now)
    }
}
