//! What kind of lab to open.

use crate::hosts::dns::DnsPlan;
use crate::hosts::netfilter::Firewall;
use crate::variant::{Datapath, Overlay, Variant};

/// What kind of lab to open.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that have nothing to do with each other"
)]
pub struct LabOptions {
    /// The datapath of a bridge that [`Lab::start_bridge`](crate::Lab::start_bridge) starts. For [`Datapath::Xdp`] the lab's cables are as XDP
    /// needs them.
    pub datapath: Datapath,
    /// How pods of different nodes reach each other.
    pub overlay: Overlay,
    /// Whether the nodes have a network of their own behind a second interface, `eth1`, and the LAN is
    /// only the way to the office.
    pub second_nic: bool,
    /// Whether kube-proxy's rules are on every node.
    pub kube_proxy: bool,
    /// Whether flannel masquerades (`--ip-masq`) on node-30. On workers it does.
    pub masquerade: bool,
    /// Whether kube-proxy masquerades what comes to services from outside of the pods' network, as it does
    /// where it is told of that network (`--cluster-cidr`).
    pub service_masquerade: bool,
    /// What node-30 lets through without the bridge. Workers are always [`Firewall::Open`].
    pub firewall: Firewall,
    /// Whether node-30 has a pod of its own, `echo-0`, and with it `cni0`.
    pub local_pod: bool,
    /// How the office DNS is wired.
    pub dns: DnsPlan,
    /// Whether there is a host `control-plane` with a real API server, which then is where the bridge
    /// learns of the cluster.
    pub api_server: bool,
}

impl LabOptions {
    /// A variant with kube-proxy and flannel on every node, a pod on node-30, DNS through the relay, and a node-30
    /// that forwards nothing for the office: what gets through is the bridge's doing. On the stack path it has to
    /// forward, and must not masquerade, which then is the bridge's doing.
    #[must_use]
    pub const fn of(Variant { datapath, overlay }: Variant) -> Self {
        let is_stack = datapath.is_stack();
        Self {
            datapath,
            overlay,
            second_nic: false,
            kube_proxy: true,
            masquerade: !is_stack,
            service_masquerade: !is_stack,
            firewall: if is_stack {
                Firewall::Open
            } else {
                Firewall::NotARouter
            },
            local_pod: true,
            dns: DnsPlan::Relay,
            api_server: false,
        }
    }
}

impl LabOptions {
    /// The variant of a suite that is told nothing, for tests that depend on no variant.
    #[must_use]
    pub const fn default_variant() -> Self {
        Self::of(Variant::DEFAULT)
    }

    /// The same with an API server.
    #[must_use]
    pub const fn with_api_server(self) -> Self {
        Self {
            api_server: true,
            ..self
        }
    }
}

impl Default for LabOptions {
    /// The variant that the whole suite runs in.
    fn default() -> Self {
        Self::of(Variant::of_suite())
    }
}
