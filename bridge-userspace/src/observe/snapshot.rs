//! One snapshot of what is known of a bridge. `status`, `/readyz` and `/metrics` are views of it, so that they can't
//! disagree.

use std::cmp::Reverse;

use bridge_common::abi::{Counter, FastPath, OtherSource, Seconds, Settings, SourceNetwork, name};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::event_log::ago;
use super::readiness::{Attachment, Evidence, NotReady, has_office};
use super::report::{ClusterState, OpenProblem, Report};
use super::state_file::StateFile;
use super::traffic::total;
use crate::datapath::Mode;
use crate::kernel::clock;
use crate::maps::{InstanceLock, Pins, TableError, Tables};
use crate::model::program::{AttachPoint, Program, Side};
use crate::model::{Problem, Subject};

/// Where a snapshot is taken from. Clones are the same.
#[derive(Clone, Debug)]
pub struct Viewpoint {
    pins: Pins,
    report: Source,
}

#[derive(Clone, Debug)]
enum Source {
    File(StateFile),
    /// What this very process reports, which is what the file gets.
    Process(watch::Receiver<Option<Report>>),
}

impl Viewpoint {
    /// From outside of the process that runs, or of the last one that ran.
    #[must_use]
    pub fn outside(pins: &Pins) -> Self {
        Self {
            report: Source::File(StateFile::new(pins.root())),
            pins: pins.clone(),
        }
    }

    /// From inside of the process that reports this.
    #[must_use]
    pub fn inside(pins: &Pins, report: watch::Receiver<Option<Report>>) -> Self {
        Self {
            pins: pins.clone(),
            report: Source::Process(report),
        }
    }

    fn report(&self) -> anyhow::Result<Option<Report>> {
        Ok(match &self.report {
            Source::File(file) => file.read()?,
            Source::Process(report) => report.borrow().clone(),
        })
    }

    fn pid(&self) -> Option<u32> {
        match &self.report {
            Source::File(_) => InstanceLock::holder(self.pins.root()),
            Source::Process(_) => Some(std::process::id()),
        }
    }
}

/// The bridge as it stands, but for what is in the large tables.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The process that runs, if one does.
    pub pid: Option<u32>,
    /// What the last process has reported.
    pub report: Option<Report>,
    /// The programs, asked of the kernel.
    pub attachments: Vec<Attachment>,
    /// `settings`.
    pub settings: Settings,
    /// `fast_path`.
    pub fast_path: FastPath,
    /// What is not as it should be.
    pub problems: Vec<OpenProblem>,
    /// What keeps the bridge from being ready.
    pub not_ready: Vec<NotReady>,
}

impl Snapshot {
    /// Looks at the kernel and at what is reported. Missing tables are a reason not to be ready.
    ///
    /// # Errors
    /// When what is there can't be read.
    pub async fn take(viewpoint: &Viewpoint) -> anyhow::Result<Self> {
        let report = viewpoint.report()?;
        let pid = viewpoint.pid();
        let attachments = match &report {
            Some(report) => Attachment::all_of(report, &viewpoint.pins).await,
            None => Vec::new(),
        };
        let tables = match Tables::open(&viewpoint.pins) {
            Ok(tables) => tables,
            Err(error) => return Ok(Self::without_tables(pid, report, attachments, &error)),
        };
        let fast_path = tables.fast_path()?;
        let evidence = Evidence {
            report: report.as_ref(),
            pid,
            attachments: &attachments,
            has_office: has_office(&tables)?,
            overdue: overdue(&fast_path, clock::now()),
        };
        let not_ready = evidence.judge();
        Ok(Self {
            problems: problems(report.as_ref(), &not_ready),
            pid,
            attachments,
            settings: tables.settings()?,
            fast_path,
            not_ready,
            report,
        })
    }

    fn without_tables(
        pid: Option<u32>,
        report: Option<Report>,
        attachments: Vec<Attachment>,
        error: &TableError,
    ) -> Self {
        let evidence = Evidence {
            report: report.as_ref(),
            pid,
            attachments: &attachments,
            has_office: false,
            overdue: 0,
        };
        let not_ready = match evidence.judge() {
            // The one reason that comes before there are tables.
            reasons if matches!(reasons[..], [NotReady::NoClusterState { .. }]) => reasons,
            reasons => {
                let starting = reasons
                    .into_iter()
                    .filter(|reason| matches!(reason, NotReady::Starting { .. }));
                starting
                    .chain([NotReady::NoTables(error.to_string())])
                    .collect()
            }
        };
        Self {
            problems: problems(report.as_ref(), &not_ready),
            pid,
            report,
            attachments,
            settings: Settings::default(),
            fast_path: FastPath::default(),
            not_ready,
        }
    }

