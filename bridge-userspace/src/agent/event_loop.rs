//! The event loop of `run`: what changes is applied, and what came of it is reported.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bridge_common::abi::Seconds;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::forwarder::{Applied, Forward};
use super::gc_task::GcTask;
use super::inputs::{Change, Facts, Inputs};
use super::listeners::Served;
use super::supervisor::{DownTasks, Supervisor};
use crate::cluster::{DesiredState, SourceStatus};
use crate::config::{Config, Datapath};
use crate::kernel::clock;
use crate::model::{Problem, Subject};
use crate::observe::event_log::{self, EventLog};
use crate::observe::problems::{Notice, Problems};
use crate::observe::report::{CidrState, ClusterState, DnsState, Report};
use crate::observe::reporter::Reporter;
use crate::reconcile::LEASE;

/// How often it is looked whether upstreams of the DNS relay have changed their state.
const DNS_PERIOD: Duration = Duration::from_secs(1);

/// What is told of the bridge's state.
pub struct Reports {
    config: Arc<Config>,
    reporter: Reporter,
    events: EventLog,
    problems: Problems,
    /// What the last application had to say.
    applied: Vec<Notice>,
    dns: Option<DnsState>,
}

impl Reports {
    /// Reports that go on with the events of an earlier process.
    #[must_use]
    pub fn new(config: Arc<Config>, reporter: Reporter, events: EventLog) -> Self {
        Self {
            config,
            reporter,
            events,
            problems: Problems::default(),
            applied: Vec::new(),
            dns: None,
        }
    }

    /// Notes what happened to the networks of the cluster.
    pub fn note_networks(&mut self, before: &[CidrState], after: &[CidrState]) {
        self.events.note_cidrs(before, after);
    }

    /// Takes what came of applying; gives the error, if there was one.
    fn take(&mut self, applied: Applied) -> anyhow::Result<()> {
        self.applied = applied.notices;
        self.applied
            .extend(applied.outcome.as_ref().err().map(|error| {
                Notice::from(Problem::new(
                    Subject::Reconciliation,
                    format!("not all is in force: {error:#}"),
                    "mend the cause; it is tried again with every change, and every ten seconds",
                ))
            }));
        if self.config.datapath == Datapath::Xdp {
            let known = self.problems.open();
            for notice in &applied.xdp_notices {
                if !known.iter().any(|open| open.problem == notice.problem) {
                    let degraded = format!("degraded: {}", notice.problem);
                    self.events.note(degraded);
                }
            }
        }
        self.applied.extend(applied.xdp_notices);
        applied.outcome
    }

    /// Notes whether the cluster is followed.
    fn note_connection(&mut self, before: &SourceStatus, now: &SourceStatus) {
        let message = match (before.connected, now.connected) {
            (true, false) => format!(
                "changes of the cluster don't come in: {}",
                now.last_error.as_deref().unwrap_or("no reason known")
            ),
            (false, true) => format!(
                "changes of the cluster come in again after {} s",
                before.stale().as_secs()
            ),
            _ => return,
        };
        self.events.note(message);
    }

    /// Reports the state as it is now.
    fn publish(
        &mut self,
        forward: &impl Forward,
        inputs: &Inputs,
        read_at: Seconds,
        down: &DownTasks,
    ) -> anyhow::Result<()> {
        let notices = self
            .applied
            .iter()
            .cloned()
            .chain(inputs.cluster().problems.iter().cloned().map(Notice::from))
            .chain(inputs.uplink().problem().map(Notice::from))
            .chain(stale(read_at, clock::now()))
            .chain(down.iter().map(|(name, down)| of_task(name, &down.why)));
        self.problems.update(notices, event_log::now);
        let config = &self.config;
        let office = config.office_cidrs.iter().map(|cidr| CidrState {
            cidr: cidr.to_string(),
            kind: "office".to_owned(),
            source: "configuration".to_owned(),
        });
        let listen = config.dns.iter().flat_map(|dns| &dns.listen);
        let cluster = config.cluster.to_string();
        let report = Report {
            pid: std::process::id(),
            uplink: inputs.uplink().name().to_owned(),
            cluster_state: Some(ClusterState::new(cluster.clone(), inputs.connection())),
            cluster,
            events: self.events.events(),
            mode: forward.tc_mode(),
            attach_points: forward.attach_points(),
            programs: forward.programs(),
            overtaken: forward.overtaken(),
            cidrs: office.chain(cluster_cidrs(inputs.cluster())).collect(),
            open_problems: self.problems.open(),
            dns: self.dns.clone(),
            dns_listen: listen.map(ToString::to_string).collect(),
        };
        self.reporter
            .publish(report)
            .context("can't write what status shows")
    }
}

