//! The start of `run`: everything is checked first, then loaded, filled and attached.

use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::sync::watch;
use tracing::{info, warn};

use super::event_loop::{EventLoop, Reports, cluster_cidrs};
use super::forwarder::Forwarder;
use super::gc_task::GcTask;
use super::inputs::{Inputs, Needs, take, without_conflicts};
use super::listeners::Served;
use super::preflight::{Network, Preflight};
use super::signals::Signals;
use super::supervisor::Supervisor;
use crate::cluster::{CidrKind, ClusterCidr, DesiredState, Feed, SourceStatus};
use crate::config::Config;
use crate::conntrack::gc::GarbageCollector;
use crate::conntrack::in_use::InUse;
use crate::datapath::{Datapath, Mode, detach_filters, has_filter};
use crate::kernel::netlink::Prober;
use crate::kernel::reserved_ports;
use crate::maps::{InstanceLock, Pins, Tables};
use crate::observe::datapath_events::{DatapathLog, Events};
use crate::observe::event_log::EventLog;
use crate::observe::report::{CidrState, ClusterState, Event, Report};
use crate::observe::reporter::Reporter;
use crate::observe::state_file::StateFile;

/// Starts, and runs until SIGTERM or SIGINT. `held` gets the lock, for the caller to keep until the runtime is gone: what
/// blocks in it may still write to the tables.
///
/// # Errors
/// When a check fails, or the kernel refuses (what was new is removed), or there is no going on.
pub(super) async fn run(config: Config, held: &mut Option<InstanceLock>) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let Preflight {
        lock,
        source,
        mut feed,
        first,
        mut network,
        listeners,
    } = Preflight::run(&config).await?;
    *held = Some(lock);
    let mut supervisor = Supervisor::default();
    supervisor.restart("the follower of the cluster", source, |source| async move {
        source.follow().await
    });
    let pins = Pins::new(&config.pin_path);
    for other in pins.other_layouts() {
        warn!(
            "tables of another version are pinned below {}/{other}",
            config.pin_path.display()
        );
    }
    // From here on a start is finished before it is stopped: half of one would translate one way only.
    let mut signals = Signals::hold()?;
    let file = StateFile::new(&config.pin_path);
    let mut reporter = Reporter::new(file.clone());
    let mut served = listeners.serve(&pins, reporter.live(), &mut supervisor)?;
    let before = file.read().ok().flatten();
    let cluster = if let Some(first) = first {
        first
    } else {
        served.answer_dns(&mut supervisor);
        let show = |connection: &SourceStatus| {
            let report = waiting_report(&config, before.as_ref(), connection);
            if before.is_none() {
                reporter.preview(report);
            } else if let Err(error) = reporter.publish(report) {
                warn!("can't write what status shows: {error}");
            }
        };
        let Some(first) =
            first_state(&mut feed, signals.next(), supervisor.failure(), show).await?
        else {
            return served.stop(&mut supervisor).await;
        };
        let first = without_conflicts(first, &config);
        network = Network::check(&config, &first).await?;
        first
    };
    let undo = Undo::of(&pins, &file);
    let parts = Parts {
        cluster,
        feed,
        network,
        served,
        supervisor,
        reporter,
    };
    let started = start(Arc::clone(&config), parts, before.as_ref(), &pins).await;
    let mut event_loop = match started {
        Ok(started) => started,
        Err(error) => {
            undo.undo().await;
            return Err(error);
        }
    };
    event_loop.answer_dns();
    info!(uplink = %config.uplink, cluster = %config.cluster, "office-bridge is forwarding");
    event_loop.run(signals.next()).await
}

/// What a start puts together.
struct Parts {
    cluster: Arc<DesiredState>,
    feed: Feed,
    network: Network,
    served: Served,
    supervisor: Supervisor,
    reporter: Reporter,
}

/// Loads, fills and attaches. Call it inside of the runtime.
async fn start(
    config: Arc<Config>,
    parts: Parts,
    before: Option<&Report>,
    pins: &Pins,
) -> anyhow::Result<EventLoop<Forwarder>> {
    let Parts {
        cluster,
        feed,
        network,
        served,
        mut supervisor,
        reporter,
    } = parts;
    let mut datapath = Datapath::load(pins, config.flow_capacity)?;
    let events = Events::open(&mut datapath)?;
    let log = DatapathLog::open(&mut datapath);
    let (used, needed) = watch::channel(Arc::default());
    let mut forwarder =
        Forwarder::open(Arc::clone(&config), datapath, pins, needed.clone(), before).await?;
    let collector = GarbageCollector::new(Tables::open(pins)?)?;
    let mut reports = Reports::new(
        Arc::clone(&config),
        reporter,
        EventLog::new(events_of(before, &config)),
    );
    let mut inputs = Inputs::new(
        Arc::clone(&config),
        feed,
        cluster,
        network.view,
        network.watched,
        reserved_ports()?,
        Needs {
            before: Arc::new(before.map_or_else(DesiredState::default, networks_of)),
            last: needed,
            look: look(Tables::open(pins)?),
        },
    );
    if let Some(before) = before {
        let known: Vec<_> = before.cluster_cidrs().cloned().collect();
        reports.note_networks(&known, &cluster_cidrs(inputs.cluster()));
    }
    let facts = inputs.facts();
    forwarder.require_xdp(&facts).await?;

    let gc = GcTask::new(
        collector,
        forwarder.policy(),
        used,
        events,
        served.gc_counts().clone(),
    );
    let prober = Prober::new(forwarder.neighbours());
    supervisor.restart("the prober of neighbours", prober, |prober| async move {
        ended(prober.run().await)
    });
    supervisor.restart(
        "the follower of the kernel's network",
        network.mirror,
        |mirror| async move { ended(mirror.follow().await) },
    );
    if let Some(log) = log {
        supervisor.restart("the datapath's log", log, |log| async move {
            log.forward().await
        });
    }
    let mut event_loop = EventLoop::new(inputs, forwarder, reports, supervisor, served);
    event_loop.apply().await?;
    event_loop.forward().announce_layer(&facts.network);
    // Only now it is known which flows may live.
    event_loop.collect_garbage(gc);
    if let Some(before) = before {
        detach_unwanted_filters(pins, before, event_loop.forward()).await;
    }
    Ok(event_loop)
}

