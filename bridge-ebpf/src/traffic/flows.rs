//! Which flow has which addresses.

use super::layout::{PODS, PORTS, SERVICE_PORT, backend, backend_port, kind, pod, vip};

/// How many clients the flows are spread over: `192.168.0.1` and on, a good part of a /22.
pub const CLIENTS: u32 = 1_000;
/// The first client port.
pub const FIRST_PORT: u32 = 10_000;
/// UDP port that clients of a pod address.
pub const POD_PORT: u32 = 5_001;
/// Coprime to [`PORTS`] and to round numbers of services: neighbouring flows are far from each other.
const STRIDE: u32 = 7_919;

/// Addresses and ports of one flow, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u32,
    /// Destination port.
    pub destination_port: u32,
}

/// What the packet of flow `number` carries. The NAT port is the client's: no two flows meet in (pod, port).
#[inline(always)]
pub const fn tuple(kind: u32, number: u32, services: u32, nat: u32) -> Tuple {
    let client = 0xc0a8_0001 + number % CLIENTS;
    let client_port = FIRST_PORT + number % PORTS * STRIDE % PORTS;
    let pod = pod(number / PORTS + number % PORTS);
    // The compiler does not know that there is at least one.
    let service = match (number % PORTS * STRIDE).checked_rem(services) {
        Some(service) => service,
        None => 0,
    };
    let home = if nat == 0 { client } else { nat };
    let (source, destination, source_port, destination_port) = match kind {
        kind::TO_SERVICE => (client, vip(service), client_port, SERVICE_PORT),
        kind::FROM_POD => (pod, home, POD_PORT, client_port),
        kind::FROM_BACKEND => (backend(service), home, backend_port(service), client_port),
        // TEST-NET-3 (RFC 5737).
        kind::NOT_OURS => (client, 0xcb00_7100 + number % PODS, client_port, POD_PORT),
        _ => (client, pod, client_port, POD_PORT),
    };
    Tuple {
        source,
        destination,
        source_port,
        destination_port,
    }
}
