//! What is attached where, and bringing it to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

use bridge_common::abi::capacity;
use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use super::capabilities::XdpCapabilities;
use super::contest::Contest;
use super::hooks::{HookError, Hooks, Occupant, Owner, Standing, standing};
use super::incompatibility::XdpIncompatibilities;
use super::link::{self, is_linked};
use super::load::Datapath;
use super::load::{LoadError, classifier};
use super::mode::Mode;
use super::runs::{Pair, Runs};
use super::tc::TcAttach;
use super::tc::{attach_clsact, attach_tcx, detach_clsact, has_filter};
use super::xdp::{self, XdpRefusal};
use super::xdp_interfaces::XdpInterfaces;
use crate::maps::Pins;
use crate::maps::bpf_syscall::{detach_pinned_link, pinned_link};
use crate::model::program::{AttachPoint, AttachPoints, Hook, Program};
use crate::model::{Problem, Subject};

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refuses.
    #[error("can't attach {} to {} of {interface} ({mode}): {source}", .program.name(), .program.hook().name())]
    Refused {
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
        /// How it was tried.
        mode: Mode,
        /// What the kernel said.
        source: anyhow::Error,
    },
    /// The object is broken.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nobody can be asked what is attached.
    #[error(transparent)]
    Hooks(#[from] HookError),
    /// A pin can't be removed.
    #[error("can't remove the link {path}: {source}")]
    Unpin {
        /// The pin.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is attached, and how to change it.
pub struct Attachments {
    tc: Mode,
    attached: AttachPoints,
    /// What the drivers can do that have the XDP program.
    capabilities: BTreeMap<u32, XdpCapabilities>,
    /// Interfaces that XDP is wanted on and not to be had, and why.
    refusals: BTreeMap<u32, XdpRefusal>,
    /// The ids of TC programs that are ours: those of this process and, until they are replaced, of an earlier one.
    programs: BTreeSet<u32>,
    /// Who keeps TC programs from their places.
    rivals: BTreeMap<(Program, u32), Rival>,
    /// Counts what the rivals leave to ours.
    runs: Runs,
    /// Places that had to be taken back from others.
    contests: BTreeMap<(Program, u32), Contest>,
}

/// Somebody who keeps one of our programs from its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// The program and where it belongs.
    pub point: AttachPoint,
    /// Who is in its place, or before it.
    pub other: Occupant,
    /// Whether ours is attached, behind the other.
    pub is_attached: bool,
    /// Whether it has been seen that the other leaves no packet to ours.
    pub takes_all: bool,
}

impl Rival {
    /// What is wrong, and what to do about it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let Self {
            point,
            other,
            is_attached,
            takes_all,
        } = self;
        let (interface, hook) = (&point.interface, point.program.hook());
        let ours = point.program.name();
        let what = if *takes_all {
            format!(
                "on {interface} ({}) {other} is before our {ours} and takes all packets: none there is translated",
                hook.name()
            )
        } else if *is_attached {
            format!(
                "on {interface} ({}) {other} is before our {ours}: packets that it takes are not translated",
                hook.name()
            )
        } else {
            format!(
                "on {interface} ({}) {other} is in the place of our {ours}: no packet there is translated",
                hook.name()
            )
        };
        let remedy = format!(
            "stop what has attached it and remove it: `{}`",
            other.removal(interface, hook)
        );
        Problem::new(Subject::Interface(interface.clone()), what, remedy)
    }
}

impl Attachments {
    /// Nothing yet, but that the XDP programs of an earlier `run` may still forward. `reported` are the TC programs that it
    /// has told to be its own.
    pub async fn new(wanted: TcAttach, pins: &Pins, reported: BTreeSet<u32>) -> Self {
        let links = pins.pinned_links().unwrap_or_default();
        let mut capabilities = BTreeMap::new();
        for (name, ifindex, path) in links {
            if Program::from_name(&name) == Some(Program::XdpFast)
                && pinned_link(&path).is_ok_and(|link| link.ifindex == ifindex)
            {
                capabilities.extend(capabilities_of(ifindex, "").await);
            }
        }
        Self {
            tc: wanted.mode(),
            attached: AttachPoints::new(),
            capabilities,
            refusals: BTreeMap::new(),
            programs: reported,
            rivals: BTreeMap::new(),
            runs: Runs::default(),
            contests: BTreeMap::new(),
        }
    }

    /// The ids of TC programs that are ours, to be reported.
    #[must_use]
    pub fn programs(&self) -> &BTreeSet<u32> {
        &self.programs
    }

