//! Attaching programs to interfaces: TCX links from kernel 6.6 on, clsact filters below.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, TcError};
use aya::util::KernelVersion;
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::load::{LoadError, classifier};
use super::{Datapath, Pins, program};
use crate::bpf::{detach_pinned_link, pinned_tcx_ifindex};
use crate::netlink;

/// Priority of our clsact filter: before the default 49152 that filters without one get.
const PRIORITY: u16 = 50;
/// Handle of our clsact filter, so that a successor replaces it in place.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// On which side of the bridge an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where clients come in.
    Uplink,
    /// Behind which the backends are.
    Cluster,
}

impl Side {
    const fn program(self) -> &'static str {
        match self {
            Self::Uplink => program::UPLINK_INGRESS,
            Self::Cluster => program::CLUSTER_INGRESS,
        }
    }

    /// `uplink` or `cluster`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Cluster => "cluster",
        }
    }
}

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

/// An interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// On which side it is.
    pub side: Side,
}

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refuses.
    #[error("can't attach to TC ingress of {interface} ({mode}): {source}")]
    Refused {
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
    attached: BTreeMap<u32, Interface>,
}

impl Attachments {
    /// Nothing yet.
    #[must_use]
    pub fn new(wanted: TcAttach) -> Self {
        Self {
            mode: wanted.mode(),
            attached: BTreeMap::new(),
        }
    }

    /// How programs are attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The interfaces that are attached to.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.attached.values()
    }

    /// Attaches to what is wanted and detaches from the rest, links of an earlier `run` included.
    /// An interface that is attached already keeps its program.
    ///
    /// # Errors
    /// The first refusal; the other interfaces are attached all the same.
    pub fn reconcile(
        &mut self,
        datapath: &mut Datapath,
        wanted: &BTreeMap<u32, Interface>,
    ) -> Result<(), AttachError> {
        let mut result = Ok(());
        // The uplink last: nothing is translated before the answers have a way back.
        let mut in_order: Vec<_> = wanted.iter().collect();
        in_order.sort_by_key(|(_, interface)| interface.side == Side::Uplink);
        for (&ifindex, interface) in in_order {
            if self.attached.get(&ifindex) == Some(interface)
                && self.is_intact(datapath.pins(), interface)
            {
                continue;
            }
            match self.attach(datapath, interface) {
                Ok(()) => {
                    info!(interface = %interface.name, side = ?interface.side, mode = %self.mode, "attached");
                    warn_of_others(datapath, interface);
                    self.attached.insert(ifindex, interface.clone());
                }
                Err(error) if result.is_ok() => result = Err(error),
                Err(error) => warn!("{error}"),
            }
        }
        self.attached.retain(|ifindex, interface| {
            let keep = wanted.get(ifindex) == Some(interface);
            if !keep {
                info!(interface = %interface.name, "no longer needed, detached");
                if self.mode == Mode::Clsact {
                    detach_clsact(&interface.name);
                }
            }
            keep
        });
        result.and(remove_stale(datapath.pins(), wanted, self.mode))
    }

    /// Whether a link is still where it was put: somebody may have cleaned up behind our back. Filters are not
    /// looked at.
    fn is_intact(&self, pins: &Pins, interface: &Interface) -> bool {
        self.mode != Mode::Tcx || is_linked(pins, interface)
    }

    fn attach(&self, datapath: &mut Datapath, interface: &Interface) -> Result<(), AttachError> {
        let pin = datapath
            .pins()
            .link(interface.side.program(), interface.ifindex);
        let program = classifier(&mut datapath.ebpf, interface.side.program())?;
        let attached = match self.mode {
            Mode::Tcx => attach_tcx(program, &interface.name, &pin),
            Mode::Clsact => attach_clsact(program, &interface.name),
        };
        attached.map_err(|source| AttachError::Refused {
            interface: interface.name.clone(),
            mode: self.mode,
            source,
        })
    }
}

