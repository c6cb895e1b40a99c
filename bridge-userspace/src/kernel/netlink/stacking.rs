//! Devices on top of others.

use std::collections::{BTreeMap, BTreeSet};

use super::state::Link;

/// A device on top of another, however many are in between, that is given packets because of their VLAN tag: a VLAN, or a
/// bridge that filters by VLAN. `None` where tags make no difference, as far as this namespace tells.
#[must_use]
pub fn taker_of_tags(links: &BTreeMap<u32, Link>, ifindex: u32) -> Option<&Link> {
    let mut seen = BTreeSet::from([ifindex]);
    let mut ahead = vec![ifindex];
    while let Some(below) = ahead.pop() {
        let master = links.get(&below).and_then(|link| link.master);
        let above = links
            .values()
            .filter(|link| link.lower == Some(below) || master == Some(link.index));
        for link in above {
            if link.takes_tags {
                return Some(link);
            }
            if seen.insert(link.index) {
                ahead.push(link.index);
            }
        }
    }
    None
}
