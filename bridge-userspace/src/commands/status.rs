//! `office-bridge status`.

use std::collections::BTreeMap;

use bridge_common::abi::{FastPath, Layer, Settings, since};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use serde::Serialize;

use super::{print_json, table};
use crate::commands::cli::OutputFormat;
use crate::kernel::clock::now;
use crate::maps::Pins;
use crate::model::Subject;
use crate::model::program::{Hook, Program, Side};
use crate::observe::readiness::Attachment;
use crate::observe::report::{CidrState, ClusterState, Event, OpenProblem};
use crate::observe::snapshot::{Fill, Snapshot, Viewpoint};

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
    /// Ports that clients can be translated to, towards each port of a backend and on each NAT address.
    pub nat_ports: u32,
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
    /// Whether packets are forwarded, names resolved and changes followed.
    pub ready: bool,
    /// What keeps it from being ready, as `/readyz` tells it; nothing if it is.
    pub not_ready: Vec<String>,
    /// Whether a `run` is there to follow changes. Forwarding goes on without.
    pub running: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// Where programs are attached, and how.
    pub datapath: Vec<InterfaceView>,
    /// The cluster source.
    pub cluster: Option<String>,
    /// How well it is followed.
    pub cluster_state: Option<ClusterView>,
    /// Networks and where each was found.
    pub cidrs: Vec<CidrState>,
    /// What is not as it should be, in one sentence each.
    pub problems: Vec<String>,
    /// The same, with what each is about, since when, and what to do.
    pub problem_details: Vec<ProblemView>,
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
    /// Networks that are none of the office's and whose packets to services were refused (`not-office`), the most packets
    /// first: at most 64.
    pub other_sources: Vec<OtherSourceView>,
}

/// A network whose packets to services were refused.
#[derive(Clone, Debug, Serialize)]
pub struct OtherSourceView {
    /// The network, a /24.
    pub network: String,
    /// Packets that were refused.
    pub packets: u64,
    /// Seconds since the last one.
    pub idle_seconds: u32,
}

/// A problem with what there is to do about it.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemView {
    /// What it is about.
    pub subject: Subject,
    /// What is wrong.
    pub what: String,
    /// Since when, by RFC 3339, in UTC.
    pub since: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<OpenProblem> for ProblemView {
    fn from(open: OpenProblem) -> Self {
        let OpenProblem { problem, since } = open;
        Self {
            subject: problem.subject,
            what: problem.what,
            since,
            remedy: problem.remedy,
        }
    }
}

/// Collects the status.
///
/// # Errors
/// When the tables can't be read.
pub async fn view(pins: &Pins) -> anyhow::Result<StatusView> {
    let fill = Fill::read(pins)?;
    let snapshot = Snapshot::take(&Viewpoint::outside(pins)).await?;
    Ok(StatusView::new(snapshot, &fill))
}

impl StatusView {
    fn new(snapshot: Snapshot, fill: &Fill) -> Self {
        let ready = snapshot.is_ready();
        let datapath = snapshot
            .attachments
            .iter()
            .map(|attachment| InterfaceView {
                mode: attachment.mode_name(),
                layers: layers(attachment, &snapshot.settings, &snapshot.fast_path),
                interface: attachment.point.interface.clone(),
                hook: attachment.point.program.hook(),
                side: attachment.side,
            })
            .collect();
        let traffic = |&what: &Count| {
            let counter = fill.total(what);
            let view = TrafficView {
                packets: counter.packets,
                bytes: counter.bytes,
            };
            (what.name(), view)
        };
        let drop =
            |&reason: &DropReason| (reason.name(), fill.counter(Count::Drop(reason)).packets);
        let problem_details: Vec<ProblemView> = snapshot
            .problems
            .into_iter()
            .map(ProblemView::from)
            .collect();
        let pid = snapshot.pid;
        let (cluster, cluster_state, events, cidrs, dns_listen) = match snapshot.report {
            Some(report) => (
                Some(report.cluster),
                report
                    .cluster_state
                    .map(|cluster| ClusterView::new(&cluster, pid.is_some())),
                report.events,
                report.cidrs,
                report.dns_listen,
            ),
            None => Default::default(),
        };
        Self {
            ready,
            not_ready: snapshot.not_ready.iter().map(ToString::to_string).collect(),
            running: pid.is_some(),
            pid,
            datapath,
            cluster,
            cluster_state,
            cidrs,
            problems: problem_details
                .iter()
                .map(|problem| problem.what.clone())
                .collect(),
            problem_details,
            events,
            flows: FlowsView {
                used: fill.flow_count(),
                capacity: fill.flow_capacity,
                nat_ports: snapshot.settings.nat_ports(),
            },
            services: fill.services,
            dns_listen,
            traffic: Count::TRAFFIC.iter().map(traffic).collect(),
            drops: DropReason::ALL.iter().map(drop).collect(),
            other_sources: fill
                .other_sources
                .iter()
                .map(|(network, seen)| OtherSourceView {
                    network: network.to_string(),
                    packets: seen.packets,
                    idle_seconds: since(now(), seen.last_seen),
                })
                .collect(),
        }
    }
}

/// The layers that new flows can take there. A flow that is there stays on its own.
fn layers(attachment: &Attachment, settings: &Settings, fast_path: &FastPath) -> Vec<&'static str> {
    let ifindex = attachment.point.ifindex;
    let takes_packets = || {
        fast_path.valid_until >= now() && fast_path.ports.iter().any(|port| port.ifindex == ifindex)
    };
    let program = attachment.point.program;
    let layers: &[Layer] = match (attachment.mode, program.hook()) {
        (Some(_), _) if program == Program::UplinkEgress => &[Layer::Local],
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
        "ready: {} ({running})\ncluster: {}\nflows: {} of {}, {} NAT ports\nservices: {}\ndns: {}\n",
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
        status.flows.nat_ports,
        status.services,
        if status.dns_listen.is_empty() {
            "off".to_owned()
        } else {
            status.dns_listen.join(" ")
        },
    ))?;
    for reason in &status.not_ready {
        table::write_out(&format!("not ready: {reason}\n"))?;
    }
    for problem in &status.problem_details {
        table::write_out(&format!(
            "problem: {} (since {}; {})\n",
            problem.what, problem.since, problem.remedy
        ))?;
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
    )?;
    if status.other_sources.is_empty() {
        return Ok(());
    }
    table::write_out("\n")?;
    table::print(
        &["NOT IN officeCidr", "PACKETS", "IDLE SECONDS"],
        status.other_sources.iter().map(|source| {
            vec![
                source.network.clone(),
                source.packets.to_string(),
                source.idle_seconds.to_string(),
            ]
        }),
        "",
    )
}
