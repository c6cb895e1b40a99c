//! What is attached where, and bringing it to what is wanted.

use std::collections::BTreeMap;
use std::io;

use bridge_common::abi::capacity;
use tracing::{info, warn};

use super::capabilities::XdpCapabilities;
use super::incompatibility::XdpIncompatibilities;
use super::link::is_linked;
use super::load::Datapath;
use super::load::{LoadError, classifier};
use super::mode::Mode;
use super::tc::TcAttach;
use super::tc::{attach_clsact, attach_tcx, detach_clsact, has_filter, warn_of_others};
use super::xdp::{self, XdpRefusal};
use super::xdp_interfaces::XdpInterfaces;
use crate::kernel::netlink;
use crate::maps::Pins;
use crate::maps::bpf_syscall::{detach_pinned_link, pinned_link};
use crate::model::program::{AttachPoint, AttachPoints, Hook, Program};

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
    tc: Mode,
    attached: AttachPoints,
    /// What the drivers can do that have the XDP program.
    capabilities: BTreeMap<u32, XdpCapabilities>,
    /// Interfaces that XDP is wanted on and not to be had, and why.
    refusals: BTreeMap<u32, XdpRefusal>,
}

impl Attachments {
    /// Nothing yet, but that the XDP programs of an earlier `run` may still forward.
    pub async fn new(wanted: TcAttach, pins: &Pins) -> Self {
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
        }
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

    /// Attaches where it is wanted and detaches from the rest, links of an earlier `run` included.
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
        for point in wanted.values().filter(is_tc) {
            match self.ensure_tc(datapath, point) {
                Ok(()) => {}
                Err(error) if result.is_ok() => result = Err(error),
                Err(error) => warn!("{error}"),
            }
        }
        let xdp = wanted.values().filter(|point| !is_tc(point));
        self.refusals
            .retain(|&ifindex, _| wanted.contains_key(&(Program::XdpFast, ifindex)));
        for point in xdp {
            // What XDP passes on must find the others at their place.
            if result.is_ok() {
                self.ensure_xdp(datapath, point, incompatibilities).await;
            }
        }
        self.detach_unwanted(wanted);
        self.find_abilities().await;
        result.and(self.remove_stale(datapath.pins(), wanted))
    }

    fn ensure_tc(
        &mut self,
        datapath: &mut Datapath,
        point: &AttachPoint,
    ) -> Result<(), AttachError> {
        // Filters are not looked at.
        if self.attached.get(&point.key()) == Some(point)
            && (self.tc != Mode::Tcx || is_linked(datapath.pins(), point))
        {
            return Ok(());
        }
        let pins = datapath.pins().clone();
        let program = classifier(&mut datapath.ebpf, point.program)?;
        let attached = match self.tc {
            Mode::Clsact => attach_clsact(program, point),
            Mode::Tcx | Mode::Native => attach_tcx(program, point, &pins),
        };
        attached.map_err(|source| AttachError::Refused {
            program: point.program,
            interface: point.interface.clone(),
            mode: self.tc,
            source,
        })?;
        info!(interface = %point.interface, program = point.program.name(), mode = %self.tc, "attached");
        warn_of_others(datapath, point);
        self.attached.insert(point.key(), point.clone());
        Ok(())
    }

    /// Attaches XDP where it is not yet. If that is refused there is none: see [`Self::xdp_refusals`].
    pub async fn ensure_xdp(
        &mut self,
        datapath: &mut Datapath,
        point: &AttachPoint,
        incompatibilities: &XdpIncompatibilities,
    ) {
        let has_xdp = self.attached.get(&point.key()) == Some(point);
        if has_xdp && is_linked(datapath.pins(), point) {
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
    fn detach_unwanted(&mut self, wanted: &AttachPoints) {
        self.attached.retain(|key, point| {
            let keep = wanted.get(key) == Some(point);
            if !keep {
                info!(interface = %point.interface, program = point.program.name(), "no longer needed, detached");
                if self.tc == Mode::Clsact && !has_filter(wanted, point) {
                    detach_clsact(point);
                }
            }
            keep
        });
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

/// How our program is attached there right now, asked of the kernel; `None` where it is not. `tc` is how TC programs
/// are attached.
pub async fn attached(pins: &Pins, point: &AttachPoint, tc: Mode) -> Option<Mode> {
    let hook = point.program.hook();
    let mode = if hook == Hook::Xdp { Mode::Native } else { tc };
    let is_attached = match (mode, hook) {
        (Mode::Clsact, Hook::TcEgress) => {
            has_name(netlink::egress_programs(point.ifindex).await, point)
        }
        (Mode::Clsact, _) => has_name(netlink::ingress_programs(point.ifindex).await, point),
        (Mode::Tcx | Mode::Native, _) => is_linked(pins, point),
    };
    is_attached.then_some(mode)
}

fn has_name(programs: Result<Vec<String>, netlink::NetlinkError>, point: &AttachPoint) -> bool {
    programs.is_ok_and(|programs| programs.iter().any(|name| name == point.program.name()))
}
