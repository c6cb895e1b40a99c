//! What is to be written, in order.

use std::collections::BTreeMap;
use std::time::Instant;

use bridge_common::abi::{
    ClusterCidr, FastPath, LinkAddress, OfficeCidr, Seconds, UpperLink, capacity, name,
};

use super::applied::Applied;
use super::prefixes::PrefixTable;
use super::write::Write;
use super::{routes, services, settings};
use crate::maps::TableError;
use crate::plan::map_state::MapState;

/// Writes that belong together.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// What comes later builds on these: where one fails, nothing more is written.
    Required(Vec<Write>),
    /// Where one of these fails, the others of the step are left out and the next step follows.
    Independent(Vec<Write>),
    /// Clients of lost backends are forgotten. Which these are is asked when the services are written, as the datapath
    /// fills `affinity`.
    ForgetClients,
}

/// What makes the wanted tables of the applied ones.
#[derive(Debug, Default)]
pub(super) struct Diff {
    pub(super) steps: Vec<Step>,
    /// Why what would follow the steps can't be written.
    pub(super) refused: Option<TableError>,
    /// Routes that XDP leaves to the TC path as there is no number left for their next hops.
    pub(super) routes_without_number: usize,
}

impl Diff {
    /// The difference between what is applied and what is wanted. What makes packets ours comes last, so that none is
    /// ours before the rest is there. `read_at` is when the kernel's routes were last read, in seconds of
    /// [`clock`](crate::kernel::clock).
    pub(super) fn new(
        applied: &Applied,
        wanted: &MapState,
        read_at: Seconds,
        now: Instant,
    ) -> Self {
        let mut diff = Self::default();
        diff.refused = diff.fill(applied, wanted, read_at, now).err();
        diff
    }

    fn fill(
        &mut self,
        applied: &Applied,
        wanted: &MapState,
        read_at: Seconds,
        now: Instant,
    ) -> Result<(), TableError> {
        let settings = settings::diff(&applied.tables, wanted);
        self.require(settings.first);
        let routes = routes::diff(applied, wanted, read_at, now)?;
        self.require(routes.writes);
        self.routes_without_number = routes.without_number;
        let services = services::diff(applied, &wanted.services);
        self.steps
            .extend(services.steps.into_iter().map(Step::Independent));
        if services.forgets_clients {
            self.steps.push(Step::ForgetClients);
        }
        self.require(settings.after_services);
        self.require(CLUSTER_CIDRS.diff(&applied.tables.cluster, &wanted.cluster)?);
        self.require(destinations(routes.fast_path, wanted));
        self.require(link_addresses(
            &applied.tables.link_addresses,
            &wanted.link_addresses,
        ));
        self.require(OFFICE_CIDRS.diff(&applied.tables.office, &wanted.office)?);
        Ok(())
    }

    fn require(&mut self, writes: Vec<Write>) {
        if !writes.is_empty() {
            self.steps.push(Step::Required(writes));
        }
    }
}

const CLUSTER_CIDRS: PrefixTable<ClusterCidr> = PrefixTable {
    name: name::CLUSTER_CIDRS,
    capacity: capacity::CLUSTER_CIDRS,
    insert: |prefix, cidr| Write::ClusterCidr { prefix, cidr },
    remove: Write::RemoveClusterCidr,
};

const OFFICE_CIDRS: PrefixTable<OfficeCidr> = PrefixTable {
    name: name::OFFICE_CIDRS,
    capacity: capacity::OFFICE_CIDRS,
    insert: |prefix, cidr| Write::OfficeCidr { prefix, cidr },
    remove: Write::RemoveOfficeCidr,
};

fn link_addresses(
    applied: &BTreeMap<LinkAddress, UpperLink>,
    wanted: &BTreeMap<LinkAddress, UpperLink>,
) -> Vec<Write> {
    let obsolete = applied
        .keys()
        .filter(|address| !wanted.contains_key(address));
    let missing = wanted
        .iter()
        .filter(|(address, device)| applied.get(address) != Some(device));
    obsolete
        .map(|address| Write::RemoveLinkAddress(*address))
        .chain(missing.map(|(&address, &device)| Write::LinkAddress { address, device }))
        .collect()
}

/// The copy of `cluster_cidrs` in `fast_path`, which is `before` until then.
fn destinations(before: FastPath, wanted: &MapState) -> Vec<Write> {
    let fast_path = FastPath {
        destinations: routes::destinations(&wanted.cluster),
        ..before
    };
    if fast_path == before {
        return Vec::new();
    }
    vec![Write::FastPath(Box::new(fast_path))]
}
