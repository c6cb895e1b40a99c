//! `services`, `backends` and `affinity`: where packets to a service go.

use super::types::{Ipv4, Seconds};

/// Key of `services`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The cluster IP.
    pub vip: Ipv4,
    /// The service port; 0 with ICMP, for the address as a whole.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `services`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Names one backend list; a changed list gets a new id, so that no packet sees half a change.
    pub id: u32,
    /// Backends in that list; with ICMP, ready backends behind the address.
    pub backend_count: u32,
    /// How long a client comes to the same backend after its last new flow; 0 without session affinity.
    pub affinity_seconds: Seconds,
    /// The backend of a list of one, which is most of them: it need not be looked up then. Else zeros.
    pub only: Backend,
}

/// Key of `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// [`Service::id`].
    pub service_id: u32,
    /// 0 to `backend_count` - 1.
    pub slot: u32,
}

/// Value of `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// The pod that really gets the packet.
    pub address: Ipv4,
    /// Its port.
    pub port: u16,
    /// Always 0.
    pub pad: [u8; 2],
}

/// Key of `affinity`: a client and what it addressed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityKey {
    /// Office host.
    pub client: Ipv4,
    /// The service.
    pub service: ServiceKey,
}

/// Value of `affinity`: the backend that the client came to last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Its address and port.
    pub backend: Backend,
    /// When the client's last new flow went there.
    pub last_used: Seconds,
}
