//! Whether packets are forwarded, names resolved and changes followed, judged by evidence.

use bridge_common::abi::{OfficeCidr, Seconds, name};

use super::report::Report;
use crate::datapath::{Found, Hooks, Mode, Occupant, Owner, find};
use crate::maps::{Pins, TableError, Tables, access};
use crate::model::Subject;
use crate::model::program::{AttachPoint, Program, Side};

/// What keeps the bridge from being ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// There is nothing to forward by.
    #[error("{0}")]
    NoTables(String),
    /// A new process has not read the cluster's state once.
    #[error("no cluster state yet: {why}")]
    NoClusterState {
        /// What is in the way.
        why: String,
    },
    /// A new process has not put its own configuration in force yet.
    #[error("process {pid} is still starting")]
    Starting {
        /// The process.
        pid: u32,
    },
    /// Where clients come in nothing is attached.
    #[error("attached to no uplink")]
    NoUplink,
    /// Our program is gone from an interface.
    #[error("{} is not attached to {interface}", .program.name())]
    Detached {
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
    },
    /// Somebody else's program stands in the place of ours.
    #[error("{} is not attached to {interface}: {other} is in its place", .program.name())]
    Replaced {
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
        /// Whose program, and which.
        other: Occupant,
    },
    /// Ours is attached, and its packets are taken before it.
    #[error("{other} takes the packets of {interface} before {}", .program.name())]
    Preceded {
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
        /// Whose program, and which.
        other: String,
    },
    /// No packet is ours yet.
    #[error("table {table} is empty")]
    Empty {
        /// The table.
        table: &'static str,
    },
    /// Names are not resolved.
    #[error("no DNS upstream answers")]
    NoDnsUpstream,
    /// Changes are not followed.
    #[error("{0}")]
    Blind(String),
    /// The process is there and does not do its work.
    #[error("{}", hanging(*.pid, *.seconds))]
    Hanging {
        /// The process.
        pid: u32,
        /// How long its last lease has been over.
        seconds: Seconds,
    },
}

/// What to say of a process that hangs.
pub(super) fn hanging(pid: u32, seconds: Seconds) -> String {
    format!(
        "process {pid} has compared nothing with the kernel for more than {seconds} s: it hangs or is stopped; restart it"
    )
}

/// A program that is to be attached.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Which, and where.
    pub point: AttachPoint,
    /// On which side of the bridge.
    pub side: Side,
    /// How it is attached, and `None` where the kernel shows no program of ours any more.
    pub mode: Option<Mode>,
    /// Who is in its place or before it, if anybody is.
    pub other: Option<Occupant>,
}

impl Attachment {
    /// `tcx`, `clsact`, `native`, or `detached`.
    #[must_use]
    pub fn mode_name(&self) -> String {
        self.mode
            .map_or_else(|| "detached".to_owned(), |mode| mode.to_string())
    }

    /// Why packets at this hook don't get to our program, if that is sure.
    fn failing(&self) -> Option<NotReady> {
        let program = self.point.program;
        let interface = self.point.interface.clone();
        match (self.mode, self.other.clone()) {
            (None, Some(other)) => Some(NotReady::Replaced {
                program,
                interface,
                other,
            }),
            (None, None) => Some(NotReady::Detached { program, interface }),
            // What a stranger leaves to others nobody knows; another bridge leaves nothing of what is ours.
            (Some(_), Some(other)) if other.owner == Owner::OtherInstance => {
                Some(NotReady::Preceded {
                    program,
                    interface,
                    other: other.to_string(),
                })
            }
            (Some(_), _) => None,
        }
    }

    /// Asks the kernel for the programs of a report.
    pub async fn all_of(report: &Report, pins: &Pins) -> Vec<Self> {
        let mut hooks = Hooks::open(pins, report.programs.iter().copied()).ok();
        let mut attachments = Vec::new();
        for point in &report.attach_points {
            let found = match &mut hooks {
                Some(hooks) => find(hooks, point, report.mode).await.ok(),
                None => None,
            };
            let Found { mode, other } = found.unwrap_or_default();
            attachments.push(Self {
                mode,
                other,
                side: point.side(&report.uplink),
                point: point.clone(),
            });
        }
        attachments
    }
}

/// What readiness is judged by.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// What the last process has reported.
    pub report: Option<&'a Report>,
    /// The process that runs.
    pub pid: Option<u32>,
    /// The programs, as the kernel shows them.
    pub attachments: &'a [Attachment],
    /// Whether an office network is in the tables. The reconciler writes these last.
    pub has_office: bool,
    /// For how long the process has not renewed its lease, past the lease's end; 0 while the lease holds.
    pub overdue: Seconds,
}

