//! What stands at a hook, read back from the kernel, and where ours stands among it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use aya::programs::{ProgramInfo, loaded_programs};

use super::mode::Mode;
use crate::kernel::netlink::{Filter, Filters, NetlinkError, xdp_link};
use crate::maps::Pins;
use crate::maps::bpf_syscall::{TcxProgram, pinned_link, tcx_programs};
use crate::model::program::{AttachPoint, Hook, Program};

/// The kernel does not say what stands at a hook.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// By bpf(2).
    #[error("the kernel does not tell its TCX programs: {0}")]
    Tcx(#[from] io::Error),
    /// By netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Whose a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The bridge of this pin path: it works on the tables that are pinned there.
    Ours,
    /// An office-bridge of another pin path: our programs' name, and other tables.
    OtherInstance,
    /// Somebody else.
    Stranger,
}

/// How something is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At the TCX hook, perhaps by a link of this id.
    Tcx(Option<u32>),
    /// As a filter of the clsact qdisc.
    Filter {
        /// Lower ones meet packets first.
        priority: u16,
        /// Tells it from others of the same priority.
        handle: u32,
        /// `bpf`, `flower` and the like.
        kind: String,
        /// Whether our filter belongs there.
        is_ours: bool,
    },
    /// At the XDP hook.
    Xdp,
}

/// Something that stands at a hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occupant {
    /// How it is attached.
    pub place: Place,
    /// The id of its program; filters may have none.
    pub program: Option<u32>,
    /// The name of its program, cut by the kernel after 15 bytes. Empty where it has none.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
}

impl Occupant {
    /// Whether it is our program, attached in this mode. Of the process that runs it has to be `loaded` by that; else any of
    /// this pin path will do.
    fn is_own(&self, mode: Mode, loaded: Option<u32>) -> bool {
        let is_in_place = match &self.place {
            Place::Tcx(_) => mode == Mode::Tcx,
            Place::Filter { is_ours, .. } => mode == Mode::Clsact && *is_ours,
            Place::Xdp => mode == Mode::Native,
        };
        is_in_place
            && self.owner == Owner::Ours
            && loaded.is_none_or(|loaded| self.program == Some(loaded))
    }

    /// Whether ours can't be where it belongs because of this.
    fn is_in_the_place_of_ours(&self, mode: Mode) -> bool {
        match &self.place {
            Place::Tcx(_) => false,
            Place::Filter { is_ours, .. } => mode == Mode::Clsact && *is_ours,
            Place::Xdp => mode == Mode::Native,
        }
    }

    /// The command that removes it.
    #[must_use]
    pub fn removal(&self, interface: &str, hook: Hook) -> String {
        let side = if hook == Hook::TcEgress {
            "egress"
        } else {
            "ingress"
        };
        match &self.place {
            Place::Tcx(Some(link)) => format!("bpftool link detach id {link}"),
            Place::Tcx(None) => format!("bpftool net detach tcx_{side} dev {interface}"),
            Place::Filter {
                priority,
                handle,
                kind,
                ..
            } => format!(
                "tc filter del dev {interface} {side} pref {priority} handle {handle:#x} {kind}"
            ),
            Place::Xdp => format!("ip link set dev {interface} xdp off"),
        }
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.owner == Owner::OtherInstance {
            f.write_str("another office-bridge's ")?;
        }
        match (self.program, &self.place) {
            (Some(program), _) => write!(f, "`{}` (program {program})", self.name),
            (None, Place::Filter { priority, kind, .. }) => {
                write!(f, "a `{kind}` filter with priority {priority}")
            }
            (None, _) => f.write_str("an unknown program"),
        }
    }
}

/// How our program stands at its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Before everybody else.
    First,
    /// There, but packets meet this one before it.
    Behind(&'a Occupant),
    /// Not there; this is in its place, if anything is.
    Missing(Option<&'a Occupant>),
}

/// How our program stands among what a hook holds, in the order in which packets meet it. `loaded` is the id of the program
/// that it has to be; `None` takes any of this pin path.
#[must_use]
pub fn standing(occupants: &[Occupant], mode: Mode, loaded: Option<u32>) -> Standing<'_> {
    let own = occupants
        .iter()
        .position(|occupant| occupant.is_own(mode, loaded));
    let Some(own) = own else {
        let mut occupants = occupants.iter();
        return Standing::Missing(
            occupants.find(|occupant| occupant.is_in_the_place_of_ours(mode)),
        );
    };
    let before = || {
        occupants[..own]
            .iter()
            .filter(|occupant| occupant.owner != Owner::Ours)
    };
    // What surely takes our packets is the one to tell.
    let other = before().find(|occupant| occupant.owner == Owner::OtherInstance);
    match other.or_else(|| before().next()) {
        Some(other) => Standing::Behind(other),
        None => Standing::First,
    }
}

