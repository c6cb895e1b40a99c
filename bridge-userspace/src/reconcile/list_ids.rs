//! The ids of backend lists.

use std::collections::BTreeSet;

use super::image::Image;

/// Gives new backend lists their ids. They count on, so that one which was just removed, and that a packet may still
/// look for, is not given again before all others were. Id 0 stands for none.
pub(super) struct ListIdAllocator<'a> {
    tables: &'a Image,
    /// Ids that services have, and those of lists about to be written.
    used: BTreeSet<u32>,
    last: u32,
}

impl<'a> ListIdAllocator<'a> {
    /// `last` is the id that was given last.
    pub(super) fn new(tables: &'a Image, last: u32) -> Self {
        let ids = tables.services.values().map(|service| service.id);
        Self {
            tables,
            used: ids.filter(|&id| id != 0).collect(),
            last,
        }
    }

    /// Whether a service has this id.
    pub(super) fn is_used(&self, id: u32) -> bool {
        self.used.contains(&id)
    }

    pub(super) fn allocate(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0
                && !self.tables.backends.contains_key(&self.last)
                && self.used.insert(self.last)
            {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bridge_common::abi::{Backend, Service, ServiceKey};

    use super::*;

    #[test]
    fn ids_count_on_and_leave_out_zero_and_what_is_there() {
        let mut tables = Image::default();
        let service = Service {
            id: u32::MAX,
            ..Service::default()
        };
        tables.services.insert(ServiceKey::default(), service);
        let left_over = [(0, Backend::default())].into();
        tables.backends.insert(2, left_over);
        let mut ids = ListIdAllocator::new(&tables, u32::MAX - 2);
        let given = [ids.allocate(), ids.allocate(), ids.allocate()];
        assert_eq!(given, [u32::MAX - 1, 1, 3]);
        assert!(ids.is_used(u32::MAX));
        assert!(!ids.is_used(2));
    }
}
