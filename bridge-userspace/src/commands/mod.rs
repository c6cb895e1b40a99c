//! What the listing commands show. They read the pinned tables and what `run` left behind, so they work
//! whether it is up or not.

pub mod cli;
pub mod exit;
pub mod flows;
pub mod services;
pub mod status;
mod table;
pub mod top;
pub mod uninstall;

use std::net::Ipv4Addr;

use bridge_common::packet::parse::{ICMP, TCP, UDP};

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

/// Prints a value as JSON.
///
/// # Errors
/// When standard output can't be written.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    table::write_out(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