/// Reads what stands at hooks. Make one for each round of looking: what it has learnt of programs it believes.
pub struct Hooks<'a> {
    pins: &'a Pins,
    filters: Filters,
    /// Programs that are known to be ours.
    ours: BTreeSet<u32>,
    /// Whether what was reported tells our programs.
    is_reported: bool,
    loaded: OnceCell<BTreeMap<u32, ProgramInfo>>,
    tables: OnceCell<BTreeSet<u32>>,
}

impl<'a> Hooks<'a> {
    /// Looks on behalf of the bridge with these pins, which has reported that these programs are its own.
    ///
    /// # Errors
    /// When there is no netlink socket.
    pub fn open(
        pins: &'a Pins,
        reported: impl IntoIterator<Item = u32>,
    ) -> Result<Self, HookError> {
        let ours: BTreeSet<u32> = reported.into_iter().collect();
        Ok(Self {
            pins,
            filters: Filters::open()?,
            is_reported: !ours.is_empty(),
            ours,
            loaded: OnceCell::new(),
            tables: OnceCell::new(),
        })
    }

    /// Takes a program for ours without a look at its tables.
    pub fn know(&mut self, program: u32) {
        self.ours.insert(program);
    }

    /// What stands at a hook, in the order in which packets meet it.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub async fn at(&mut self, ifindex: u32, hook: Hook) -> Result<Vec<Occupant>, HookError> {
        self.know_links(ifindex, hook);
        if hook == Hook::Xdp {
            let program = xdp_link(ifindex).await?.program;
            let place = |id| self.occupant(Place::Xdp, Some(id), None);
            return Ok(program.map(place).into_iter().collect());
        }
        let tcx = self.tcx(ifindex, hook)?;
        let filters = self.filters.at(ifindex, hook).await?;
        let filters = filters.into_iter().map(|filter| {
            let is_ours = filter.is_in_our_place();
            let Filter {
                priority,
                handle,
                kind,
                program,
                name,
            } = filter;
            let place = Place::Filter {
                priority,
                handle,
                kind,
                is_ours,
            };
            (place, program, name)
        });
        let filters = filters.map(|(place, program, name)| self.occupant(place, program, name));
        Ok(tcx.into_iter().chain(filters).collect())
    }

    /// What stands where this program belongs and may be before it, where TC programs are attached in this mode: a TCX
    /// program has no filter before it.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub async fn of(&mut self, point: &AttachPoint, tc: Mode) -> Result<Vec<Occupant>, HookError> {
        let (ifindex, hook) = (point.ifindex, point.program.hook());
        if tc == Mode::Tcx && hook != Hook::Xdp {
            self.know_links(ifindex, hook);
            return self.tcx(ifindex, hook);
        }
        self.at(ifindex, hook).await
    }

    fn tcx(&self, ifindex: u32, hook: Hook) -> Result<Vec<Occupant>, HookError> {
        let programs = tcx_programs(ifindex, hook)?.into_iter();
        let occupant =
            |TcxProgram { program, link }| self.occupant(Place::Tcx(link), Some(program), None);
        Ok(programs.map(occupant).collect())
    }

    /// Programs in links that are pinned at our place are ours, whatever tables they use.
    fn know_links(&mut self, ifindex: u32, hook: Hook) {
        let programs = Program::ALL
            .into_iter()
            .filter(|program| program.hook() == hook);
        let links =
            programs.filter_map(|program| pinned_link(&self.pins.link(program, ifindex)).ok());
        let links = links.filter(|link| link.ifindex == ifindex);
        self.ours.extend(links.map(|link| link.program));
    }

    /// `given` is the name of a filter, for programs that are gone again.
    fn occupant(&self, place: Place, program: Option<u32>, given: Option<String>) -> Occupant {
        if let Some(id) = program
            && self.ours.contains(&id)
        {
            return Occupant {
                place,
                program,
                name: given.unwrap_or_default(),
                owner: Owner::Ours,
            };
        }
        let info = program.and_then(|id| self.loaded().get(&id));
        let name = info
            .and_then(ProgramInfo::name_as_str)
            .map(str::to_owned)
            .or(given)
            .unwrap_or_default();
        let owner = match info {
            _ if !is_name_of_ours(&name) => Owner::Stranger,
            Some(info) if self.uses_our_tables(info) => Owner::Ours,
            Some(_) => Owner::OtherInstance,
            // Without CAP_SYS_ADMIN programs can't be looked at, only the names of filters.
            None if self.is_reported => Owner::OtherInstance,
            None => Owner::Ours,
        };
        Occupant {
            place,
            program,
            name,
            owner,
        }
    }

    fn loaded(&self) -> &BTreeMap<u32, ProgramInfo> {
        self.loaded.get_or_init(|| {
            loaded_programs()
                .filter_map(Result::ok)
                .map(|program| (program.id(), program))
                .collect()
        })
    }

    fn uses_our_tables(&self, program: &ProgramInfo) -> bool {
        let tables = self.tables.get_or_init(|| self.pins.table_ids());
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        used.iter().any(|id| tables.contains(id))
    }
}