/// The networks of a state of the cluster, for people.
#[must_use]
pub fn cluster_cidrs(cluster: &DesiredState) -> Vec<CidrState> {
    cluster
        .cidrs
        .iter()
        .map(|cidr| CidrState {
            cidr: cidr.cidr.to_string(),
            kind: cidr.kind.to_string(),
            source: cidr.source.clone(),
        })
        .collect()
}

fn of_task(name: &str, why: &str) -> Notice {
    Problem::new(
        Subject::Task(name.to_owned()),
        format!("{name} has ended: {why}"),
        "it is started again by itself; if it keeps ending, restart office-bridge and report it",
    )
    .into()
}

/// What to say of a mirror that is not like the kernel any more, for all that is known.
fn stale(read_at: Seconds, now: Seconds) -> Option<Notice> {
    (now.saturating_sub(read_at) > LEASE).then(|| {
        Problem::new(
            Subject::KernelNetwork,
            format!(
                "the kernel's network has not been read for more than {LEASE} s: changes are not followed, and packets \
                 take the TC path"
            ),
            "the log says why it can't be read; restart office-bridge if nothing else helps",
        )
        .into()
    })
}

/// Applies changes and reports, until it is told to stop or can't go on.
pub struct EventLoop<F> {
    inputs: Inputs,
    forward: F,
    reports: Reports,
    supervisor: Supervisor,
    down: watch::Receiver<DownTasks>,
    served: Served,
    /// When the first change of the cluster came in that is not in the tables yet.
    pending: Option<Instant>,
}

impl<F: Forward> EventLoop<F> {
    /// Puts the parts together. The first state is to be applied next.
    #[must_use]
    pub fn new(
        inputs: Inputs,
        forward: F,
        reports: Reports,
        supervisor: Supervisor,
        served: Served,
    ) -> Self {
        Self {
            down: supervisor.down(),
            inputs,
            forward,
            reports,
            supervisor,
            served,
            pending: None,
        }
    }

    /// Brings the kernel to the state of cluster and network, as far as possible, and reports.
    ///
    /// # Errors
    /// When not all is in force, or the report can't be written.
    pub async fn apply(&mut self) -> anyhow::Result<()> {
        let facts = self.inputs.facts();
        self.apply_facts(&facts).await
    }

    async fn apply_facts(&mut self, facts: &Facts) -> anyhow::Result<()> {
        let applied = self.forward.apply(facts).await;
        if applied.is_reconciled
            && let Some(received) = self.pending.take()
        {
            self.served.sync_lag().record(received.elapsed());
        }
        let outcome = self.reports.take(applied);
        let published = self.publish();
        outcome.and(published)
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let read_at = self.inputs.read_at();
        let down = self.down.borrow_and_update();
        self.reports
            .publish(&self.forward, &self.inputs, read_at, &down)
    }

    /// What is in the kernel.
    #[must_use]
    pub fn forward(&self) -> &F {
        &self.forward
    }

    /// Removes flows from now on. What was applied until then says which.
    pub(super) fn collect_garbage(&mut self, gc: GcTask) {
        self.supervisor
            .restart("garbage collection of flows", gc, |gc| async move {
                gc.run().await
            });
    }

    /// Starts the DNS relay, if there is one that does not run yet.
    pub fn answer_dns(&mut self) {
        self.served.answer_dns(&mut self.supervisor);
    }

    /// Follows what changes until `stop` completes; forwarding goes on then.
    ///
    /// # Errors
    /// When a task has failed without which there is no going on, or something is not followed any more.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut dns = interval(DNS_PERIOD);
        dns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                () = &mut stop => break,
                failure = self.supervisor.failure() => return Err(failure),
                change = self.inputs.next() => self.take(change?).await,
                // The supervisor, which has the sender, lives as long as this.
                _ = self.down.changed() => self.publish(),
                _ = dns.tick() => self.look_at_dns(),
            };
            if let Err(error) = outcome {
                // What was applied before stays in force, and the next change or tick tries again.
                warn!("{error:#}");
            }
        }
        info!("stopping; forwarding goes on (`office-bridge uninstall` ends it)");
        self.served.stop(&mut self.supervisor).await
    }

    async fn take(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Cluster(before, now, received) => {
                self.reports
                    .note_networks(&cluster_cidrs(&before), &cluster_cidrs(&now));
                self.pending = Some(self.pending.map_or(received, |first| first.min(received)));
                self.apply().await
            }
            Change::SourceStatus(before, now) => {
                self.reports.note_connection(&before, &now);
                self.publish()
            }
            Change::Network | Change::Hooks | Change::Tick(None) => self.apply().await,
            Change::Tick(Some(error)) => {
                self.apply().await?;
                Err(error.into())
            }
        }
    }

    fn look_at_dns(&mut self) -> anyhow::Result<()> {
        let dns = self.served.dns_state();
        if dns == self.reports.dns {
            return Ok(());
        }
        self.reports.dns = dns;
        self.publish()
    }
}

#[cfg(test)]
mod tests;
