//! What flows need to be ours.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use bridge_common::abi::{Flow, FlowKey, Layer};

/// Addresses that flows need to be ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// What clients are translated to.
    pub nat_addresses: HashSet<Ipv4Addr>,
    /// What clients have addressed.
    pub destinations: HashSet<Ipv4Addr>,
    /// Where that leads.
    pub backends: HashSet<Ipv4Addr>,
    /// Whether there are flows to backends on this node itself.
    pub has_local: bool,
}

impl InUse {
    /// What these flows need.
    #[must_use]
    pub fn of(flows: &[(FlowKey, Flow)]) -> Self {
        let mut in_use = Self::default();
        for (key, flow) in flows {
            in_use.note(key, flow);
        }
        in_use
    }

    /// Adds what a flow needs.
    pub(super) fn note(&mut self, key: &FlowKey, flow: &Flow) {
        if flow.layer == Layer::Ended as u8 {
            return;
        }
        self.has_local |= flow.layer == Layer::Local as u8;
        if !Layer::is_untranslated(flow.layer) {
            self.nat_addresses.insert(flow.nat.into());
        }
        self.destinations.insert(key.destination.into());
        self.backends.insert(flow.backend.into());
    }
}
