//! What the measuring programs and the bench that runs them both know: tables' values, and which flow has which
//! addresses. The bench includes this file by its path.

/// How many client ports are used, from 10,000 on: below the node's own `ip_local_port_range` and `NodePorts`, so
/// that every way of NAT may keep the client's port.
pub const PORTS: u32 = 20_000;
/// How many pods the flows are spread over: `10.244.1.2` and on.
pub const PODS: u32 = 250;
/// UDP port that clients of a service address.
pub const SERVICE_PORT: u32 = 80;
/// UDP port of the first [`PODS`] services' backends; the next ones have the next port.
pub const BACKEND_PORT: u32 = 8_080;
/// So many flows have each a tuple of its own, before and after NAT with the client's port kept.
pub const DISTINCT: u32 = PORTS * PODS;

/// Octets of a generated frame, without its checksum.
pub const FRAME: usize = 64;
/// Octets before the inner frame: Ethernet, IPv4, UDP, VXLAN (RFC 7348 section 5).
pub const ENCAPSULATION: usize = 50;

/// Which packet of a flow is generated.
pub mod kind {
    /// From client to pod.
    pub const TO_POD: u32 = 0;
    /// From client to service.
    pub const TO_SERVICE: u32 = 1;
    /// From pod to the NAT address; the client has addressed the pod.
    pub const FROM_POD: u32 = 2;
    /// From a service's backend to the NAT address; the client has addressed the service.
    pub const FROM_BACKEND: u32 = 3;
    /// From client to somewhere outside the cluster.
    pub const NOT_OURS: u32 = 4;
}

/// What the generator writes. Addresses and ports within arrays are in network order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Pattern {
    /// Interface that the packets are sent by.
    pub ifindex: u32,
    /// One of [`kind`].
    pub kind: u32,
    /// The first flow, and how many are taken in turn.
    pub first: u32,
    /// See `first`; not 0.
    pub flows: u32,
    /// How many services the flows are spread over; not 0.
    pub services: u32,
    /// 1 to send inside of `outer`.
    pub encapsulated: u32,
    /// The address that clients are translated to, in host order; 0 if they are not.
    pub nat: u32,
    /// Ethernet header of the packet.
    pub ethernet: [u16; 7],
    /// Headers around it: Ethernet, IPv4, UDP, VXLAN.
    pub outer: [u16; ENCAPSULATION / 2],
}

/// What the sink expects. Addresses in host order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Expectation {
    /// Source after the mask.
    pub source: u32,
    /// Mask of the source.
    pub source_mask: u32,
    /// Destination after the mask.
    pub destination: u32,
    /// Mask of the destination.
    pub destination_mask: u32,
    /// UDP port of the tunnel, in network order; 0 for packets without one.
    pub tunnel_port: u32,
    /// 1 to verify checksums.
    pub verify: u32,
}

/// Index into the sink's table of counters.
pub mod outcome {
    /// As expected.
    pub const EXPECTED: u32 = 0;
    /// IPv4, but not as expected.
    pub const OTHER: u32 = 1;
    /// As expected but for a checksum.
    pub const BAD_CHECKSUM: u32 = 2;
}

/// How the bare redirect sends a packet on.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Detour {
    /// Interface that the packets are sent by.
    pub ifindex: u32,
    /// Ethernet addresses of the packet, destination first.
    pub addresses: [u16; 6],
}

/// Address of a service, in host order: `10.100.0.1` and on.
#[inline(always)]
pub const fn vip(service: u32) -> u32 {
    0x0a64_0001 + service
}

/// Address of a service's one backend, in host order.
#[inline(always)]
pub const fn backend(service: u32) -> u32 {
    pod(service)
}

/// Port of a service's one backend.
#[inline(always)]
pub const fn backend_port(service: u32) -> u32 {
    BACKEND_PORT + service / PODS
}

/// Address of a pod, in host order.
#[inline(always)]
pub const fn pod(number: u32) -> u32 {
    0x0af4_0102 + number % PODS
}