/// The networks of the cluster that an earlier process has reported.
fn networks_of(before: &Report) -> DesiredState {
    let network = |state: &CidrState| {
        let kinds = [CidrKind::Pod, CidrKind::Service];
        Some(ClusterCidr {
            kind: kinds
                .into_iter()
                .find(|kind| kind.to_string() == state.kind)?,
            cidr: state.cidr.parse().ok()?,
            source: state.source.clone(),
        })
    };
    DesiredState {
        cidrs: before.cidrs.iter().filter_map(network).collect(),
        ..DesiredState::default()
    }
}

/// Reads what flows need; nothing, where the tables can't be read.
fn look(tables: Tables) -> Box<dyn Fn() -> InUse + Send> {
    Box::new(move || match tables.flows() {
        Ok(flows) => InUse::of(&flows),
        Err(error) => {
            warn!("can't see whether flows use a network that is gone: {error}");
            InUse::default()
        }
    })
}

/// What a task has ended with that should not end.
fn ended<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> anyhow::Error {
    match result {
        Ok(_) => anyhow!("it was told to end"),
        Err(error) => error.into(),
    }
}

/// The events of an earlier process, if it followed the same cluster.
fn events_of(before: Option<&Report>, config: &Config) -> Vec<Event> {
    before
        .filter(|before| before.cluster == config.cluster.to_string())
        .map(|before| before.events.clone())
        .unwrap_or_default()
}

/// Unlike links, filters that are no longer wanted leave no trace but the report.
async fn detach_unwanted_filters(pins: &Pins, before: &Report, forwarder: &Forwarder) {
    if before.mode != Mode::Clsact {
        return;
    }
    let attachments = forwarder.attachments();
    let unwanted = before.attach_points.iter().filter(|point| {
        attachments.tc_mode() == Mode::Tcx || !has_filter(attachments.points(), point)
    });
    detach_filters(pins, &before.programs, unwanted).await;
}

/// Waits for the first state of the cluster, and has it shown meanwhile why there is none; `None` when `stop` completes
/// first. What an earlier process has left in the kernel goes on unchanged.
///
/// # Errors
/// When nobody follows the cluster any more, or with what `failure` completes.
async fn first_state(
    feed: &mut Feed,
    stop: impl Future<Output = ()>,
    failure: impl Future<Output = anyhow::Error>,
    mut show: impl FnMut(&SourceStatus),
) -> anyhow::Result<Option<Arc<DesiredState>>> {
    info!("waiting for the state of the cluster; what is in the kernel already goes on as it is");
    let (mut stop, mut failure) = (pin!(stop), pin!(failure));
    loop {
        show(&feed.connection.borrow_and_update());
        tokio::select! {
            () = &mut stop => return Ok(None),
            failure = &mut failure => return Err(failure),
            changed = feed.desired.changed() => {
                changed.context("nobody follows the cluster any more")?;
                if let Some((cluster, _)) = take(feed) {
                    return Ok(Some(cluster));
                }
            }
            changed = feed.connection.changed() => {
                changed.context("nobody follows the cluster any more")?;
            }
        }
    }
}

/// How the cluster is followed, and for the rest what an earlier process has left.
fn waiting_report(config: &Config, before: Option<&Report>, connection: &SourceStatus) -> Report {
    let source = config.cluster.to_string();
    let mut now = ClusterState::new(source.clone(), connection);
    let Some(before) = before else {
        return Report {
            cluster_state: Some(now),
            // Of no process: nothing is in force.
            ..Report::empty(0, config.uplink.clone(), source)
        };
    };
    if let Some(before) = &before.cluster_state {
        now.last_contact = now.last_contact.min(before.last_contact);
    }
    Report {
        // Not of this process either, which may have the same id in a container of its own.
        pid: 0,
        cluster_state: Some(now),
        ..before.clone()
    }
}

/// How to leave nothing behind of a start that fails, where nothing was there before.
struct Undo {
    pins: Pins,
    file: StateFile,
    is_new: bool,
}

impl Undo {
    fn of(pins: &Pins, file: &StateFile) -> Self {
        Self {
            is_new: !pins.exist() && pins.other_layouts().is_empty(),
            pins: pins.clone(),
            file: file.clone(),
        }
    }

    /// Removes what is new. The error that the start failed with is the one to tell.
    async fn undo(self) {
        if !self.is_new {
            return;
        }
        let left = self.file.read().ok().flatten();
        if let Some(left) = left.filter(|left| left.mode == Mode::Clsact) {
            detach_filters(&self.pins, &left.programs, &left.attach_points).await;
        }
        let _ = self.pins.remove_all();
        let _ = self.file.remove();
    }
}

#[cfg(test)]
mod tests;
