//! `clients` and `client_ports`: what each client takes, so that none takes it from the others.

use super::flows::FlowKey;
use super::types::{Ipv4, Seconds};

/// Key of `clients`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey {
    /// Office host.
    pub address: Ipv4,
}

/// Value of `clients`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Flows that it has: those that garbage collection found in use, and those that it has opened since.
    pub flows: u32,
    /// Flows that it has opened in the second `opening`.
    pub opened: u32,
    /// See `opened`.
    pub opening: Seconds,
    /// Answers that it has got in the second `answering`: ICMP errors, resets, echo replies.
    pub answered: u32,
    /// See `answered`.
    pub answering: Seconds,
    /// Packets that were refused because it has or takes too much.
    pub refused: u32,
}

/// Key of `client_ports`: a client that has many flows, and a backend's port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientPort {
    /// Office host.
    pub client: Ipv4,
    /// Pod.
    pub backend: Ipv4,
    /// The pod's port.
    pub backend_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

impl ClientPort {
    /// The client of a flow, and where it leads.
    #[must_use]
    #[inline(always)]
    pub const fn of(key: &FlowKey, backend: Ipv4, backend_port: u16) -> Self {
        Self {
            client: key.client,
            backend,
            backend_port,
            protocol: key.protocol,
            pad: 0,
        }
    }
}

/// Value of `client_ports`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldPorts {
    /// NAT ports, as garbage collection has counted them, and those taken since.
    pub count: u32,
}

/// What one client may take, in `settings`; 0 is no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Flows at a time.
    pub flows: u32,
    /// New flows a second.
    pub flow_rate: u32,
    /// NAT ports towards one port of a backend.
    pub nat_ports: u32,
    /// Answers a second.
    pub answer_rate: u32,
}