    /// Who keeps TC programs of ours from their places, as of the last [`Self::reconcile`].
    pub fn rivals(&self) -> impl Iterator<Item = &Rival> {
        self.rivals.values()
    }

    /// How TC programs are attached.
    #[must_use]
    pub fn tc_mode(&self) -> Mode {
        self.tc
    }

    /// Where programs are attached.
    #[must_use]
    pub fn points(&self) -> &AttachPoints {
        &self.attached
    }

    /// Interfaces that XDP can receive and send by, of those that have the program.
    #[must_use]
    pub fn xdp_interfaces(&self, incompatibilities: &XdpIncompatibilities) -> XdpInterfaces {
        XdpInterfaces::between(&self.capabilities, incompatibilities)
    }

    /// Interfaces, by index, that XDP is wanted on and not to be had; the TC path serves them.
    #[must_use]
    pub fn xdp_refusals(&self) -> &BTreeMap<u32, XdpRefusal> {
        &self.refusals
    }

    /// Why XDP is of less use where it is attached than it could be, without incompatibilities, and what to do.
    #[must_use]
    pub fn xdp_limits(&self, incompatibilities: &XdpIncompatibilities) -> Vec<String> {
        let ports = self.xdp_interfaces(incompatibilities);
        self.capabilities
            .iter()
            .filter(|&(ifindex, _)| !incompatibilities.contains_key(ifindex))
            .filter(|&(ifindex, _)| {
                !ports.receive.contains(ifindex) || !ports.send.contains(ifindex)
            })
            .filter_map(|(_, capabilities)| capabilities.limit.clone())
            .collect()
    }

    /// Attaches where it is wanted and detaches from the rest, links of an earlier `run` included. What the hooks hold is
    /// read back: what others have detached is put back, and moved to the front where others have got before it.
    /// What is attached already stays as it is, at an incompatibility too, since many a card loses packets over a change.
    /// Where XDP is refused there is none: see [`Self::xdp_refusals`].
    ///
    /// # Errors
    /// The first refusal at TC; the other points are attached all the same, but for XDP.
    pub async fn reconcile(
        &mut self,
        datapath: &mut Datapath,
        wanted: &AttachPoints,
        incompatibilities: &XdpIncompatibilities,
    ) -> Result<(), AttachError> {
        let mut result = Ok(());
        let is_tc = |point: &&AttachPoint| point.program.hook() != Hook::Xdp;
        self.rivals.retain(|key, _| wanted.contains_key(key));
        self.contests.retain(|key, _| wanted.contains_key(key));
        let pins = datapath.pins().clone();
        let mut hooks = Hooks::open(&pins, self.programs.iter().copied())?;
        for point in wanted.values().filter(is_tc) {
            match self.ensure_tc(datapath, &mut hooks, point).await {
                Ok(()) => {}
                Err(error) if result.is_ok() => result = Err(error),
                Err(error) => warn!("{error}"),
            }
        }
        self.count_runs(datapath, wanted).await;
        let xdp = wanted.values().filter(|point| !is_tc(point));
        self.refusals
            .retain(|&ifindex, _| wanted.contains_key(&(Program::XdpFast, ifindex)));
        for point in xdp {
            // What XDP passes on must find the others at their place.
            if result.is_ok() {
                self.ensure_xdp(datapath, point, incompatibilities).await;
            }
        }
        self.detach_unwanted(&mut hooks, wanted).await;
        if result.is_ok() && self.rivals.is_empty() {
            // Nothing of an earlier process is left.
            self.programs = own_programs(datapath);
        }
        self.find_abilities().await;
        result.and(self.remove_stale(datapath.pins(), wanted))
    }