    /// A bridge with one interface, for the reference of metrics.
    pub(super) fn example() -> Self {
        let point = AttachPoint {
            ifindex: 2,
            interface: "eth0".to_owned(),
            program: Program::UplinkIngress,
        };
        let mut report = Report::example(1);
        report.cluster_state = Some(ClusterState {
            source: report.cluster.clone(),
            synced: true,
            connected: true,
            last_contact: 0,
            last_error: None,
        });
        Self {
            pid: Some(report.pid),
            report: Some(report),
            attachments: vec![Attachment {
                side: Side::Uplink,
                point,
                mode: Some(Mode::Tcx),
                other: None,
            }],
            settings: Settings::default(),
            fast_path: FastPath::default(),
            problems: Vec::new(),
            not_ready: Vec::new(),
        }
    }

    /// Whether nothing stands in the way.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.not_ready.is_empty()
    }
}

/// For how long the lease of XDP's next hops has been over, in seconds; 0 while it holds, and before the first one.
fn overdue(fast_path: &FastPath, now: Seconds) -> Seconds {
    if fast_path.valid_until == 0 {
        return 0;
    }
    now.saturating_sub(fast_path.valid_until)
}

/// What is reported, and what a process that hangs can't report.
fn problems(report: Option<&Report>, not_ready: &[NotReady]) -> Vec<OpenProblem> {
    let mut problems = report
        .map(|report| report.open_problems.clone())
        .unwrap_or_default();
    problems.extend(not_ready.iter().filter_map(|reason| match reason {
        NotReady::Hanging { seconds, .. } => Some(OpenProblem {
            problem: Problem::new(
                Subject::Datapath,
                reason.to_string(),
                "restart office-bridge; forwarding goes on meanwhile",
            ),
            since: ago(*seconds),
        }),
        _ => None,
    }));
    problems
}

/// What is in the large tables, which takes a moment to read when they are full.
#[derive(Clone, Debug)]
pub struct Fill {
    /// Flows by protocol.
    pub flows: [(&'static str, u32); 4],
    /// Flows that fit.
    pub flow_capacity: u32,
    /// Service ports.
    pub services: usize,
    /// Networks that are none of the office's and whose packets to services were refused, the most packets first.
    pub other_sources: Vec<(Ipv4Net, OtherSource)>,
    pub(super) counters: Vec<(Count, Counter)>,
}

impl Fill {
    /// Reads the tables.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn read(pins: &Pins) -> Result<Self, TableError> {
        let tables = Tables::open(pins)?;
        let flows = tables.flows()?;
        Ok(Self {
            flows: by_protocol(flows.iter().map(|(key, _)| key.protocol)),
            flow_capacity: tables.flow_capacity()?,
            services: tables.service_ports()?.len(),
            other_sources: other_sources(&tables)?,
            ..Self::of_counters(tables.counters()?)
        })
    }

    /// Empty tables, for the reference of metrics.
    pub(super) fn example() -> Self {
        Self::of_counters(|_| Counter::default())
    }

    pub(super) fn of_counters(count: impl Fn(Count) -> Counter) -> Self {
        let drops = DropReason::ALL.iter().map(|&reason| Count::Drop(reason));
        Self {
            flows: by_protocol([]),
            flow_capacity: 0,
            services: 0,
            other_sources: Vec::new(),
            counters: Count::TRAFFIC
                .iter()
                .copied()
                .chain(drops)
                .map(|what| (what, count(what)))
                .collect(),
        }
    }

    /// A counter, as the datapath counts it.
    #[must_use]
    pub fn counter(&self, what: Count) -> Counter {
        self.counters
            .iter()
            .find(|(known, _)| *known == what)
            .map(|(_, counter)| *counter)
            .unwrap_or_default()
    }

    /// A counter as people understand it: [`total`].
    #[must_use]
    pub fn total(&self, what: Count) -> Counter {
        total(|what| self.counter(what), what)
    }

    /// Flows of all protocols.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.iter().map(|&(_, flows)| flows as usize).sum()
    }
}

fn other_sources(tables: &Tables) -> Result<Vec<(Ipv4Net, OtherSource)>, TableError> {
    let found: Vec<(SourceNetwork, OtherSource)> = tables.read_all(name::OTHER_SOURCES)?;
    let mut networks: Vec<_> = found
        .into_iter()
        .map(|(network, seen)| (Ipv4Net::new_assert(network.address.into(), 24), seen))
        .collect();
    networks.sort_by_key(|(network, seen)| (Reverse(seen.packets), *network));
    Ok(networks)
}

pub(super) fn by_protocol(protocols: impl IntoIterator<Item = u8>) -> [(&'static str, u32); 4] {
    let mut entries = [("tcp", 0), ("udp", 0), ("icmp", 0), ("other", 0)];
    for protocol in protocols {
        let index = match protocol {
            TCP => 0,
            UDP => 1,
            ICMP => 2,
            _ => 3,
        };
        entries[index].1 += 1;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_was_never_given_is_not_overdue() {
        let lease = |valid_until| FastPath {
            valid_until,
            ..FastPath::default()
        };
        assert_eq!(overdue(&lease(0), 1_000), 0);
        assert_eq!(overdue(&lease(1_000), 1_000), 0);
        assert_eq!(overdue(&lease(990), 1_000), 10);
    }
}
