//! Attaching at TC: TCX links from kernel 6.6 on, clsact filters below.

use std::io;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcError};
use aya::util::KernelVersion;
use tracing::{debug, warn};

use super::link::link;
use super::load::{Datapath, classifier};
use super::mode::Mode;
use crate::kernel::netlink;
use crate::maps::Pins;
use crate::model::program::{AttachPoint, AttachPoints, Program};

/// Priority of our clsact filter: before the default 49152 that filters without one get.
const PRIORITY: u16 = 50;
/// Handle of our clsact filter, so that a successor replaces it in place.
const HANDLE: TcHandle = TcHandle::new(0, 1);

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

pub(super) fn attach_tcx(
    program: &SchedClassifier,
    point: &AttachPoint,
    pins: &Pins,
) -> Result<(), anyhow::Error> {
    Ok(link(pins, point, program.fd()?.as_fd())?)
}

/// Warns of programs of another office-bridge on the interface: of another pin path, or pinned on a bpffs that another
/// has been mounted over. They would take packets that ours should get.
pub(super) fn warn_of_others(datapath: &mut Datapath, point: &AttachPoint) {
    let own = classifier(&mut datapath.ebpf, point.program)
        .ok()
        .and_then(|program| Some(program.info().ok()?.id()));
    let hook = point.program.hook();
    let Some(tc) = hook.tc() else {
        return;
    };
    let Ok((_, programs)) = SchedClassifier::query_tcx(&point.interface, tc) else {
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

pub(super) fn attach_clsact(
    program: &mut SchedClassifier,
    point: &AttachPoint,
) -> Result<(), anyhow::Error> {
    let interface = &point.interface;
    let hook = hook(point)?;
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

fn hook(point: &AttachPoint) -> anyhow::Result<TcAttachType> {
    let program = point.program;
    program
        .hook()
        .tc()
        .with_context(|| format!("{} is no TC program", program.name()))
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

pub(super) fn detach_clsact(point: &AttachPoint) {
    if let Some(hook) = point.program.hook().tc() {
        // The filter may be gone, or another program's by now, and so may the interface.
        let _ = qdisc_detach_program(&point.interface, hook, point.program.name());
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
