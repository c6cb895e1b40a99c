//! `office-bridge flows top`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use bridge_common::abi::{Client, ClientKey, Ipv4, Reply, ReplyKey, name};
use bridge_common::conntrack::lifetime::FlowState;
use bridge_common::conntrack::tcp_state::State;
use serde::Serialize;

use super::{print_json, table};
use crate::commands::cli::OutputFormat;
use crate::conntrack::connections::connections;
use crate::maps::{TableError, Tables};

/// A client as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientView {
    /// Office host.
    pub client: String,
    /// Its flows.
    pub flows: u64,
    /// Established TCP sessions among them.
    pub sessions: u64,
    /// Packets that were refused because it had or took too much, since it was first seen.
    pub refused: u64,
}

/// Clients, those with the most flows first.
///
/// # Errors
/// When the tables can't be read.
pub fn views(tables: &Tables) -> Result<Vec<ClientView>, TableError> {
    let replies: HashMap<ReplyKey, Reply> = tables.replies()?.into_iter().collect();
    let mut counts: HashMap<Ipv4, (u64, u64, u64)> = HashMap::new();
    for connection in connections(tables)? {
        let (key, flow) = (&connection.key, &connection.flow);
        let reply = replies.get(&key.reply_key(flow)).copied();
        let state = FlowState::of(key.protocol, flow, &reply.unwrap_or_default());
        let (flows, sessions, _) = counts.entry(key.client).or_default();
        *flows += 1;
        *sessions += u64::from(state == FlowState::Tcp(State::Established));
    }
    for (key, client) in tables.read_all::<ClientKey, Client>(name::CLIENTS)? {
        if client.refused != 0 {
            counts.entry(key.address).or_default().2 = client.refused.into();
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(address, (flows, _, refused))| {
        (Reverse(flows), Reverse(refused), Ipv4Addr::from(address))
    });
    let view = |(address, (flows, sessions, refused))| ClientView {
        client: Ipv4Addr::from(address).to_string(),
        flows,
        sessions,
        refused,
    };
    Ok(counts.into_iter().map(view).collect())
}

/// Lists clients.
///
/// # Errors
/// When the tables can't be read.
pub fn print(tables: &Tables, output: OutputFormat) -> anyhow::Result<()> {
    let clients = views(tables)?;
    match output {
        OutputFormat::Json => print_json(&clients),
        OutputFormat::Table => table::print(
            &["CLIENT", "FLOWS", "SESSIONS", "REFUSED"],
            clients.into_iter().map(|client| {
                vec![
                    client.client,
                    client.flows.to_string(),
                    client.sessions.to_string(),
                    client.refused.to_string(),
                ]
            }),
            "no flows",
        ),
    }
}
