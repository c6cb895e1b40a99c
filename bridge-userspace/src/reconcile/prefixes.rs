//! A table of prefixes.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::write::Write;
use crate::maps::TableError;

/// How a table of prefixes is written.
pub(super) struct PrefixTable<V> {
    pub(super) name: &'static str,
    pub(super) capacity: usize,
    pub(super) insert: fn(Ipv4Net, V) -> Write,
    pub(super) remove: fn(Ipv4Net) -> Write,
}

impl<V: Copy + PartialEq> PrefixTable<V> {
    /// What makes `wanted` of `applied`. New entries come before others go, so that no address is without one
    /// meanwhile, except where there is no room for both.
    ///
    /// # Errors
    /// When more is wanted than fits.
    pub(super) fn diff(
        &self,
        applied: &BTreeMap<Ipv4Net, V>,
        wanted: &BTreeMap<Ipv4Net, V>,
    ) -> Result<Vec<Write>, TableError> {
        if wanted.len() > self.capacity {
            return Err(TableError::TooMany {
                table: self.name,
                wanted: wanted.len(),
                capacity: self.capacity,
            });
        }
        let obsolete: Vec<Ipv4Net> = applied
            .keys()
            .filter(|prefix| !wanted.contains_key(prefix))
            .copied()
            .collect();
        let excess = (wanted.len() + obsolete.len()).saturating_sub(self.capacity);
        let (first, last) = obsolete.split_at(excess);
        let removals = |prefixes: &[Ipv4Net]| -> Vec<Write> {
            prefixes.iter().copied().map(self.remove).collect()
        };
        let mut writes = removals(first);
        writes.extend(
            wanted
                .iter()
                .filter(|(prefix, value)| applied.get(prefix) != Some(value))
                .map(|(prefix, value)| (self.insert)(*prefix, *value)),
        );
        writes.extend(removals(last));
        Ok(writes)
    }
}

#[cfg(test)]
mod tests {
    use bridge_common::abi::OfficeCidr;

    use super::*;

    fn diff(applied: &[u8], wanted: &[u8], capacity: usize) -> Result<Vec<Write>, TableError> {
        let table = PrefixTable {
            name: "office_cidrs",
            capacity,
            insert: |prefix, cidr| Write::OfficeCidr { prefix, cidr },
            remove: Write::RemoveOfficeCidr,
        };
        let entries = |lasts: &[u8]| {
            let entry = |last: &u8| (prefix(*last), OfficeCidr::default());
            lasts.iter().map(entry).collect()
        };
        table.diff(&entries(applied), &entries(wanted))
    }

    fn prefix(last: u8) -> Ipv4Net {
        Ipv4Net::new_assert([192, 168, last, 0].into(), 24)
    }

    fn insert(last: u8) -> Write {
        let (prefix, cidr) = (prefix(last), OfficeCidr::default());
        Write::OfficeCidr { prefix, cidr }
    }

    fn remove(last: u8) -> Write {
        Write::RemoveOfficeCidr(prefix(last))
    }

    #[test]
    fn what_is_new_comes_before_what_is_obsolete_goes() {
        assert_eq!(diff(&[1, 2], &[2], 4).unwrap(), [remove(1)]);
        assert_eq!(diff(&[1, 2], &[2, 3], 4).unwrap(), [insert(3), remove(1)]);
        assert!(diff(&[1, 2], &[1, 2], 4).unwrap().is_empty());
    }

    #[test]
    fn a_full_table_is_made_room_in_first() {
        assert_eq!(
            diff(&[1, 2, 3], &[3, 4, 5], 4).unwrap(),
            [remove(1), insert(4), insert(5), remove(2)]
        );
        assert_eq!(
            diff(&[1, 2], &[3, 4], 2).unwrap()[..2],
            [remove(1), remove(2)]
        );
    }

    #[test]
    fn more_than_fits_is_refused() {
        assert!(matches!(
            diff(&[], &[1, 2, 3], 2),
            Err(TableError::TooMany {
                wanted: 3,
                capacity: 2,
                ..
            })
        ));
    }
}
