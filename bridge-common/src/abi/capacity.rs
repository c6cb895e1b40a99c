//! How many entries each table holds unless configured otherwise.

/// Prefixes in `office_cidrs`.
pub const OFFICE_CIDRS: usize = 1024;
/// Prefixes in `cluster_cidrs`.
pub const CLUSTER_CIDRS: usize = 1024;
/// Prefixes in `routes`.
pub const ROUTES: usize = 16_384;
/// Next hops that XDP knows; number 0 is none.
pub const NEXT_HOPS: usize = 32_768;
/// Remote VTEPs; number 0 is none.
pub const VTEP_FDB: usize = 16_384;
/// Interfaces with XDP.
pub const XDP_PORTS: usize = 4;
/// VXLAN devices that XDP decapsulates for.
pub const TUNNELS: usize = 2;
/// Prefixes of `cluster_cidrs` that are compared one by one.
pub const DESTINATIONS: usize = 8;
/// Service ports.
pub const SERVICES: usize = 65_536;
/// Backends of all services, twice over while a list is being replaced.
pub const BACKENDS: usize = 262_144;
/// Clients of services with session affinity.
pub const AFFINITY: usize = 65_536;
/// Flows, and as many replies; `--flow-capacity` changes it.
pub const FLOWS: usize = 262_144;
/// Datagrams whose fragments are on their way.
pub const FRAGMENTS: usize = 65_536;
/// One entry for each port number.
pub const NAT_PORTS: usize = 65_536;
/// Bytes of the event ring.
pub const EVENTS: usize = 65_536;
/// Addresses of a configured SNAT pool.
pub const SNAT_ADDRESSES: usize = 8;