    /// Looks at the hook, and attaches or moves the program if it does not stand first there. What has been attached is
    /// looked at again.
    async fn ensure_tc(
        &mut self,
        datapath: &mut Datapath,
        hooks: &mut Hooks<'_>,
        point: &AttachPoint,
    ) -> Result<(), AttachError> {
        /// Attaching, moving, and a look at the result.
        const LOOKS: u32 = 3;
        let own = classifier(&mut datapath.ebpf, point.program)?;
        let own = own.info().map_err(|source| self.refused(point, source))?;
        hooks.know(own.id());
        self.programs.insert(own.id());
        let now = Instant::now();
        for _ in 0..LOOKS {
            let found = match hooks.of(point, self.tc).await {
                Ok(found) => found,
                // What can't be looked at is believed to be as it was.
                Err(error)
                    if self.attached.get(&point.key()) == Some(point)
                        && if_nametoindex(point.interface.as_str()) == Ok(point.ifindex) =>
                {
                    warn!(interface = %point.interface, "{error}");
                    return Ok(());
                }
                Err(error) => return Err(self.refused(point, error)),
            };
            let standing = standing(&found, self.tc, Some(own.id()));
            match step(standing, self.tc, || self.may_contest(point, now)) {
                Step::Keep => {
                    self.attached.insert(point.key(), point.clone());
                    self.rivals.remove(&point.key());
                    if self
                        .contests
                        .get(&point.key())
                        .is_some_and(|contest| contest.is_won(now))
                    {
                        self.contests.remove(&point.key());
                    }
                    return Ok(());
                }
                Step::GiveWay(other) => {
                    self.give_way(point, standing, other.clone());
                    return Ok(());
                }
                Step::Attach => self.attach_tc(datapath, point, standing)?,
                Step::MoveFirst(other) => {
                    move_first(datapath, point).map_err(|source| self.refused(point, source))?;
                    warn!(
                        interface = %point.interface,
                        program = point.program.name(),
                        "{other} stood before it: moved to the front"
                    );
                }
            }
        }
        // Somebody else attaches as fast as we do.
        Ok(())
    }

    fn attach_tc(
        &self,
        datapath: &mut Datapath,
        point: &AttachPoint,
        standing: Standing<'_>,
    ) -> Result<(), AttachError> {
        let pins = datapath.pins().clone();
        let program = classifier(&mut datapath.ebpf, point.program)?;
        match self.tc {
            Mode::Clsact => attach_clsact(program, point),
            Mode::Tcx | Mode::Native => attach_tcx(program, point, &pins),
        }
        .map_err(|source| self.refused(point, source))?;
        let (interface, program) = (&point.interface, point.program.name());
        match standing {
            Standing::Missing(Some(other)) if other.owner != Owner::Ours => {
                warn!(%interface, program, "{other} had taken its place: attached again");
            }
            _ if self.attached.contains_key(&point.key()) => {
                warn!(%interface, program, "somebody had detached it: attached again");
            }
            _ => info!(%interface, program, mode = %self.tc, "attached"),
        }
        Ok(())
    }

    /// Finds out which of the strangers before our programs take all packets. At egress nothing tells how many packets
    /// there should have been.
    async fn count_runs(&mut self, datapath: &mut Datapath, wanted: &AttachPoints) {
        let mut pairs = BTreeMap::new();
        for (&key, rival) in &self.rivals {
            let point = &rival.point;
            let takes_xdp = wanted.contains_key(&(Program::XdpFast, point.ifindex));
            if rival.is_attached
                && point.program.hook() == Hook::TcIngress
                // What XDP takes does not get here.
                && !takes_xdp
                && let Some(other) = rival.other.program
                && let Ok(own) = classifier(&mut datapath.ebpf, point.program)
                && let Ok(own) = own.info()
            {
                let pair = Pair {
                    ifindex: point.ifindex,
                    other,
                    own: own.id(),
                };
                pairs.insert(pair, key);
            }
        }
        for (pair, takes_all) in self.runs.count(pairs.keys().copied()).await {
            let rival = pairs.get(&pair).and_then(|key| self.rivals.get_mut(key));
            if let Some(rival) = rival {
                rival.takes_all = takes_all;
            }
        }
    }

    fn may_contest(&mut self, point: &AttachPoint, now: Instant) -> bool {
        self.contests.entry(point.key()).or_default().may_try(now)
    }

    /// Leaves a hook to somebody else for now.
    fn give_way(&mut self, point: &AttachPoint, standing: Standing<'_>, other: Occupant) {
        let is_attached = matches!(standing, Standing::Behind(_));
        // It is wanted there all the same, and readiness is asked for it.
        self.attached.insert(point.key(), point.clone());
        let rival = Rival {
            point: point.clone(),
            other,
            is_attached,
            takes_all: false,
        };
        self.rivals.insert(point.key(), rival);
    }

    fn refused(&self, point: &AttachPoint, source: impl Into<anyhow::Error>) -> AttachError {
        AttachError::Refused {
            program: point.program,
            interface: point.interface.clone(),
            mode: self.tc,
            source: source.into(),
        }
    }

