//! Session affinity, as far as userspace has a part in it: clients must not come back to a backend that their
//! service has lost.

use bridge_common::abi::{Affinity, AffinityKey};

use super::image::Image;
use super::write::Write;

/// Removes the entries that lead to a backend which is no more among those of the service, and those of services
/// without affinity. The datapath chooses anew for their clients.
pub(super) fn forget_lost(tables: &Image, entries: &[(AffinityKey, Affinity)]) -> Vec<Write> {
    entries
        .iter()
        .filter(|(key, affinity)| !is_kept(tables, key, affinity))
        .map(|(key, _)| Write::RemoveAffinity(*key))
        .collect()
}

fn is_kept(tables: &Image, key: &AffinityKey, affinity: &Affinity) -> bool {
    tables.services.get(&key.service).is_some_and(|service| {
        service.affinity_seconds != 0
            && tables
                .list(service.id)
                .any(|(_, backend)| backend == affinity.backend)
    })
}
