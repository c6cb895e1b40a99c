//! Attaching programs to interfaces: TCX links from kernel 6.6 on, clsact filters below.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcError};
use aya::util::KernelVersion;
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::load::{LoadError, classifier};
use super::program::{AttachPoint, AttachPoints, Hook, Program};
use super::{Datapath, Pins};
use crate::bpf::{detach_pinned_link, pinned_tcx_ifindex};
use crate::netlink;

/// Priority of our clsact filter: before the default 49152 that filters without one get.
const PRIORITY: u16 = 50;
/// Handle of our clsact filter, so that a successor replaces it in place.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A TCX link (kernel 6.6).
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Which way of attaching is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcAttach {
    /// TCX where the kernel has it.
    #[default]
    Auto,
    /// Always clsact.
    Clsact,
}

impl TcAttach {
    /// The mode to use on this kernel.
    #[must_use]
    pub fn mode(self) -> Mode {
        let tcx =
            KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        match self {
            Self::Auto if tcx => Mode::Tcx,
            Self::Auto | Self::Clsact => Mode::Clsact,
        }
    }
}

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
    mode: Mode,
    attached: AttachPoints,
}

impl Attachments {
    /// Nothing yet.
    #[must_use]
    pub fn new(wanted: TcAttach) -> Self {
        Self {
            mode: wanted.mode(),
            attached: AttachPoints::new(),
        }
    }

    /// How programs are attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where programs are attached.
    #[must_use]
    pub fn points(&self) -> &AttachPoints {
        &self.attached
    }

    /// Attaches where it is wanted and detaches from the rest, links of an earlier `run` included.
    /// What is attached already stays as it is.
    ///
    /// # Errors
    /// The first refusal; the other points are attached all the same.
    pub fn reconcile(
        &mut self,
        datapath: &mut Datapath,
        wanted: &AttachPoints,
    ) -> Result<(), AttachError> {
        let mut result = Ok(());
        for (&key, point) in wanted {
            if self.attached.get(&key) == Some(point) && self.is_intact(datapath.pins(), point) {
                continue;
            }
            match self.attach(datapath, point) {
                Ok(()) => {
                    info!(interface = %point.interface, program = point.program.name(), mode = %self.mode, "attached");
                    warn_of_others(datapath, point);
                    self.attached.insert(key, point.clone());
                }
                Err(error) if result.is_ok() => result = Err(error),
                Err(error) => warn!("{error}"),
            }
        }
        self.attached.retain(|key, point| {
            let keep = wanted.get(key) == Some(point);
            if !keep {
                info!(interface = %point.interface, program = point.program.name(), "no longer needed, detached");
                if self.mode == Mode::Clsact && !has_filter(wanted, point) {
                    detach_clsact(point);
                }
            }
            keep
        });
        result.and(remove_stale(datapath.pins(), wanted, self.mode))
    }

    /// Whether a link is still where it was put: somebody may have cleaned up behind our back. Filters are not
    /// looked at.
    fn is_intact(&self, pins: &Pins, point: &AttachPoint) -> bool {
        self.mode != Mode::Tcx || is_linked(pins, point)
    }

    fn attach(&self, datapath: &mut Datapath, point: &AttachPoint) -> Result<(), AttachError> {
        let pin = datapath.pins().link(point.program, point.ifindex);
        let program = classifier(&mut datapath.ebpf, point.program)?;
        let attached = match self.mode {
            Mode::Tcx => attach_tcx(program, point, &pin),
            Mode::Clsact => attach_clsact(program, point),
        };
        attached.map_err(|source| AttachError::Refused {
            program: point.program,
            interface: point.interface.clone(),
            mode: self.mode,
            source,
        })
    }
}

/// Puts the program into the link of an earlier `run`, in one step, or makes a link.
fn attach_tcx(
    program: &mut SchedClassifier,
    point: &AttachPoint,
    pin: &Path,
) -> Result<(), anyhow::Error> {
    if pin.exists() {
        let taken_over = PinnedLink::from_pin(pin)
            .map_err(anyhow::Error::from)
            .and_then(|old| Ok(SchedClassifierLink::try_from(FdLink::from(old))?))
            .and_then(|link| Ok(program.attach_to_link(link)?));
        match taken_over {
            Ok(id) => {
                // The pin keeps it alive; dropping our descriptor changes nothing.
                drop(program.take_link(id)?);
                debug!(interface = point.interface, "took over the link");
                return Ok(());
            }
            // Its interface was deleted and the index is in use again: a dead link.
            Err(error) => debug!(
                interface = point.interface,
                "old link is of no use: {error:#}"
            ),
        }
        fs::remove_file(pin)?;
    }
    let id = program.attach_with_options(
        &point.interface,
        point.program.hook().attach_type(),
        TcAttachOptions::TcxOrder(LinkOrder::first()),
    )?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
    Ok(())
}