    /// Attaches XDP where it is not yet. If that is refused there is none: see [`Self::xdp_refusals`].
    pub async fn ensure_xdp(
        &mut self,
        datapath: &mut Datapath,
        point: &AttachPoint,
        incompatibilities: &XdpIncompatibilities,
    ) {
        if let Some(attached) = self.attached.get_mut(&point.key())
            && is_linked(datapath.pins(), point)
        {
            // It may be called otherwise now.
            attached.clone_from(point);
            return;
        }
        let others = self
            .attached
            .keys()
            .filter(|&&(program, ifindex)| program == Program::XdpFast && ifindex != point.ifindex);
        let outcome = if let Some(incompatibility) = incompatibilities.get(&point.ifindex) {
            Err(incompatibility.clone().into())
        } else if others.count() >= capacity::XDP_PORTS {
            Err(XdpRefusal::NoRoom {
                interface: point.interface.clone(),
                room: capacity::XDP_PORTS,
            })
        } else {
            xdp::attach(datapath, point).await
        };
        match outcome {
            Ok(()) => {
                info!(interface = %point.interface, program = point.program.name(), mode = %Mode::Native, "attached");
                self.refusals.remove(&point.ifindex);
                self.attached.insert(point.key(), point.clone());
            }
            Err(refusal) => {
                self.attached.remove(&point.key());
                self.refusals.insert(point.ifindex, refusal);
            }
        }
    }

    /// Forgets what is not wanted any more, and removes filters; links go with their pins.
    async fn detach_unwanted(&mut self, hooks: &mut Hooks<'_>, wanted: &AttachPoints) {
        let is_wanted = |key: &_, point: &AttachPoint| wanted.get(key) == Some(point);
        let unwanted = self
            .attached
            .extract_if(.., |key, point| !is_wanted(key, point))
            .map(|(_, point)| point);
        for point in unwanted.collect::<Vec<_>>() {
            info!(interface = %point.interface, program = point.program.name(), "no longer needed, detached");
            if self.tc == Mode::Clsact && !has_filter(wanted, &point) {
                detach_clsact(hooks, &point).await;
            }
        }
    }

    /// Asks what can be done where XDP is attached. Features come and go with the settings of a card.
    async fn find_abilities(&mut self) {
        self.capabilities.clear();
        for point in self.attached.values() {
            if point.program.hook() == Hook::Xdp {
                let capabilities = capabilities_of(point.ifindex, &point.interface).await;
                self.capabilities.extend(capabilities);
            }
        }
    }

