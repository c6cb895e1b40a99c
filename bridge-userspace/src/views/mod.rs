//! What the listing commands show. They read the pinned tables and what `run` left behind, so they work
//! whether it is up or not.

pub mod connections;
pub mod flows;
pub mod services;
pub mod status;
mod table;

use std::net::Ipv4Addr;

use bridge_common::layout::Counter;
use bridge_common::parse::{ICMP, TCP, UDP};
use bridge_common::verdict::Count;

/// `address:port`.
fn endpoint(address: [u8; 4], port: u16) -> String {
    format!("{}:{port}", Ipv4Addr::from(address))
}

/// The protocol's name in listings.
fn protocol_name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        other => other.to_string(),
    }
}

/// A counter as people understand it: what was forwarded in a direction includes what XDP has forwarded, which the
/// datapath counts apart.
#[must_use]
pub fn total(count: impl Fn(Count) -> Counter, what: Count) -> Counter {
    let sum = |a: Counter, b: Counter| Counter {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
    };
    match what {
        Count::ToBackend => sum(count(what), count(Count::XdpToBackend)),
        Count::ToClient => sum(count(what), count(Count::XdpToClient)),
        _ => count(what),
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// When standard output can't be written.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    table::write_out(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
