//! Attaching XDP programs, always in the driver, by links; and saying why a driver refuses.

use std::io;
use std::os::fd::AsFd as _;

use aya::programs::loaded_programs;
use nix::errno::Errno;
use tracing::debug;

use super::incompatibility::XdpIncompatibility;
use super::link::link;
use super::load::Datapath;
use super::load::{Buffers, LoadError};
use crate::kernel::netlink::{NetlinkError, XdpFeatures, xdp_features, xdp_link, xdp_refusal};
use crate::maps::Pins;
use crate::maps::bpf_syscall::pinned_link;
use crate::model::program::{AttachPoint, Program};
use crate::model::{Finding, Subject};

/// Why an interface goes without XDP. As text it is cause and remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.cause(), self.remedy())]
pub enum XdpRefusal {
    /// Somebody else's program is there.
    Occupied {
        /// The interface.
        interface: String,
        /// The program's name, cut by the kernel after 15 bytes.
        name: String,
        /// Its id.
        id: u32,
    },
    /// The driver knows no XDP.
    NoNative {
        /// The interface.
        interface: String,
    },
    /// The driver's buffers are too small for XDP.
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// What the driver said, if anything.
        reason: Option<String>,
    },
    /// It would get packets wrong.
    Incompatible(#[from] XdpIncompatibility),
    /// There is no place for another interface in the table.
    NoRoom {
        /// The interface.
        interface: String,
        /// How many may have XDP.
        room: usize,
    },
    /// The kernel or the driver has another reason.
    Refused {
        /// The interface.
        interface: String,
        /// The number.
        source: io::Error,
        /// What the driver said, if anything.
        reason: Option<String>,
    },
    /// The program could not be loaded.
    Load(#[from] LoadError),
    /// Who is there can't be found out.
    Unknown {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: NetlinkError,
    },
}

impl XdpRefusal {
    /// What is wrong.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Occupied {
                interface,
                name,
                id,
            } => format!("{interface} has an XDP program already: `{name}` (id {id})"),
            Self::NoNative { interface } => {
                format!("the driver of {interface} has no native XDP")
            }
            Self::Mtu {
                interface,
                mtu,
                reason,
            } => format!(
                "the driver of {interface} takes no XDP program with an MTU of {mtu}{}",
                told(reason.as_ref())
            ),
            Self::Incompatible(incompatibility) => incompatibility.cause(),
            Self::NoRoom { interface, room } => {
                format!("{interface} is one interface too many for XDP: there is room for {room}")
            }
            Self::Refused {
                interface,
                source,
                reason,
            } => format!("no XDP on {interface}: {source}{}", told(reason.as_ref())),
            Self::Load(error) => error.to_string(),
            Self::Unknown { interface, source } => format!("no XDP on {interface}: {source}"),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        const OTHER_PATH: &str = "use --datapath tc, or auto";
        match self {
            Self::Occupied { interface, .. } => format!(
                "detach it (`bpftool link` or `ip link set dev {interface} xdp off`) or use --datapath tc"
            ),
            Self::Mtu { interface, .. } => format!(
                "lower the MTU (`ip link set dev {interface} mtu 1500`, or as the driver's documentation says) or use \
                 --datapath tc"
            ),
            Self::Incompatible(incompatibility) => incompatibility.remedy(),
            Self::NoNative { .. }
            | Self::NoRoom { .. }
            | Self::Refused { .. }
            | Self::Load(_)
            | Self::Unknown { .. } => OTHER_PATH.to_owned(),
        }
    }

    fn interface(&self) -> Option<&String> {
        match self {
            Self::Occupied { interface, .. }
            | Self::NoNative { interface }
            | Self::Mtu { interface, .. }
            | Self::NoRoom { interface, .. }
            | Self::Refused { interface, .. }
            | Self::Unknown { interface, .. }
            | Self::Incompatible(
                XdpIncompatibility::HiddenTags { interface, .. }
                | XdpIncompatibility::Bond { interface },
            ) => Some(interface),
            Self::Load(_) => None,
        }
    }
}

impl From<XdpRefusal> for Finding {
    fn from(refusal: XdpRefusal) -> Self {
        let subject = refusal
            .interface()
            .map_or(Subject::Kernel, |name| Subject::Interface(name.clone()));
        Self::failure(subject, refusal.cause(), refusal.remedy())
    }
}

fn told(reason: Option<&String>) -> String {
    reason
        .map(|reason| format!(" (it says: {reason})"))
        .unwrap_or_default()
}

/// Somebody else's XDP program on an interface: its id and name.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn foreign_program(
    pins: &Pins,
    ifindex: u32,
) -> Result<Option<(u32, String)>, NetlinkError> {
    let own = pinned_link(&pins.link(Program::XdpFast, ifindex)).ok();
    Ok(xdp_link(ifindex)
        .await?
        .program
        .filter(|&id| own.is_none_or(|own| own.ifindex != ifindex || own.program != id))
        .map(|id| (id, program_name(id).unwrap_or_default())))
}