/// Warns of programs of another office-bridge on the interface: of another pin path, or pinned on a bpffs that another
/// has been mounted over. They would take packets that ours should get.
fn warn_of_others(datapath: &mut Datapath, point: &AttachPoint) {
    let own = classifier(&mut datapath.ebpf, point.program)
        .ok()
        .and_then(|program| Some(program.info().ok()?.id()));
    let hook = point.program.hook();
    let Ok((_, programs)) = SchedClassifier::query_tcx(&point.interface, hook.attach_type()) else {
        return;
    };
    for other in programs {
        let is_ours_by_name = other
            .name_as_str()
            .and_then(Program::from_name)
            .is_some_and(|program| program.hook() == hook);
        if is_ours_by_name && own.is_some_and(|own| own != other.id()) {
            warn!(
                interface = %point.interface,
                hook = hook.name(),
                program = other.id(),
                "another office-bridge is attached here too; `bpftool link` shows its link, and `office-bridge \
                 uninstall` with its --pin-path removes it"
            );
        }
    }
}

fn attach_clsact(program: &mut SchedClassifier, point: &AttachPoint) -> Result<(), anyhow::Error> {
    let interface = &point.interface;
    let hook = point.program.hook().attach_type();
    if let Err(error) = qdisc_add_clsact(interface)
        && !already_there(&error)
    {
        return Err(error.into());
    }
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let id = match program.attach_with_options(interface, hook, TcAttachOptions::Netlink(options)) {
        Err(ProgramError::TcError(error)) if already_there(&error) => {
            let old = SchedClassifierLink::attached(interface, hook, PRIORITY, HANDLE, None)?;
            program.attach_to_link(old)?
        }
        attached => attached?,
    };
    // A filter lives until it is removed; dropping the link would remove it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn already_there(error: &TcError) -> bool {
    /// `EEXIST` (asm-generic/errno-base.h).
    const EEXIST: i32 = 17;
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if matches!(
            error.downcast_ref::<TcError>(),
            Some(TcError::AlreadyAttached)
        ) || error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.raw_os_error() == Some(EEXIST))
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether a filter of this name belongs on the interface of this name. Filters are detached by these names, under
/// which a new interface may have another by now.
#[must_use]
pub fn has_filter(wanted: &AttachPoints, point: &AttachPoint) -> bool {
    wanted
        .values()
        .any(|other| other.program == point.program && other.interface == point.interface)
}

fn detach_clsact(point: &AttachPoint) {
    // The filter may be gone, or another program's by now, and so may the interface.
    let _ = qdisc_detach_program(
        &point.interface,
        point.program.hook().attach_type(),
        point.program.name(),
    );
}

/// Removes links of interfaces that are gone or no longer wanted, and those of the other mode.
fn remove_stale(pins: &Pins, wanted: &AttachPoints, mode: Mode) -> Result<(), AttachError> {
    let links = pins.pinned_links().map_err(|source| AttachError::Unpin {
        path: pins.links().display().to_string(),
        source,
    })?;
    for (name, ifindex, path) in links {
        let keep = mode == Mode::Tcx
            && Program::from_name(&name)
                .is_some_and(|program| wanted.contains_key(&(program, ifindex)));
        if !keep {
            detach_pinned_link(&path).map_err(|source| AttachError::Unpin {
                path: path.display().to_string(),
                source,
            })?;
        }
    }
    Ok(())
}

/// Whether the pinned link leads to the interface. One whose interface was deleted is still pinned, but leads nowhere.
fn is_linked(pins: &Pins, point: &AttachPoint) -> bool {
    pinned_tcx_ifindex(&pins.link(point.program, point.ifindex))
        .is_ok_and(|ifindex| ifindex == point.ifindex)
}

/// Whether our program is attached there right now, asked of the kernel.
pub async fn attached(pins: &Pins, point: &AttachPoint, mode: Mode) -> bool {
    match mode {
        Mode::Tcx => is_linked(pins, point),
        Mode::Clsact => {
            let programs = match point.program.hook() {
                Hook::TcIngress => netlink::ingress_programs(point.ifindex).await,
                Hook::TcEgress => netlink::egress_programs(point.ifindex).await,
            };
            programs.is_ok_and(|programs| programs.iter().any(|name| name == point.program.name()))
        }
    }
}

/// Detaches our clsact filters from these points, and removes the qdisc where nothing else uses it.
pub async fn detach_filters(points: impl IntoIterator<Item = &AttachPoint>) {
    for point in points {
        detach_clsact(point);
        if let Err(error) = netlink::remove_unused_clsact(point.ifindex).await {
            debug!(interface = %point.interface, "the clsact qdisc stays: {error}");
        }
    }
}