impl Evidence<'_> {
    /// Everything that keeps the bridge from being ready; nothing if it is. Without a process forwarding goes on, so
    /// that is no reason.
    #[must_use]
    pub fn judge(&self) -> Vec<NotReady> {
        if let (Some(_), Some(why)) = (self.pid, self.unknown_cluster()) {
            return vec![NotReady::NoClusterState { why }];
        }
        let mut reasons = Vec::new();
        let applied_by = self.report.map(|report| report.pid);
        let starting = self.pid.filter(|&pid| applied_by != Some(pid));
        reasons.extend(starting.map(|pid| NotReady::Starting { pid }));
        self.judge_attachments(&mut reasons);
        if !self.has_office {
            reasons.push(NotReady::Empty {
                table: name::OFFICE_CIDRS,
            });
        }
        if let (Some(report), Some(pid), None) = (self.report, self.pid, starting) {
            reasons.extend(
                report
                    .dns
                    .as_ref()
                    .filter(|dns| !dns.has_healthy_upstream)
                    .map(|_| NotReady::NoDnsUpstream),
            );
            // What the process has counted holds for as long as the kernel shows the other one there.
            let overtaken = report.overtaken.iter().filter(|overtaken| {
                self.attachments.iter().any(|attachment| {
                    let other = attachment.other.as_ref().map(ToString::to_string);
                    attachment.point == overtaken.point && other.as_ref() == Some(&overtaken.other)
                })
            });
            reasons.extend(overtaken.map(|overtaken| NotReady::Preceded {
                program: overtaken.point.program,
                interface: overtaken.point.interface.clone(),
                other: overtaken.other.clone(),
            }));
            let problems = report.open_problems.iter().map(|open| &open.problem);
            reasons.extend(
                problems
                    .filter(|problem| {
                        matches!(problem.subject, Subject::Task(_) | Subject::KernelNetwork)
                    })
                    .map(|problem| NotReady::Blind(problem.what.clone())),
            );
            // A process that reports why it does not renew the lease does not hang.
            let is_explained = report.open_problems.iter().any(|open| {
                let subject = &open.problem.subject;
                matches!(subject, Subject::KernelNetwork | Subject::Reconciliation)
            });
            if self.overdue > 0 && !is_explained {
                reasons.push(NotReady::Hanging {
                    pid,
                    seconds: self.overdue,
                });
            }
        }
        reasons
    }

    fn unknown_cluster(&self) -> Option<String> {
        let cluster = self.report?.cluster_state.as_ref()?;
        (!cluster.synced).then(|| {
            cluster
                .last_error
                .clone()
                .unwrap_or_else(|| "nothing is listed yet".to_owned())
        })
    }

    fn judge_attachments(&self, reasons: &mut Vec<NotReady>) {
        let is_uplinks =
            |attachment: &Attachment| attachment.point.program == Program::UplinkIngress;
        if !self.attachments.iter().any(is_uplinks) {
            reasons.push(NotReady::NoUplink);
        }
        reasons.extend(self.attachments.iter().filter_map(Attachment::failing));
    }
}

