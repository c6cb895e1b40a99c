//! Which of the product's ways a lab tries: the bridge's datapath and the cluster's overlay. The whole suite can run
//! in each variant.

use std::env;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::plan::{LAN_MTU, VXLAN_MTU};

/// The `--datapath` of the bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// What a bridge takes that is not told.
    #[default]
    Auto,
    /// TC ingress, for all that the tables know.
    Tc,
    /// XDP, and TC for what XDP can't finish.
    Xdp,
    /// The kernel routes, and kube-proxy translates services.
    Stack,
}

impl Datapath {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Tc, Self::Xdp, Self::Stack];

    /// What `--datapath` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Stack => "stack",
        }
    }

    /// The layer of flows that a bridge opens which knows the cluster, as `flows list` names it.
    #[must_use]
    pub const fn layer(self) -> &'static str {
        match self {
            Self::Auto | Self::Tc | Self::Xdp => "tc",
            Self::Stack => "stack",
        }
    }

    /// Whether the kernel routes office traffic, and netfilter sees it.
    #[must_use]
    pub const fn is_stack(self) -> bool {
        matches!(self, Self::Stack)
    }
}

impl fmt::Display for Datapath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Datapath {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|one| one.name() == text) {
            Some(datapath) => Ok(datapath),
            None => bail!("`{text}` is no datapath; write `auto`, `tc`, `xdp` or `stack`"),
        }
    }
}

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// Flannel's `vxlan` backend: a kernel VXLAN device named `flannel.1`.
    Vxlan,
    /// Flannel's `host-gw` backend: routes to the other nodes' LAN addresses.
    HostGw,
}

impl Overlay {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Vxlan, Self::HostGw];

    /// What flannel calls its backend.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }

    /// MTU of the pods.
    #[must_use]
    pub fn pod_mtu(self) -> u32 {
        match self {
            Self::Vxlan => VXLAN_MTU,
            Self::HostGw => LAN_MTU,
        }
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Overlay {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|one| one.name() == text) {
            Some(overlay) => Ok(overlay),
            None => bail!("`{text}` is no overlay; write `vxlan` or `host-gw`"),
        }
    }
}

/// A datapath on an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// How the bridge forwards.
    pub datapath: Datapath,
    /// How pods of different nodes reach each other.
    pub overlay: Overlay,
}

impl Variant {
    /// The variable that names the datapath of the whole suite.
    pub const DATAPATH_VARIABLE: &str = "OFFICE_BRIDGE_DATAPATH";
    /// The variable that names its overlay.
    pub const OVERLAY_VARIABLE: &str = "OFFICE_BRIDGE_OVERLAY";

    /// What the suite runs in unless told otherwise: what an ordinary flannel and an ordinary `office-bridge run` are.
    pub const DEFAULT: Self = Self {
        datapath: Datapath::Auto,
        overlay: Overlay::Vxlan,
    };

    /// The variant that the environment names.
    pub fn of_environment() -> Result<Self> {
        Ok(Self {
            datapath: variable(Self::DATAPATH_VARIABLE)?.unwrap_or(Self::DEFAULT.datapath),
            overlay: variable(Self::OVERLAY_VARIABLE)?.unwrap_or(Self::DEFAULT.overlay),
        })
    }

    /// [`Variant::of_environment`], for a suite that can't begin without.
    ///
    /// # Panics
    ///
    /// If the environment names a datapath or an overlay that does not exist.
    #[must_use]
    pub fn of_suite() -> Self {
        Self::of_environment().unwrap_or_else(|error| panic!("{error:#}"))
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} on {}", self.datapath, self.overlay)
    }
}

fn variable<T: FromStr<Err = anyhow::Error>>(name: &str) -> Result<Option<T>> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    value
        .map(|value| value.parse().with_context(|| name.to_owned()))
        .transpose()
}
