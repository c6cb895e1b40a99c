//! Tables in memory, that refuse writes where they are told to and judge every other as the datapath would suffer it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bridge_common::abi::{Affinity, AffinityKey, NatPort, Seconds, name};
use ipnet::Ipv4Net;

use super::view::View;
use super::wanted::{PORTS, Wanted};
use crate::maps::TableError;
use crate::plan::map_state::MapState;
use crate::reconcile::applied::Applied;
use crate::reconcile::apply::TableWriter;
use crate::reconcile::changes::Changes;
use crate::reconcile::diff::Diff;
use crate::reconcile::image::Image;
use crate::reconcile::write::Write;

/// Which writes fail, counted from 0.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failing {
    Nothing,
    /// This one.
    Only(usize),
    /// This one and all that follow.
    From(usize),
    /// All of a kind.
    Those(fn(&Write) -> bool),
}

/// Tables, and what reconciles them.
pub(super) struct Fixture {
    pub(super) applied: Applied,
    pub(super) tables: FakeTables,
}

impl Fixture {
    /// Empty tables.
    pub(super) fn new() -> Self {
        let image = Image {
            nat_ports: vec![NatPort::default(); usize::from(PORTS)],
            ..Image::default()
        };
        Self {
            applied: Applied::new(image.clone()),
            tables: FakeTables::new(image),
        }
    }

    /// Tables with this in them.
    pub(super) fn with(wanted: &Wanted) -> Self {
        let mut fixture = Self::new();
        fixture.apply(wanted).unwrap();
        fixture.tables.writes.clear();
        fixture
    }

    /// As if another process went on.
    pub(super) fn restart(&mut self) {
        self.applied = Applied::new(self.tables.image.clone());
    }

    pub(super) fn after(&mut self, milliseconds: u64) -> &mut Self {
        self.tables.now += Duration::from_millis(milliseconds);
        self
    }

    /// Lets writes fail from now on, until the next [`Fixture::heal`].
    pub(super) fn fail(&mut self, failing: Failing) {
        self.tables.failing = failing;
        self.tables.attempts = 0;
    }

    pub(super) fn heal(&mut self) {
        self.tables.failing = Failing::Nothing;
    }

    pub(super) fn apply(&mut self, wanted: &Wanted) -> Result<Changes, TableError> {
        self.apply_read_at(&wanted.map_state(), READ_AT)
    }

    /// Applies what is wanted, and checks that what was noted is what was written.
    pub(super) fn apply_read_at(
        &mut self,
        wanted: &MapState,
        read_at: Seconds,
    ) -> Result<Changes, TableError> {
        let now = self.tables.now;
        let diff = Diff::new(&self.applied, wanted, read_at, now);
        self.tables.has_failed = false;
        self.tables.wanted = Some(wanted.clone());
        let outcome = diff.apply(&mut self.applied, &mut self.tables, now);
        assert_eq!(self.applied.tables, self.tables.image);
        if outcome.is_ok() {
            assert_eq!(View::of(&self.tables.image), View::wanted(wanted));
            assert_no_orphans(&self.tables.image);
            let tables = &self.tables;
            tables.caches.assert_no_flow_is_misled(&tables.image);
            let again = Diff::new(&self.applied, wanted, read_at, now);
            assert!(
                again.steps.is_empty() && again.refused.is_none(),
                "{again:?}"
            );
        }
        outcome
    }

    /// The writes since this was called last.
    pub(super) fn writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.tables.writes)
    }
}

/// When the kernel was read, unless a test says otherwise.
pub(super) const READ_AT: Seconds = 1_000;

pub(super) struct FakeTables {
    pub(super) image: Image,
    pub(super) affinity: BTreeMap<AffinityKey, Affinity>,
    /// What was written.
    pub(super) writes: Vec<Write>,
    failing: Failing,
    attempts: usize,
    has_failed: bool,
    now: Instant,
    wanted: Option<MapState>,
    caches: Caches,
}

impl FakeTables {
    fn new(image: Image) -> Self {
        Self {
            image,
            affinity: BTreeMap::new(),
            writes: Vec::new(),
            failing: Failing::Nothing,
            attempts: 0,
            has_failed: false,
            now: Instant::now(),
            wanted: None,
            caches: Caches::default(),
        }
    }

    /// Entries of `backends`.
    pub(super) fn backend_count(&self) -> usize {
        self.image.backends.values().map(BTreeMap::len).sum()
    }

    fn fails(&self, write: &Write) -> bool {
        match self.failing {
            Failing::Nothing => false,
            Failing::Only(at) => self.attempts == at,
            Failing::From(at) => self.attempts >= at,
            Failing::Those(is_one) => is_one(write),
        }
    }