/// Whether an office network is in the tables.
///
/// # Errors
/// When the table can't be read.
pub(super) fn has_office(tables: &Tables) -> Result<bool, TableError> {
    let office = tables.prefixes::<OfficeCidr>(name::OFFICE_CIDRS)?;
    let first = office.keys().next().transpose();
    Ok(first.map_err(access(name::OFFICE_CIDRS))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Place;
    use crate::model::Problem;
    use crate::observe::report::{ClusterState, DnsState, OpenProblem};

    #[test]
    fn a_bridge_that_is_attached_and_filled_is_ready() {
        let attachments = attachments();
        let report = report();
        assert_eq!(evidence(&report, &attachments).judge(), []);
    }

    #[test]
    fn every_reason_is_told() {
        let attachments = [
            attachment("cni0", Program::ClusterIngress, Some(Mode::Tcx)),
            attachment("cni0", Program::ClusterEgress, None),
        ];
        let mut report = report();
        report.dns = Some(DnsState {
            has_healthy_upstream: false,
        });
        let blind = Problem::new(
            Subject::Task("the follower".to_owned()),
            "it has ended",
            "wait",
        );
        report.open_problems = vec![OpenProblem {
            problem: blind,
            since: String::new(),
        }];
        let evidence = Evidence {
            has_office: false,
            overdue: 7,
            ..evidence(&report, &attachments)
        };
        assert_eq!(
            evidence.judge(),
            [
                NotReady::NoUplink,
                NotReady::Detached {
                    program: Program::ClusterEgress,
                    interface: "cni0".to_owned()
                },
                NotReady::Empty {
                    table: "office_cidrs"
                },
                NotReady::NoDnsUpstream,
                NotReady::Blind("it has ended".to_owned()),
                NotReady::Hanging { pid: 7, seconds: 7 },
            ]
        );
    }

    #[test]
    fn what_takes_our_packets_for_sure_is_a_reason() {
        let report = report();
        let other = |owner| Occupant {
            place: Place::Tcx(Some(1)),
            program: Some(8),
            name: "uplink_ingress".to_owned(),
            owner,
        };
        let reasons = |mode, owner| {
            let mut attachments = attachments();
            attachments[0].mode = mode;
            attachments[0].other = Some(other(owner));
            let evidence = evidence(&report, &attachments);
            let reasons: Vec<String> = evidence.judge().iter().map(ToString::to_string).collect();
            reasons
        };
        assert_eq!(
            reasons(None, Owner::Stranger),
            [
                "uplink_ingress is not attached to eth0: `uplink_ingress` (program 8) is in its place"
            ]
        );
        assert_eq!(
            reasons(Some(Mode::Tcx), Owner::OtherInstance),
            [
                "another office-bridge's `uplink_ingress` (program 8) takes the packets of eth0 before uplink_ingress"
            ]
        );
        assert!(reasons(Some(Mode::Tcx), Owner::Stranger).is_empty());
    }

    #[test]
    fn a_process_that_says_why_the_lease_is_over_does_not_hang() {
        let attachments = attachments();
        for subject in [Subject::KernelNetwork, Subject::Reconciliation] {
            let mut report = report();
            report.open_problems = vec![OpenProblem {
                problem: Problem::new(subject, "no port is left for NAT", "narrow the range"),
                since: String::new(),
            }];
            let overdue = Evidence {
                overdue: 7,
                ..evidence(&report, &attachments)
            };
            let reasons = overdue.judge();
            assert!(
                !reasons
                    .iter()
                    .any(|reason| matches!(reason, NotReady::Hanging { .. })),
                "{reasons:?}"
            );
        }
    }

    #[test]
    fn a_new_process_is_not_ready_until_its_own_configuration_is_in_force() {
        let attachments = attachments();
        let mut report = report();
        let successor = Evidence {
            pid: Some(8),
            ..evidence(&report, &attachments)
        };
        assert_eq!(successor.judge(), [NotReady::Starting { pid: 8 }]);
        let cluster = report.cluster_state.as_mut().unwrap();
        cluster.synced = false;
        cluster.last_error = Some("connection refused".to_owned());
        let waiting = Evidence {
            pid: Some(8),
            ..evidence(&report, &attachments)
        };
        assert_eq!(
            waiting.judge(),
            [NotReady::NoClusterState {
                why: "connection refused".to_owned()
            }]
        );
    }

    #[test]
    fn forwarding_goes_on_without_a_process() {
        let attachments = attachments();
        let mut report = report();
        report.dns = Some(DnsState {
            has_healthy_upstream: false,
        });
        let without = Evidence {
            pid: None,
            overdue: 1_000,
            ..evidence(&report, &attachments)
        };
        assert_eq!(without.judge(), []);
    }

    fn attachment(interface: &str, program: Program, mode: Option<Mode>) -> Attachment {
        let point = AttachPoint {
            ifindex: 2,
            interface: interface.to_owned(),
            program,
        };
        Attachment {
            side: point.side("eth0"),
            point,
            mode,
            other: None,
        }
    }

    fn attachments() -> [Attachment; 3] {
        [
            attachment("eth0", Program::UplinkIngress, Some(Mode::Tcx)),
            attachment("cni0", Program::ClusterEgress, Some(Mode::Tcx)),
            attachment("eth0", Program::XdpFast, Some(Mode::Native)),
        ]
    }

    fn report() -> Report {
        Report {
            cluster_state: Some(ClusterState {
                source: "kube".to_owned(),
                synced: true,
                connected: true,
                last_contact: 0,
                last_error: None,
            }),
            ..Report::example(7)
        }
    }

    fn evidence<'a>(report: &'a Report, attachments: &'a [Attachment]) -> Evidence<'a> {
        Evidence {
            report: Some(report),
            pid: Some(7),
            attachments,
            has_office: true,
            overdue: 0,
        }
    }
}
