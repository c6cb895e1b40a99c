//! `office-bridge flows`.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bridge_common::abi::{FlowKey, Layer, Reply, ReplyKey, Seconds, Timeouts, since};
use bridge_common::conntrack::lifetime::{FlowState, idle, is_expired};
use serde::Serialize;

use super::{endpoint, print_json, protocol_name, table};
use crate::commands::cli::{FlowFilter, OutputFormat};
use crate::conntrack::connections::{Connection, connections};
use crate::conntrack::removal::remove;
use crate::kernel::clock;
use crate::maps::{TableError, Tables};

/// One flow as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Office host; the port of an ICMP flow is its identifier.
    pub client: String,
    /// What it addressed.
    pub destination: String,
    /// The pod that really gets it.
    pub backend: String,
    /// What that pod sees as the source.
    pub nat: String,
    /// `opening`, `established`, `closing`, `reset`, `unreplied`, `replied`, `expired` or `untranslated`.
    pub state: String,
    /// Packets in both directions.
    pub packets: u64,
    /// Bytes in both directions, IPv4 headers included.
    pub bytes: u64,
    /// Seconds since the last packet.
    pub idle_seconds: u32,
    /// The layer that carries it.
    pub layer: String,
}

impl FlowView {
    fn new(connection: &Connection, reply: &Reply, now: Seconds, timeouts: &Timeouts) -> Self {
        let Connection { key, flow, .. } = connection;
        let (destination, destination_port) = connection.destination();
        let layer = Layer::from_number(flow.layer).map_or("unknown", Layer::name);
        let (state, idle_seconds) = if Layer::is_untranslated(flow.layer) {
            ("untranslated", since(now, flow.last_seen))
        } else if is_expired(key.protocol, flow, reply, now, timeouts) {
            ("expired", idle(now, flow, reply))
        } else {
            (
                FlowState::of(key.protocol, flow, reply).name(),
                idle(now, flow, reply),
            )
        };
        Self {
            protocol: protocol_name(key.protocol),
            client: endpoint(key.client, key.client_port),
            destination: endpoint(destination, destination_port),
            backend: endpoint(flow.backend, flow.backend_port),
            nat: endpoint(flow.nat, flow.nat_port),
            state: state.to_owned(),
            packets: u64::from(flow.packets) + u64::from(reply.packets),
            bytes: flow.bytes() + u64::from(reply.bytes),
            idle_seconds,
            layer: layer.to_owned(),
        }
    }
}

fn select(tables: &Tables, filter: &FlowFilter) -> Result<Vec<Connection>, TableError> {
    let mut selected = connections(tables)?;
    selected.retain(|connection| {
        let Connection { key, flow, .. } = connection;
        let (destination, destination_port) = connection.destination();
        let matches =
            |filter: &Option<crate::commands::cli::EndpointFilter>, address: [u8; 4], port: u16| {
                filter
                    .as_ref()
                    .is_none_or(|filter| filter.matches(Ipv4Addr::from(address), port))
            };
        matches(&filter.client, key.client, key.client_port)
            && matches(&filter.destination, destination, destination_port)
            && matches(&filter.backend, flow.backend, flow.backend_port)
            && filter
                .protocol
                .is_none_or(|protocol| protocol.number() == key.protocol)
    });
    Ok(selected)
}

/// The flows that the filter matches.
///
/// # Errors
/// When the tables can't be read.
pub fn views(tables: &Tables, filter: &FlowFilter) -> Result<Vec<FlowView>, TableError> {
    let replies: HashMap<ReplyKey, Reply> = tables.replies()?.into_iter().collect();
    let timeouts = tables.settings()?.timeouts;
    let now = clock::now();
    Ok(select(tables, filter)?
        .iter()
        .map(|connection| {
            let reply = replies
                .get(&connection.key.reply_key(&connection.flow))
                .copied()
                .unwrap_or_default();
            FlowView::new(connection, &reply, now, &timeouts)
        })
        .collect())
}

/// Lists flows.
///
/// # Errors
/// When the tables can't be read.
pub fn list(tables: &Tables, filter: &FlowFilter, output: OutputFormat) -> anyhow::Result<()> {
    let flows = views(tables, filter)?;
    match output {
        OutputFormat::Json => print_json(&flows),
        OutputFormat::Table => table::print(
            &[
                "PROTOCOL",
                "CLIENT",
                "DESTINATION",
                "BACKEND",
                "NAT",
                "STATE",
                "PACKETS",
                "BYTES",
                "IDLE",
                "LAYER",
            ],
            flows.into_iter().map(|flow| {
                vec![
                    flow.protocol,
                    flow.client,
                    flow.destination,
                    flow.backend,
                    flow.nat,
                    flow.state,
                    flow.packets.to_string(),
                    flow.bytes.to_string(),
                    format!("{}s", flow.idle_seconds),
                    flow.layer,
                ]
            }),
            "no flows",
        ),
    }
}

/// Removes flows.
///
/// # Errors
/// When the tables can't be read or written.
pub fn flush(tables: &Tables, filter: &FlowFilter, output: OutputFormat) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Flushed {
        flushed: usize,
    }
    let mut flows = select(tables, filter)?;
    // Without its entry an untranslated connection would be taken for the rest of a lost flow, and reset.
    flows.retain(|connection| connection.flow.layer != Layer::Kernel as u8);
    let keys: Vec<FlowKey> = flows.iter().map(|connection| connection.key).collect();
    let replies: Vec<ReplyKey> = flows
        .iter()
        .map(|connection| connection.key.reply_key(&connection.flow))
        .collect();
    remove(tables, &keys, &replies)?;
    match output {
        OutputFormat::Json => print_json(&Flushed {
            flushed: keys.len(),
        }),
        OutputFormat::Table => table::write_out(&format!("{} flows removed\n", keys.len())),
    }
}
