//! `office-bridge status`.

use std::collections::BTreeMap;

use bridge_common::layout::{FastPath, Layer, Settings, name};
use bridge_common::verdict::{Count, DropReason};
use serde::Serialize;

use super::{print_json, table};
use crate::commands::cli::OutputFormat;
use crate::kernel::clock::now;
use crate::maps::InstanceLock;
use crate::maps::Pins;
use crate::maps::{Tables, access};
use crate::model::program::{Hook, Side};
use crate::observe::readiness::{Attachment, Readiness};
use crate::observe::state_file::{CidrState, ClusterState, Event};
use crate::observe::traffic::total;

/// An interface and what runs there.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceView {
    /// Its name.
    pub interface: String,
    /// Where the program hooks in.
    pub hook: Hook,
    /// The mode that was reached, or `detached` where the kernel shows no program of ours.
    pub mode: String,
    /// The layers that the program lets new flows take.
    pub layers: Vec<&'static str>,
    /// `uplink` or `cluster`.
    pub side: Side,
}

/// How full the flow tables are.
#[derive(Clone, Debug, Serialize)]
pub struct FlowsView {
    /// Flows in the table.
    pub used: usize,
    /// Flows that fit.
    pub capacity: u32,
}

/// Packets and bytes.
#[derive(Clone, Debug, Serialize)]
pub struct TrafficView {
    /// Packets.
    pub packets: u64,
    /// Bytes from the IPv4 header on.
    pub bytes: u64,
}

/// How well the cluster is followed.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// `kube`, `manifests=DIR` or `static`.
    pub source: String,
    /// Whether its state was read as a whole since the process began.
    pub synced: bool,
    /// Whether its changes come in.
    pub connected: bool,
    /// How long changes may have gone unnoticed.
    pub stale_seconds: u64,
    /// Why changes don't come in, or the last time didn't.
    pub last_error: Option<String>,
}

impl ClusterView {
    fn new(state: &ClusterState, is_running: bool) -> Self {
        // The configuration has no changes to miss.
        let connected = state.connected && (is_running || state.source == "static");
        let seen = ClusterState {
            connected,
            ..state.clone()
        };
        Self {
            stale_seconds: seen.stale_seconds(),
            source: seen.source,
            synced: seen.synced,
            connected,
            last_error: seen.last_error,
        }
    }

    /// One line for people.
    fn summary(&self) -> String {
        let source = &self.source;
        if self.connected {
            return source.clone();
        }
        let why = self
            .last_error
            .as_ref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        format!("{source}, NOT FOLLOWED for {} s{why}", self.stale_seconds)
    }
}

/// The whole status.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// Whether every program is where it belongs, asked of the kernel, and the tables are filled.
    pub ready: bool,
    /// Whether a `run` is there to follow changes. Forwarding goes on without.
    pub running: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// Interfaces.
    pub datapath: Vec<InterfaceView>,
    /// The cluster source.
    pub cluster: Option<String>,
    /// How well it is followed.
    pub cluster_state: Option<ClusterView>,
    /// Networks and where each was found.
    pub cidrs: Vec<CidrState>,
    /// What was left out of the cluster's state, and why.
    pub problems: Vec<String>,
    /// What happened lately, the newest last.
    pub events: Vec<Event>,
    /// Fill of the flow tables.
    pub flows: FlowsView,
    /// Service ports in the table.
    pub services: usize,
    /// Where names are relayed.
    pub dns_listen: Vec<String>,
    /// What was forwarded and answered. What XDP has forwarded is told apart, and in the sum of its direction.
    pub traffic: BTreeMap<&'static str, TrafficView>,
    /// Packets by drop reason.
    pub drops: BTreeMap<&'static str, u64>,
}

/// Collects the status.
///
/// # Errors
/// When the tables can't be read.
pub async fn view(pins: &Pins) -> anyhow::Result<StatusView> {
    let tables = Tables::open(pins)?;
    let pid = InstanceLock::holder(pins.root());
    let readiness = Readiness::read(pins, &tables).await?;
    let ready = readiness.is_ready();
    let settings = tables.settings()?;
    let fast_path = tables
        .array::<FastPath>(name::FAST_PATH)?
        .get(&0, 0)
        .map_err(access(name::FAST_PATH))?;
    let interfaces = readiness
        .attachments
        .into_iter()
        .map(|attachment| InterfaceView {
            mode: attachment.mode_name(),
            layers: layers(&attachment, &settings, &fast_path),
            interface: attachment.point.interface,
            hook: attachment.point.program.hook(),
            side: attachment.side,
        })
        .collect();
    let state = readiness.state;
    let mut problems = state
        .as_ref()
        .map(|state| state.problems.clone())
        .unwrap_or_default();
    problems.extend(pid.and_then(|pid| hanging(pid, &fast_path)));
    let count = tables.counters()?;
    let traffic = Count::TRAFFIC
        .iter()
        .map(|&traffic| {
            let counter = total(&count, traffic);
            (
                traffic.name(),
                TrafficView {
                    packets: counter.packets,
                    bytes: counter.bytes,
                },
            )
        })
        .collect();
    let drops = DropReason::ALL
        .iter()
        .map(|&reason| (reason.name(), count(Count::Drop(reason)).packets))
        .collect();
    Ok(StatusView {
        ready,
        running: pid.is_some(),
        pid,
        datapath: interfaces,
        cluster: state.as_ref().map(|state| state.cluster.clone()),
        cluster_state: state
            .as_ref()
            .and_then(|state| state.cluster_state.as_ref())
            .map(|cluster| ClusterView::new(cluster, pid.is_some())),
        events: state
            .as_ref()
            .map(|state| state.events.clone())
            .unwrap_or_default(),
        cidrs: state
            .as_ref()
            .map(|state| state.cidrs.clone())
            .unwrap_or_default(),
        problems,
        flows: FlowsView {
            used: tables.flows()?.len(),
            capacity: tables.flow_capacity()?,
        },
        services: tables.service_ports()?.len(),
        dns_listen: state.map(|state| state.dns_listen).unwrap_or_default(),
        traffic,
        drops,
    })
}