/// Whether it is the name of one of our programs, that of XDP in several buffers included.
fn is_name_of_ours(name: &str) -> bool {
    Program::from_name(name.strip_suffix("_frags").unwrap_or(name)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 7;

    fn occupant(place: Place, program: u32, owner: Owner) -> Occupant {
        let name = match owner {
            Owner::Stranger => "pass",
            Owner::Ours | Owner::OtherInstance => Program::UplinkIngress.name(),
        };
        Occupant {
            place,
            program: Some(program),
            name: name.to_owned(),
            owner,
        }
    }

    fn tcx(program: u32, owner: Owner) -> Occupant {
        occupant(Place::Tcx(Some(100 + program)), program, owner)
    }

    fn filter(priority: u16, program: u32, owner: Owner) -> Occupant {
        let filter = Filter {
            priority,
            handle: 1,
            kind: "bpf".to_owned(),
            ..Filter::default()
        };
        let place = Place::Filter {
            is_ours: filter.is_in_our_place(),
            priority,
            handle: 1,
            kind: filter.kind,
        };
        occupant(place, program, owner)
    }

    #[test]
    fn a_program_with_nobody_before_it_stands_first() {
        let found = [
            tcx(OURS, Owner::Ours),
            tcx(8, Owner::Stranger),
            filter(1, 9, Owner::Stranger),
        ];
        assert_eq!(standing(&found, Mode::Tcx, Some(OURS)), Standing::First);
        assert_eq!(standing(&found, Mode::Tcx, None), Standing::First);
        let found = [
            filter(50, OURS, Owner::Ours),
            filter(60, 8, Owner::Stranger),
        ];
        assert_eq!(standing(&found, Mode::Clsact, Some(OURS)), Standing::First);
    }

    #[test]
    fn a_stranger_before_ours_is_named() {
        let found = [tcx(8, Owner::Stranger), tcx(OURS, Owner::Ours)];
        let is = standing(&found, Mode::Tcx, Some(OURS));
        assert_eq!(is, Standing::Behind(&found[0]));
        let found = [
            filter(10, 8, Owner::Stranger),
            filter(50, OURS, Owner::Ours),
        ];
        let is = standing(&found, Mode::Clsact, Some(OURS));
        assert_eq!(is, Standing::Behind(&found[0]));
        // Packets meet TCX before any filter.
        let found = [tcx(8, Owner::Stranger), filter(50, OURS, Owner::Ours)];
        let is = standing(&found, Mode::Clsact, Some(OURS));
        assert_eq!(is, Standing::Behind(&found[0]));
    }

    #[test]
    fn another_instance_before_ours_is_named_rather_than_a_stranger() {
        let found = [
            tcx(8, Owner::Stranger),
            tcx(9, Owner::OtherInstance),
            tcx(OURS, Owner::Ours),
        ];
        let is = standing(&found, Mode::Tcx, Some(OURS));
        assert_eq!(is, Standing::Behind(&found[1]));
    }

    #[test]
    fn a_program_that_is_gone_is_missing_whatever_else_there_is() {
        assert_eq!(standing(&[], Mode::Tcx, None), Standing::Missing(None));
        let found = [tcx(8, Owner::Stranger), tcx(9, Owner::OtherInstance)];
        assert_eq!(standing(&found, Mode::Tcx, None), Standing::Missing(None));
        for owner in [Owner::Stranger, Owner::OtherInstance] {
            let found = [filter(10, 8, Owner::Stranger), filter(50, 9, owner)];
            let is = standing(&found, Mode::Clsact, Some(OURS));
            assert_eq!(is, Standing::Missing(Some(&found[1])));
        }
    }

    #[test]
    fn a_predecessors_program_is_ours_for_who_looks_and_missing_for_who_runs() {
        let found = [filter(50, 6, Owner::Ours)];
        assert_eq!(standing(&found, Mode::Clsact, None), Standing::First);
        let is = standing(&found, Mode::Clsact, Some(OURS));
        assert_eq!(is, Standing::Missing(Some(&found[0])));
    }

    #[test]
    fn what_an_earlier_mode_has_left_is_neither_ours_nor_in_the_way() {
        let found = [tcx(6, Owner::Ours), filter(50, OURS, Owner::Ours)];
        assert_eq!(standing(&found, Mode::Clsact, Some(OURS)), Standing::First);
        assert_eq!(
            standing(&found[..1], Mode::Clsact, Some(OURS)),
            Standing::Missing(None)
        );
    }

    #[test]
    fn an_occupant_is_told_with_the_command_that_removes_it() {
        let stranger = tcx(8, Owner::Stranger);
        assert_eq!(stranger.to_string(), "`pass` (program 8)");
        assert_eq!(
            stranger.removal("eth0", Hook::TcIngress),
            "bpftool link detach id 108"
        );
        let other = filter(50, 9, Owner::OtherInstance);
        assert_eq!(
            other.to_string(),
            "another office-bridge's `uplink_ingress` (program 9)"
        );
        assert_eq!(
            other.removal("eth0", Hook::TcEgress),
            "tc filter del dev eth0 egress pref 50 handle 0x1 bpf"
        );
    }
}