    /// Removes links of interfaces that are gone, no longer wanted or refused, and those of the other mode.
    fn remove_stale(&self, pins: &Pins, wanted: &AttachPoints) -> Result<(), AttachError> {
        let links = pins.pinned_links().map_err(|source| AttachError::Unpin {
            path: pins.links().display().to_string(),
            source,
        })?;
        for (name, ifindex, path) in links {
            let keep = Program::from_name(&name).is_some_and(|program| match program.hook() {
                // After a failure at TC the one of an earlier `run` goes on.
                Hook::Xdp => {
                    wanted.contains_key(&(program, ifindex))
                        && !self.refusals.contains_key(&ifindex)
                }
                Hook::TcIngress | Hook::TcEgress => {
                    self.tc == Mode::Tcx && wanted.contains_key(&(program, ifindex))
                }
            });
            if !keep {
                detach_pinned_link(&path).map_err(|source| AttachError::Unpin {
                    path: path.display().to_string(),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

/// What an interface can do by XDP, by its index; nothing if it is gone.
async fn capabilities_of(ifindex: u32, interface: &str) -> Option<(u32, XdpCapabilities)> {
    Some((ifindex, XdpCapabilities::of(ifindex, interface).await?))
}

/// What is done about how a program stands.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Nothing: it is first.
    Keep,
    /// Attach it.
    Attach,
    /// Put it before this one.
    MoveFirst(&'a Occupant),
    /// Leave it at that, and tell of this one.
    GiveWay(&'a Occupant),
}

/// What to do about how a program stands. `may_contest` says whether it is tried (again) to get before or in the place of
/// somebody else, and is asked only where that is the question.
fn step(standing: Standing<'_>, tc: Mode, mut may_contest: impl FnMut() -> bool) -> Step<'_> {
    match standing {
        Standing::First => Step::Keep,
        Standing::Missing(Some(other)) if other.owner == Owner::OtherInstance => {
            Step::GiveWay(other)
        }
        Standing::Missing(Some(other)) if other.owner == Owner::Stranger && !may_contest() => {
            Step::GiveWay(other)
        }
        Standing::Missing(_) => Step::Attach,
        // Filters are ordered by their priority, and ours has to be known by its own.
        Standing::Behind(other) if tc == Mode::Tcx && other.owner == Owner::Stranger => {
            if may_contest() {
                Step::MoveFirst(other)
            } else {
                Step::GiveWay(other)
            }
        }
        Standing::Behind(other) => Step::GiveWay(other),
    }
}

/// The ids of the TC programs of this process.
fn own_programs(datapath: &mut Datapath) -> BTreeSet<u32> {
    let programs = Program::ALL.into_iter();
    let programs = programs.filter(|program| program.hook() != Hook::Xdp);
    programs
        .filter_map(|program| classifier(&mut datapath.ebpf, program).ok()?.info().ok())
        .map(|info| info.id())
        .collect()
}

/// Puts our program before all others at its TCX hook.
fn move_first(datapath: &mut Datapath, point: &AttachPoint) -> anyhow::Result<()> {
    let pins = datapath.pins().clone();
    let mut copy = datapath.stand_in(point.program)?;
    let stand_in = classifier(&mut copy, point.program)?.fd()?.try_clone()?;
    let program = classifier(&mut datapath.ebpf, point.program)?.fd()?;
    link::move_first(&pins, point, program.as_fd(), stand_in.as_fd())?;
    Ok(())
}

/// How our program is attached there right now, asked of the kernel, and who keeps it from its place, if anybody does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How it is attached; `None` where it is not.
    pub mode: Option<Mode>,
    /// Who is in its place, or before it.
    pub other: Option<Occupant>,
}

/// Asks the kernel how our program stands there. `tc` is how TC programs are attached.
///
/// # Errors
/// When the kernel does not say.
pub async fn find(
    hooks: &mut Hooks<'_>,
    point: &AttachPoint,
    tc: Mode,
) -> Result<Found, HookError> {
    let is_xdp = point.program.hook() == Hook::Xdp;
    let mode = if is_xdp { Mode::Native } else { tc };
    let found = hooks.of(point, tc).await?;
    Ok(match standing(&found, mode, None) {
        Standing::First => Found {
            mode: Some(mode),
            other: None,
        },
        Standing::Behind(other) => Found {
            mode: Some(mode),
            other: Some(other.clone()),
        },
        Standing::Missing(other) => Found {
            mode: None,
            other: other.cloned(),
        },
    })
}

/// How our program is attached there right now, asked of the kernel; `None` where it is not, or the kernel does not say.
/// `tc` is how TC programs are attached.
pub async fn attached(pins: &Pins, point: &AttachPoint, tc: Mode) -> Option<Mode> {
    let mut hooks = Hooks::open(pins, []).ok()?;
    find(&mut hooks, point, tc).await.ok()?.mode
}

#[cfg(test)]
mod tests {
    use super::super::hooks::Place;
    use super::*;

    fn by(owner: Owner) -> Occupant {
        Occupant {
            place: Place::Tcx(Some(1)),
            program: Some(8),
            name: "pass".to_owned(),
            owner,
        }
    }

    #[test]
    fn what_is_missing_is_put_back_without_a_contest() {
        let unasked = || panic!("nobody is in the way");
        for tc in [Mode::Tcx, Mode::Clsact] {
            assert_eq!(step(Standing::First, tc, unasked), Step::Keep);
            assert_eq!(step(Standing::Missing(None), tc, unasked), Step::Attach);
            let predecessor = by(Owner::Ours);
            let standing = Standing::Missing(Some(&predecessor));
            assert_eq!(step(standing, tc, unasked), Step::Attach);
        }
    }

    #[test]
    fn a_stranger_is_contested_until_that_is_of_no_use() {
        let other = by(Owner::Stranger);
        let behind = Standing::Behind(&other);
        assert_eq!(step(behind, Mode::Tcx, || true), Step::MoveFirst(&other));
        assert_eq!(step(behind, Mode::Tcx, || false), Step::GiveWay(&other));
        let replaced = Standing::Missing(Some(&other));
        assert_eq!(step(replaced, Mode::Clsact, || true), Step::Attach);
        assert_eq!(
            step(replaced, Mode::Clsact, || false),
            Step::GiveWay(&other)
        );
        // No filter can be put before one with a lower priority without another priority.
        let unasked = || panic!("there is no contest");
        assert_eq!(step(behind, Mode::Clsact, unasked), Step::GiveWay(&other));
    }

    #[test]
    fn another_instance_is_not_contested() {
        let other = by(Owner::OtherInstance);
        let unasked = || panic!("there is no contest");
        for standing in [Standing::Behind(&other), Standing::Missing(Some(&other))] {
            for tc in [Mode::Tcx, Mode::Clsact] {
                assert_eq!(step(standing, tc, unasked), Step::GiveWay(&other));
            }
        }
    }
}