    fn check_before(&self, write: &Write) {
        let image = &self.image;
        match write {
            Write::NextHop { number, .. } => assert!(!image.next_hops.contains_key(number)),
            Write::Vtep { number, .. } => assert!(!image.vteps.contains_key(number)),
            Write::ClearNextHop(number) => {
                self.caches.next_hops.assert_forgotten(*number, self.now);
            }
            Write::ClearVtep(number) => self.caches.vteps.assert_forgotten(*number, self.now),
            Write::Backend { key, .. } | Write::RemoveBackend(key) => assert!(
                image
                    .services
                    .values()
                    .all(|service| service.id != key.service_id),
                "{write:?} changes a list that a service has"
            ),
            _ if makes_ours(write, image) && !self.has_failed => {
                let (now, wanted) = (View::of(image), View::wanted(self.wanted.as_ref().unwrap()));
                assert_eq!(now.services, wanted.services, "before {write:?}");
                assert_eq!(now.routes, wanted.routes, "before {write:?}");
            }
            _ => {}
        }
    }
}

impl TableWriter for FakeTables {
    fn write(&mut self, write: &Write) -> Result<(), TableError> {
        let fails = self.fails(write);
        self.attempts += 1;
        if fails {
            self.has_failed = true;
            return Err(TableError::Full {
                table: table(write),
                capacity: 0,
            });
        }
        self.check_before(write);
        self.image.record(write);
        if let Write::RemoveAffinity(key) = write {
            self.affinity.remove(key);
        }
        View::of(&self.image);
        self.caches.look(&self.image, self.now);
        self.writes.push(write.clone());
        Ok(())
    }

    fn affinity(&self) -> Result<Vec<(AffinityKey, Affinity)>, TableError> {
        Ok(self
            .affinity
            .iter()
            .map(|(key, value)| (*key, *value))
            .collect())
    }
}

/// What flows may have cached: any number that they find, in the epoch that they find.
#[derive(Default)]
struct Caches {
    /// The last epoch in which a flow by this route may have cached this number.
    flows: BTreeMap<(Ipv4Net, u16), u32>,
    next_hops: Cached,
    vteps: Cached,
}

impl Caches {
    fn look(&mut self, image: &Image, now: Instant) {
        let epoch = image.fast_path.epoch;
        let next_hops = image.next_hops_in_use();
        let vteps = image.vteps_in_use(&next_hops);
        let flows = image.routes.iter();
        self.flows
            .extend(flows.map(|(prefix, route)| ((*prefix, route.next_hop), epoch)));
        self.next_hops.look(&next_hops, epoch, now);
        self.vteps.look(&vteps, epoch, now);
    }

    fn assert_no_flow_is_misled(&self, image: &Image) {
        for ((prefix, number), epoch) in &self.flows {
            let route = image.routes.get(prefix);
            assert!(
                *epoch != image.fast_path.epoch
                    || route.is_some_and(|route| route.next_hop == *number),
                "flows to {prefix} have {number} cached in this epoch"
            );
        }
    }
}

/// Numbers of one array that flows may have cached.
#[derive(Default)]
struct Cached {
    /// The last epoch in which a flow may have cached a number.
    last: BTreeMap<u16, u32>,
    /// When each epoch began.
    epochs: BTreeMap<u32, Instant>,
}

impl Cached {
    fn look(&mut self, in_use: &BTreeSet<u16>, epoch: u32, now: Instant) {
        self.epochs.entry(epoch).or_insert(now);
        self.last
            .extend(in_use.iter().map(|number| (*number, epoch)));
    }

    fn assert_forgotten(&self, number: u16, now: Instant) {
        let Some(&epoch) = self.last.get(&number) else {
            return;
        };
        let next = self.epochs.range(epoch + 1..).next();
        let (_, &since) = next.expect("flows have this number cached");
        assert!(
            now - since >= Duration::from_secs(1),
            "packets have {number}"
        );
    }
}

/// Whether packets become ours by this.
fn makes_ours(write: &Write, before: &Image) -> bool {
    match write {
        Write::OfficeCidr { .. } | Write::ClusterCidr { .. } => true,
        Write::FastPath(after) => after.destinations != before.fast_path.destinations,
        Write::Settings(after) => after.authoritative > before.settings.authoritative,
        _ => false,
    }
}

fn assert_no_orphans(image: &Image) {
    for id in image.backends.keys() {
        let mut services = image.services.values();
        assert!(services.any(|service| service.id == *id), "{id}");
    }
}

/// The name of the table that is written.
pub(super) fn table(write: &Write) -> &'static str {
    match write {
        Write::Settings(_) => name::SETTINGS,
        Write::NatPort { .. } => name::NAT_PORTS,
        Write::Vtep { .. } | Write::ClearVtep(_) => name::VTEP_FDB,
        Write::NextHop { .. } | Write::ClearNextHop(_) => name::NEXT_HOPS,
        Write::Route { .. } | Write::RemoveRoute(_) => name::ROUTES,
        Write::FastPath(_) => name::FAST_PATH,
        Write::Backend { .. } | Write::RemoveBackend(_) => name::BACKENDS,
        Write::Service { .. } | Write::RemoveService(_) => name::SERVICES,
        Write::RemoveAffinity(_) => name::AFFINITY,
        Write::ClusterCidr { .. } | Write::RemoveClusterCidr(_) => name::CLUSTER_CIDRS,
        Write::OfficeCidr { .. } | Write::RemoveOfficeCidr(_) => name::OFFICE_CIDRS,
        Write::LinkAddress { .. } | Write::RemoveLinkAddress(_) => name::LINK_ADDRESSES,
    }
}