/// The name of a loaded program.
fn program_name(id: u32) -> Option<String> {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// Attaches the XDP program: takes over the link of an earlier `run`, in one step, or makes a link.
pub(super) async fn attach(datapath: &mut Datapath, point: &AttachPoint) -> Result<(), XdpRefusal> {
    let interface = || point.interface.clone();
    let pins = datapath.pins().clone();
    let foreign = foreign_program(&pins, point.ifindex).await;
    let foreign = foreign.map_err(|source| XdpRefusal::Unknown {
        interface: interface(),
        source,
    })?;
    if let Some((id, name)) = foreign {
        return Err(XdpRefusal::Occupied {
            interface: interface(),
            name,
            id,
        });
    }
    let mut outcome = Ok(());
    for &buffers in Buffers::known() {
        outcome = attach_variant(datapath, &pins, point, buffers).await;
        if !matches!(outcome, Err(XdpRefusal::Mtu { .. })) {
            break;
        }
    }
    outcome
}

async fn attach_variant(
    datapath: &mut Datapath,
    pins: &Pins,
    point: &AttachPoint,
    buffers: Buffers,
) -> Result<(), XdpRefusal> {
    let program = datapath.xdp(buffers)?;
    let program = program.fd().map_err(|source| LoadError::Program {
        name: Program::XdpFast.name(),
        source,
    })?;
    let Err(source) = link(pins, point, program.as_fd()) else {
        debug!(interface = point.interface, ?buffers, "XDP is attached");
        return Ok(());
    };
    let reason = xdp_refusal(program.as_fd(), point.ifindex);
    let features = xdp_features(point.ifindex).await;
    let mtu = xdp_link(point.ifindex).await.ok().map(|link| link.mtu);
    Err(explain(
        point.interface.clone(),
        source,
        reason,
        features,
        mtu,
    ))
}

/// Drivers have no common number for an MTU that is too large: veth says `ERANGE`, ixgbe, i40e, mlx5, virtio and others
/// `EINVAL`, ice and bnxt `EOPNOTSUPP`. Most say it in words.
fn explain(
    interface: String,
    source: io::Error,
    reason: Option<String>,
    features: Option<XdpFeatures>,
    mtu: Option<u32>,
) -> XdpRefusal {
    /// What an Ethernet interface has if nobody changed it: no driver with XDP refuses that.
    const ORDINARY: u32 = 1500;
    let errno = source.raw_os_error().map(Errno::from_raw);
    let is_mtu = reason.as_ref().is_some_and(|reason| {
        let reason = reason.to_lowercase();
        reason.contains("mtu") || reason.contains("jumbo") || reason.contains("frame size")
    });
    let large = mtu.filter(|&mtu| mtu > ORDINARY);
    let is_silent = reason.is_none();
    match (errno, large.or(mtu.filter(|_| is_mtu))) {
        (Some(Errno::EOPNOTSUPP), _)
            if features.is_some_and(|features| !features.runs_programs())
                || (features.is_none() && !is_mtu) =>
        {
            XdpRefusal::NoNative { interface }
        }
        (Some(Errno::ERANGE), Some(mtu)) => XdpRefusal::Mtu {
            interface,
            mtu,
            reason,
        },
        (_, Some(mtu)) if is_mtu => XdpRefusal::Mtu {
            interface,
            mtu,
            reason,
        },
        (Some(Errno::EINVAL | Errno::EOPNOTSUPP), Some(mtu)) if is_silent => XdpRefusal::Mtu {
            interface,
            mtu,
            reason,
        },
        _ => XdpRefusal::Refused {
            interface,
            source,
            reason,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(errno: Errno, reason: Option<&str>, features: Option<u64>, mtu: u32) -> String {
        explain(
            "eth0".to_owned(),
            errno.into(),
            reason.map(str::to_owned),
            features.map(XdpFeatures::new),
            Some(mtu),
        )
        .to_string()
    }

    #[test]
    fn an_mtu_that_the_driver_refuses_is_told_with_what_to_do() {
        let text = explained(
            Errno::ERANGE,
            Some("Peer MTU is too large to set XDP"),
            Some(1),
            9000,
        );
        assert_eq!(
            text,
            "the driver of eth0 takes no XDP program with an MTU of 9000 (it says: Peer MTU is too large to set XDP); \
             lower the MTU (`ip link set dev eth0 mtu 1500`, or as the driver's documentation says) or use --datapath tc"
        );
        // ice and bnxt have native XDP, and still say that it is not supported.
        let text = explained(
            Errno::EOPNOTSUPP,
            Some("MTU is too large for linear frames and XDP prog does not support frags"),
            Some(1),
            9000,
        );
        assert!(text.contains("with an MTU of 9000 (it says: MTU"), "{text}");
        // Older drivers say nothing but a number.
        let text = explained(Errno::EINVAL, None, None, 9000);
        assert!(text.contains("with an MTU of 9000; lower"), "{text}");
    }

    #[test]
    fn a_driver_without_xdp_is_not_taken_for_one_with_a_large_mtu() {
        for (reason, features) in [
            (
                Some("Underlying driver does not support XDP in native mode"),
                Some(0),
            ),
            (None, Some(0)),
            (None, None),
        ] {
            for mtu in [1500, 9000] {
                assert_eq!(
                    explained(Errno::EOPNOTSUPP, reason, features, mtu),
                    "the driver of eth0 has no native XDP; use --datapath tc, or auto"
                );
            }
        }
    }

    #[test]
    fn another_reason_is_told_in_the_drivers_words() {
        let text = explained(
            Errno::EOPNOTSUPP,
            Some("Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first"),
            Some(1),
            1500,
        );
        assert!(
            text.starts_with("no XDP on eth0: ")
                && text.contains("(it says: Can't set XDP while host"),
            "{text}"
        );
        let text = explained(Errno::EINVAL, None, Some(1), 1500);
        assert!(
            text.starts_with("no XDP on eth0: Invalid argument"),
            "{text}"
        );
    }
}