/// Puts the program into the link of an earlier `run`, in one step, or makes a link.
fn attach_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    pin: &std::path::Path,
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
                debug!(interface, "took over the link");
                return Ok(());
            }
            // Its interface was deleted and the index is in use again: a dead link.
            Err(error) => debug!(interface, "old link is of no use: {error:#}"),
        }
        fs::remove_file(pin)?;
    }
    let id = program.attach_with_options(
        interface,
        TcAttachType::Ingress,
        TcAttachOptions::TcxOrder(LinkOrder::first()),
    )?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
    Ok(())
}

/// Warns of programs of another office-bridge on the interface: of another pin path, or pinned on a bpffs that another
/// has been mounted over. They would take packets that ours should get.
fn warn_of_others(datapath: &mut Datapath, interface: &Interface) {
    let own = classifier(&mut datapath.ebpf, interface.side.program())
        .ok()
        .and_then(|program| Some(program.info().ok()?.id()));
    let Ok((_, programs)) = SchedClassifier::query_tcx(&interface.name, TcAttachType::Ingress)
    else {
        return;
    };
    for other in programs {
        let is_ours_by_name = matches!(
            other.name_as_str(),
            Some(program::UPLINK_INGRESS | program::CLUSTER_INGRESS)
        );
        if is_ours_by_name && own.is_some_and(|own| own != other.id()) {
            warn!(
                interface = %interface.name,
                program = other.id(),
                "another office-bridge is attached here too; `bpftool link` shows its link, and `office-bridge \
                 uninstall` with its --pin-path removes it"
            );
        }
    }
}

fn attach_clsact(program: &mut SchedClassifier, interface: &str) -> Result<(), anyhow::Error> {
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
    let id = match program.attach_with_options(
        interface,
        TcAttachType::Ingress,
        TcAttachOptions::Netlink(options),
    ) {
        Err(ProgramError::TcError(error)) if already_there(&error) => {
            let old = SchedClassifierLink::attached(
                interface,
                TcAttachType::Ingress,
                PRIORITY,
                HANDLE,
                None,
            )?;
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

fn detach_clsact(interface: &str) {
    for name in [program::UPLINK_INGRESS, program::CLUSTER_INGRESS] {
        // There is at most one of the two, and the interface may be gone.
        let _ = qdisc_detach_program(interface, TcAttachType::Ingress, name);
    }
}

/// Removes links of interfaces that are gone or no longer wanted, and those of the other mode.
fn remove_stale(
    pins: &Pins,
    wanted: &BTreeMap<u32, Interface>,
    mode: Mode,
) -> Result<(), AttachError> {
    let links = pins.pinned_links().map_err(|source| AttachError::Unpin {
        path: pins.links().display().to_string(),
        source,
    })?;
    for (program, ifindex, path) in links {
        let keep = mode == Mode::Tcx
            && wanted
                .get(&ifindex)
                .is_some_and(|interface| interface.side.program() == program);
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
fn is_linked(pins: &Pins, interface: &Interface) -> bool {
    pinned_tcx_ifindex(&pins.link(interface.side.program(), interface.ifindex))
        .is_ok_and(|ifindex| ifindex == interface.ifindex)
}

/// Whether our program is attached to the interface right now, asked of the kernel.
pub async fn attached(pins: &Pins, interface: &Interface, mode: Mode) -> bool {
    match mode {
        Mode::Tcx => is_linked(pins, interface),
        Mode::Clsact => netlink::ingress_programs(interface.ifindex)
            .await
            .is_ok_and(|programs| programs.iter().any(|name| name == interface.side.program())),
    }
}

/// Detaches our clsact filters from these interfaces, and removes the qdisc where nothing else uses it.
pub async fn detach_filters(interfaces: &[Interface]) {
    for interface in interfaces {
        detach_clsact(&interface.name);
        if let Err(error) = netlink::remove_unused_clsact(interface.ifindex).await {
            debug!(interface = %interface.name, "the clsact qdisc stays: {error}");
        }
    }
}
