//! Session affinity, as far as userspace has a part in it: clients must not come back to a backend that their
//! service has lost.

use bridge_common::abi::{Affinity, AffinityKey, ServiceKey, name};

use crate::maps::{Hash, TableError, access, gone};
use crate::plan::map_state::ServiceEntry;

/// Removes the entries that lead to a backend which is no more among those of the service, and those of services
/// without affinity. The datapath chooses anew for their clients. Gives how many went.
///
/// # Errors
/// When the table can't be read or written.
pub fn forget_lost<'a>(
    table: &mut Hash<AffinityKey, Affinity>,
    service: impl Fn(&ServiceKey) -> Option<&'a ServiceEntry>,
) -> Result<usize, TableError> {
    let mut lost = Vec::new();
    for entry in table.iter() {
        let (key, affinity) = entry.map_err(access(name::AFFINITY))?;
        if !service(&key.service).is_some_and(|entry| leads_to(entry, &affinity)) {
            lost.push(key);
        }
    }
    for key in &lost {
        gone(table.remove(key)).map_err(access(name::AFFINITY))?;
    }
    Ok(lost.len())
}

fn leads_to(entry: &ServiceEntry, affinity: &Affinity) -> bool {
    match entry {
        ServiceEntry::Port {
            backends,
            affinity_seconds,
        } => *affinity_seconds != 0 && backends.contains(&affinity.backend),
        ServiceEntry::Address(_) => false,
    }
}
