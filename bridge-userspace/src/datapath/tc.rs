//! Attaching at TC: TCX links from kernel 6.6 on, clsact filters below.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcError};
use aya::util::KernelVersion;
use tracing::{debug, warn};

use super::hooks::{Hooks, Standing, standing};
use super::link::link;
use super::mode::Mode;
use crate::kernel::netlink::{self, HANDLE, PRIORITY};
use crate::maps::Pins;
use crate::model::program::{AttachPoint, AttachPoints};

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
    let handle = TcHandle::from(HANDLE);
    let options = NlOptions {
        priority: PRIORITY,
        handle,
        classid: None,
    };
    let id = match program.attach_with_options(interface, hook, TcAttachOptions::Netlink(options)) {
        Err(ProgramError::TcError(error)) if already_there(&error) => {
            let old = SchedClassifierLink::attached(interface, hook, PRIORITY, handle, None)?;
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

/// Removes our filter from there. One of somebody else in its place stays.
pub(super) async fn detach_clsact(hooks: &mut Hooks<'_>, point: &AttachPoint) {
    let found = hooks.of(point, Mode::Clsact).await;
    // The filter and the interface may be gone.
    let is_ours = found
        .is_ok_and(|found| !matches!(standing(&found, Mode::Clsact, None), Standing::Missing(_)));
    if is_ours
        && let Some(hook) = point.program.hook().tc()
        && let Ok(filter) = SchedClassifierLink::attached(
            &point.interface,
            hook,
            PRIORITY,
            TcHandle::from(HANDLE),
            None,
        )
        && let Err(error) = filter.detach()
    {
        debug!(interface = %point.interface, "the filter stays: {error}");
    }
}

/// Detaches our clsact filters from these points, and removes the qdisc where nothing else uses it. Whose a filter is, the
/// pinned tables tell, which have to be there still, and what was reported.
pub async fn detach_filters(
    pins: &Pins,
    reported: &BTreeSet<u32>,
    points: impl IntoIterator<Item = &AttachPoint>,
) {
    let mut hooks = match Hooks::open(pins, reported.iter().copied()) {
        Ok(hooks) => hooks,
        Err(error) => {
            warn!("filters stay attached: {error}");
            return;
        }
    };
    for point in points {
        detach_clsact(&mut hooks, point).await;
        if let Err(error) = netlink::remove_unused_clsact(point.ifindex).await {
            debug!(interface = %point.interface, "the clsact qdisc stays: {error}");
        }
    }
}