/// What to say of a process that is there and does not do its work.
fn hanging(pid: u32, fast_path: &FastPath) -> Option<String> {
    let overdue = now().checked_sub(fast_path.valid_until)?;
    // Never written: the first state is still on its way.
    (overdue > 0 && fast_path.valid_until != 0).then(|| {
        format!(
            "process {pid} has compared nothing with the kernel for more than {overdue} s: it hangs or is stopped; restart it"
        )
    })
}

/// The layers that new flows can take there. A flow that is there stays on its own.
fn layers(attachment: &Attachment, settings: &Settings, fast_path: &FastPath) -> Vec<&'static str> {
    let ifindex = attachment.point.ifindex;
    let takes_packets = || {
        fast_path.valid_until >= now() && fast_path.ports.iter().any(|port| port.ifindex == ifindex)
    };
    let layers: &[Layer] = match (attachment.mode, attachment.point.program.hook()) {
        (Some(_), Hook::TcIngress) if settings.stack_only == 0 => &[Layer::Tc, Layer::Stack],
        (Some(_), Hook::Xdp) if takes_packets() => &[Layer::Tc],
        // A program that passes everything on.
        (None, _) | (Some(_), Hook::Xdp) => &[],
        (Some(_), Hook::TcIngress | Hook::TcEgress) => &[Layer::Stack],
    };
    layers.iter().map(|layer| layer.name()).collect()
}

/// Shows the status.
///
/// # Errors
/// When the tables can't be read.
pub async fn show(pins: &Pins, output: OutputFormat) -> anyhow::Result<()> {
    let status = view(pins).await?;
    match output {
        OutputFormat::Json => print_json(&status),
        OutputFormat::Table => print_tables(&status),
    }
}

fn print_tables(status: &StatusView) -> anyhow::Result<()> {
    let running = match status.pid {
        Some(pid) => format!("process {pid} follows the cluster"),
        None => "no process runs: forwarding goes on, changes are not followed".to_owned(),
    };
    table::write_out(&format!(
        "ready: {} ({running})\ncluster: {}\nflows: {} of {}\nservices: {}\ndns: {}\n",
        if status.ready { "yes" } else { "NO" },
        match &status.cluster_state {
            Some(cluster) => cluster.summary(),
            None => status
                .cluster
                .clone()
                .unwrap_or_else(|| "unknown".to_owned()),
        },
        status.flows.used,
        status.flows.capacity,
        status.services,
        if status.dns_listen.is_empty() {
            "off".to_owned()
        } else {
            status.dns_listen.join(" ")
        },
    ))?;
    for problem in &status.problems {
        table::write_out(&format!("problem: {problem}\n"))?;
    }
    for event in &status.events {
        table::write_out(&format!("event: {} {}\n", event.time, event.message))?;
    }
    table::write_out("\n")?;
    table::print(
        &["INTERFACE", "SIDE", "HOOK", "MODE", "LAYERS"],
        status.datapath.iter().map(|interface| {
            vec![
                interface.interface.clone(),
                interface.side.name().to_owned(),
                interface.hook.name().to_owned(),
                interface.mode.clone(),
                interface.layers.join(" "),
            ]
        }),
        "attached nowhere",
    )?;
    table::write_out("\n")?;
    table::print(
        &["CIDR", "KIND", "SOURCE"],
        status
            .cidrs
            .iter()
            .map(|cidr| vec![cidr.cidr.clone(), cidr.kind.clone(), cidr.source.clone()]),
        "no networks known",
    )?;
    table::write_out("\n")?;
    table::print(
        &["TRAFFIC", "PACKETS", "BYTES"],
        status.traffic.iter().map(|(name, traffic)| {
            vec![
                (*name).to_owned(),
                traffic.packets.to_string(),
                traffic.bytes.to_string(),
            ]
        }),
        "",
    )?;
    table::write_out("\n")?;
    table::print(
        &["DROP REASON", "PACKETS"],
        status
            .drops
            .iter()
            .filter(|(_, packets)| **packets > 0)
            .map(|(reason, packets)| vec![(*reason).to_owned(), packets.to_string()]),
        "no packets dropped",
    )
}
