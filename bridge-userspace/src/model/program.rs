//! The programs, and where each is attached.

use std::collections::BTreeMap;

use aya::programs::TcAttachType;
use serde::{Deserialize, Serialize};

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
    /// `uplink` or `cluster`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Cluster => "cluster",
        }
    }
}

/// Where in the kernel's packet path a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Hook {
    /// TC, before netfilter and routing.
    #[serde(rename = "tc-ingress")]
    TcIngress,
    /// TC, after routing and netfilter.
    #[serde(rename = "tc-egress")]
    TcEgress,
    /// XDP, in the driver.
    #[serde(rename = "xdp")]
    Xdp,
}

impl Hook {
    /// `tc-ingress`, `tc-egress` or `xdp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
            Self::Xdp => "xdp",
        }
    }

    pub(crate) const fn tc(self) -> Option<TcAttachType> {
        match self {
            Self::TcIngress => Some(TcAttachType::Ingress),
            Self::TcEgress => Some(TcAttachType::Egress),
            Self::Xdp => None,
        }
    }
}

/// A program of the eBPF object, in the order of attaching: what translates replies comes first, so that no packet is
/// translated before its answer has a way back. The uplink's does both, for its NIC may be the one to the workers too.
/// XDP comes last, as what it passes on is for the others. Detached is in the reverse order.
///
/// The aliases are how state files before the stack path named them, by their side alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// Interfaces behind which the backends are.
    #[serde(alias = "cluster")]
    ClusterIngress,
    /// Interfaces where clients come in, by which backends on this node itself answer.
    UplinkEgress,
    /// Interfaces where clients come in.
    #[serde(alias = "uplink")]
    UplinkIngress,
    /// Interfaces through which the kernel routes to the backends.
    ClusterEgress,
    /// NICs on either side, before the kernel makes an skb. Of the two programs in the object the kernel gets one
    /// (see `Datapath::xdp`).
    XdpFast,
}

impl Program {
    /// All of them, in the order of attaching.
    pub const ALL: [Self; 5] = [
        Self::ClusterIngress,
        Self::UplinkEgress,
        Self::UplinkIngress,
        Self::ClusterEgress,
        Self::XdpFast,
    ];

    /// The name that the kernel and `bpftool` show; with XDP perhaps followed by `_frags`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIngress => "cluster_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::UplinkIngress => "uplink_ingress",
            Self::ClusterEgress => "cluster_egress",
            Self::XdpFast => "xdp_fast",
        }
    }

    /// The program of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }

    /// Where it runs.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::ClusterIngress | Self::UplinkIngress => Hook::TcIngress,
            Self::ClusterEgress | Self::UplinkEgress => Hook::TcEgress,
            Self::XdpFast => Hook::Xdp,
        }
    }
}

/// A program and the interface that it is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachPoint {
    /// Index of the interface.
    pub ifindex: u32,
    /// Name of the interface.
    #[serde(rename = "name")]
    pub interface: String,
    /// The program.
    #[serde(alias = "side")]
    pub program: Program,
}

impl AttachPoint {
    /// What tells it from others.
    #[must_use]
    pub const fn key(&self) -> (Program, u32) {
        (self.program, self.ifindex)
    }

    /// On which side of the bridge with this uplink the program works.
    #[must_use]
    pub fn side(&self, uplink: &str) -> Side {
        match self.program {
            Program::UplinkIngress | Program::UplinkEgress => Side::Uplink,
            Program::XdpFast if self.interface == uplink => Side::Uplink,
            Program::ClusterIngress | Program::ClusterEgress | Program::XdpFast => Side::Cluster,
        }
    }
}

/// Attach points by program and interface index, so in the order of attaching.
pub type AttachPoints = BTreeMap<(Program, u32), AttachPoint>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attach_points_of_a_version_without_the_stack_path_are_read() {
        let text = r#"[{"ifindex": 2, "name": "eth0", "side": "uplink"},
                       {"ifindex": 5, "name": "cni0", "side": "cluster"}]"#;
        let points: Vec<AttachPoint> = serde_json::from_str(text).unwrap();
        let programs: Vec<_> = points
            .iter()
            .map(|point| (point.interface.as_str(), point.program))
            .collect();
        assert_eq!(
            programs,
            [
                ("eth0", Program::UplinkIngress),
                ("cni0", Program::ClusterIngress)
            ]
        );
    }

    #[test]
    fn attach_points_are_read_as_they_were_written() {
        for program in Program::ALL {
            let point = AttachPoint {
                ifindex: 7,
                interface: "flannel.1".to_owned(),
                program,
            };
            let text = serde_json::to_string(&point).unwrap();
            assert_eq!(serde_json::from_str::<AttachPoint>(&text).unwrap(), point);
            assert_eq!(Program::from_name(program.name()), Some(program));
        }
    }
}
