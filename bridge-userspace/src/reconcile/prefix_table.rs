//! A table of prefixes.

use std::collections::BTreeMap;

use aya::Pod;
use ipnet::Ipv4Net;

use super::changes::Changes;
use crate::maps::{Prefixes, TableError, Tables, access, gone, prefix_key, prefix_of};

pub(super) struct PrefixTable<V> {
    name: &'static str,
    capacity: usize,
    map: Prefixes<V>,
    pub(super) applied: BTreeMap<Ipv4Net, V>,
}

impl<V: Pod + PartialEq> PrefixTable<V> {
    pub(super) fn open(
        tables: &Tables,
        name: &'static str,
        capacity: usize,
    ) -> Result<Self, TableError> {
        let map: Prefixes<V> = tables.prefixes(name)?;
        let applied = map
            .iter()
            .map(|entry| entry.map(|(key, value)| (prefix_of(&key), value)))
            .collect::<Result<_, _>>()
            .map_err(access(name))?;
        Ok(Self {
            name,
            capacity,
            map,
            applied,
        })
    }

    pub(super) fn apply(
        &mut self,
        wanted: &BTreeMap<Ipv4Net, V>,
        changes: &mut Changes,
    ) -> Result<(), TableError> {
        if wanted.len() > self.capacity {
            return Err(TableError::TooMany {
                table: self.name,
                wanted: wanted.len(),
                capacity: self.capacity,
            });
        }
        let obsolete: Vec<Ipv4Net> = self
            .applied
            .keys()
            .filter(|prefix| !wanted.contains_key(prefix))
            .copied()
            .collect();
        for (&prefix, value) in wanted {
            if self.applied.get(&prefix) != Some(value) {
                self.map
                    .insert(&prefix_key(prefix), value, 0)
                    .map_err(access(self.name))?;
                self.applied.insert(prefix, *value);
                changes.written += 1;
            }
        }
        for prefix in obsolete {
            gone(self.map.remove(&prefix_key(prefix))).map_err(access(self.name))?;
            self.applied.remove(&prefix);
            changes.removed += 1;
        }
        Ok(())
    }
}
