//! The desired state that follows from objects, kept up to date change by change: only services that a change
//! touches are looked at again.

use std::collections::BTreeMap;
use std::mem;

use super::desired_state::{ClusterCidr, DesiredState};
use super::discovery;
use super::objects::{Change, Key, Objects};
use super::rules::{InternalTrafficPolicy, Rules};
use super::services::{self, Derived};
use crate::model::{Problem, Subject};

/// The desired state that follows from a cluster's objects.
///
/// The networks of the configuration win, per kind. Then come, first hit wins: for services the
/// `ServiceCIDR` objects, then the `kubeadm-config` `ConfigMap`; for pods that `ConfigMap`, then the nodes'
/// `spec.podCIDRs`. No CIDR is ever inferred from addresses in use; a cluster IP outside of all of them is forwarded as the
/// single address that it is.
#[must_use]
pub fn desired_state(objects: Objects, rules: &Rules) -> DesiredState {
    let mut deriver = Deriver::new(rules.clone());
    deriver.objects = objects;
    deriver.update();
    deriver.state(&[])
}

/// The desired state without any knowledge of services.
#[must_use]
pub fn static_state(rules: &Rules) -> DesiredState {
    DesiredState {
        authoritative: false,
        ..desired_state(Objects::default(), rules)
    }
}

/// Objects and what follows from them.
#[derive(Debug)]
pub(super) struct Deriver {
    rules: Rules,
    objects: Objects,
    derived: BTreeMap<Key, Derived>,
    cidrs: Vec<ClusterCidr>,
    problems: Vec<Problem>,
}

impl Deriver {
    pub(super) fn new(rules: Rules) -> Self {
        let mut this = Self {
            rules,
            objects: Objects::default(),
            derived: BTreeMap::new(),
            cidrs: Vec::new(),
            problems: Vec::new(),
        };
        this.discover();
        this
    }

    pub(super) fn apply(&mut self, change: Change) {
        self.objects.apply(change);
    }

    /// Takes the changes since the last call into account; says whether anything depends on them.
    pub(super) fn update(&mut self) -> bool {
        let touched = self.objects.take_touched();
        if touched.is_empty() {
            return false;
        }
        if touched.networks {
            self.discover();
        }
        let objects = mem::take(&mut self.objects);
        for key in touched.services {
            self.derive(&objects, key);
        }
        self.objects = objects;
        true
    }

    /// The state as of the last [`update`](Self::update); `notes` are further problems to tell.
    pub(super) fn state(&self, notes: &[Problem]) -> DesiredState {
        self.state_with(self.derived.values(), true, notes)
    }

    /// The same while Services or their slices can't be read: there are no services in it, and it is not authoritative.
    /// kube-proxy may know them, and what it translates must not be rejected.
    pub(super) fn state_without_services(&self, notes: &[Problem]) -> DesiredState {
        self.state_with([], false, notes)
    }

    fn state_with<'a>(
        &self,
        derived: impl IntoIterator<Item = &'a Derived>,
        authoritative: bool,
        notes: &[Problem],
    ) -> DesiredState {
        let mut problems = self.problems.clone();
        problems.extend_from_slice(notes);
        let merged = services::merge(
            derived,
            &self.cidrs,
            &self.rules.internal_traffic_policy,
            &mut problems,
        );
        problems.sort();
        problems.dedup();
        let mut cidrs = self.cidrs.clone();
        cidrs.extend(merged.vips_outside);
        cidrs.sort();
        DesiredState {
            cidrs,
            services: merged.services,
            authoritative,
            problems,
        }
    }

    fn derive(&mut self, objects: &Objects, key: Key) {
        match services::derive(objects, &key, &self.rules.internal_traffic_policy) {
            // What is the same stays the same allocation, which makes comparing states cheap.
            Some(derived) if self.derived.get(&key) == Some(&derived) => {}
            Some(derived) => {
                self.derived.insert(key, derived);
            }
            None => {
                self.derived.remove(&key);
            }
        }
    }

    fn discover(&mut self) {
        self.problems.clear();
        self.cidrs = discovery::cidrs(&self.objects, &self.rules.explicit, &mut self.problems);
        if let InternalTrafficPolicy::Honor { node } = &self.rules.internal_traffic_policy
            && !self.objects.nodes.is_empty()
            && !self.objects.nodes.keys().any(|key| key.name == *node)
        {
            self.problems.push(Problem::new(
                Subject::Cluster,
                format!(
                    "the cluster has no node `{node}`, so services with internalTrafficPolicy: Local lead \
                     nowhere: give this node's name with --node-name"
                ),
                "give this node's name with --node-name",
            ));
        }
    }
}
