//! `office-bridge run`: checks everything first, then loads, fills, attaches, and follows.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bridge_common::layout::Seconds;
use ipnet::Ipv4Net;
use nix::sys::signal::{SigSet, Signal as SignalNumber};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::agent::listeners::{Listeners, Served};
use crate::agent::supervisor::{DownTasks, Supervisor};
use crate::checks::{check_machine, check_network, check_xdp, forwarding};
use crate::cluster::{self, CidrKind, Connection, DesiredState, Feed, Rules, Update, static_state};
use crate::config::{Config, Datapath as Layer, Environment, RunArgs};
use crate::conntrack::gc::{Policy, Sweeper};
use crate::datapath::{
    Attachments, Datapath, Mode, XdpObstacles, XdpPorts, XdpRefusal, detach_filters, has_filter,
};
use crate::kernel::netlink::{Mirror, MirrorView, Neighbour, NetworkState, Prober};
use crate::kernel::reserved_ports;
use crate::maps::InstanceLock;
use crate::maps::Pins;
use crate::maps::Tables;
use crate::model::ports::PortSet;
use crate::model::program::{AttachPoint, Program};
use crate::observe::datapath_events::{DatapathLog, Events};
use crate::observe::event_log::Journal;
use crate::observe::http::{self, SyncLag};
use crate::observe::state_file::{CidrState, ClusterState, State};
use crate::plan::attach_points::{attach_points, has_unfinished_checksums, xdp_obstacles};
use crate::plan::map_state::{Contents, interest};
use crate::plan::next_hops::NextHops;
use crate::plan::pod_routes::Ways;
use crate::reconcile::Reconciler;

/// How often expired flows are removed; the datapath counts them as absent before.
const SWEEP: Duration = Duration::from_secs(10);
/// How often the node's own ports are looked at: a socket that listens from now on must not be a NAT port.
const PORTS: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT; links and tables stay.
///
/// # Errors
/// When the configuration is wrong (nothing was touched then) or the kernel refuses (what was new is removed).
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let (config, remarks) = Config::load(args, Environment::of_this_process())?;
    for remark in remarks {
        warn!("{remark}");
    }
    check_machine(&config.pin_path)?;
    let _lock = InstanceLock::acquire(&config.pin_path)?;
    // Whoever started us may have held these back for itself, which a child inherits.
    SigSet::from_iter([SignalNumber::SIGINT, SignalNumber::SIGTERM])
        .thread_unblock()
        .context("can't take signals")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?
        .block_on(Bridge::run(config))
}

struct Bridge {
    config: Config,
    feed: Feed,
    /// The last state of the cluster that does not contradict the configuration.
    accepted: Arc<DesiredState>,
    /// When the first change that is not in the tables yet came in.
    pending: Option<Instant>,
    lag: SyncLag,
    journal: Journal,
    network: watch::Receiver<Arc<NetworkState>>,
    /// When the kernel was last read.
    read_at: watch::Receiver<Seconds>,
    supervisor: Supervisor,
    down: watch::Receiver<DownTasks>,
    interest: watch::Sender<Vec<Ipv4Net>>,
    ways: Ways,
    reserved: PortSet,
    datapath: Datapath,
    attachments: Attachments,
    reconciler: Reconciler,
    policy: watch::Sender<Policy>,
    /// Where XDP is wanted and of no use, and why.
    xdp_remarks: Vec<XdpRemark>,
    /// Neighbours that XDP sends to.
    neighbours: watch::Sender<BTreeSet<Neighbour>>,
    /// What XDP leaves to the TC path for reasons that can be helped.
    xdp_problems: Vec<String>,
    /// Why not all that is wanted is in the tables.
    trouble: Option<String>,
    /// What `status` shows, as written last.
    written: Option<State>,
}

/// The kernel's routes to the networks that matter, and where to say which do.
struct Network {
    mirror: Mirror,
    view: MirrorView,
    interest: watch::Sender<Vec<Ipv4Net>>,
}

impl Network {
    /// Follows the kernel, and checks configuration and cluster against it.
    async fn check(config: &Config, desired: &DesiredState) -> anyhow::Result<Self> {
        desired.check_against_office(&config.office_cidrs)?;
        let (sender, receiver) = watch::channel(interest(config, desired));
        let (mirror, mut view) = Mirror::open(receiver).await?;
        let pod_cidrs: Vec<Ipv4Net> = desired.cidrs_of(CidrKind::Pod).collect();
        check_network(config, &pod_cidrs, &view.state.borrow_and_update().clone())?;
        Ok(Self {
            mirror,
            view,
            interest: sender,
        })
    }
}

/// A state of the cluster as far as it does not contradict the configuration: an object in the cluster must not keep
/// the rest from being followed.
fn followable(desired: Arc<DesiredState>, config: &Config) -> Arc<DesiredState> {
    let office = &config.office_cidrs;
    if desired.check_against_office(office).is_ok() {
        return desired;
    }
    Arc::new(desired.without_conflicts(office, &config.cluster_cidrs))
}

impl Bridge {
    async fn run(config: Config) -> anyhow::Result<()> {
        let rules = Rules {
            explicit: config.cluster_cidrs.clone(),
            internal_traffic_policy: config.internal_traffic_policy.clone(),
        };
        let (source, mut feed) = cluster::open(&config.cluster, rules.clone()).await?;
        let mut supervisor = Supervisor::default();
        supervisor.restart("the follower of the cluster", move || {
            let source = Arc::clone(&source);
            async move { source.follow().await }
        });
        let first = take(&mut feed);
        // An API server may be away: what can be checked without it is.
        let known = first.as_ref().map_or_else(
            || Arc::new(static_state(&rules)),
            |(state, _)| state.clone(),
        );
        let mut network = Network::check(&config, &known).await?;
        let listeners = Listeners::bind(&config)?;
        if let Some(remark) = forwarding(config.datapath, config.manage_sysctls)? {
            warn!("{remark}");
        }
        let pins = Pins::new(&config.pin_path);
        check_xdp(&config, &pins, &network.view.state.borrow().clone()).await?;
        for other in pins.other_layouts() {
            warn!(
                "tables of another version are pinned below {}/{other}",
                config.pin_path.display()
            );
        }
        // From here on a start is finished before it is stopped: half of one would translate one way only.
        let mut signals = Signals::hold()?;
        let mut served = listeners.serve(&pins, feed.connection.clone(), &mut supervisor)?;
        let desired = if let Some((desired, _)) = first {
            desired
        } else {
            served.answer_dns(&mut supervisor);
            let Some(first) = wait_for_cluster(&mut feed, &config, &mut signals).await else {
                return served.stop(&mut supervisor).await;
            };
            let first = followable(first, &config);
            network = Network::check(&config, &first).await?;
            first
        };
        let is_new = !pins.exist() && pins.other_layouts().is_empty();
        let before = State::read(pins.root()).ok().flatten();
        let events = before.as_ref().map(|before| before.events.clone());
        let journal = Journal::new(events.unwrap_or_default());
        let start = Start {
            config,
            feed,
            desired,
            network,
            lag: served.sync_lag().clone(),
            journal,
            before: before.as_ref(),
            supervisor,
        };
        let started = Self::start(start, &pins).await;
        let (bridge, log) = match started {
            Ok(started) => started,
            Err(error) => {
                if is_new {
                    // Nothing of a start that failed stays behind; the first error is the one to tell.
                    let left = State::read(pins.root()).ok().flatten();
                    let _ = pins.remove_all();
                    if let Some(left) = left.filter(|left| left.mode == Mode::Clsact) {
                        detach_filters(&left.attach_points).await;
                    }
                    let _ = State::remove(pins.root());
                }
                return Err(error);
            }
        };
        if let Some(before) = before
            && before.mode == Mode::Clsact
        {
            // Unlike links, filters that are no longer wanted leave no trace but this.
            let attachments = &bridge.attachments;
            let unwanted = before.attach_points.iter().filter(|point| {
                attachments.tc_mode() == Mode::Tcx || !has_filter(attachments.points(), point)
            });
            detach_filters(unwanted).await;
        }
        bridge.follow(served, log, signals).await
    }

    /// Loads, fills and attaches. Call it inside of the runtime.
    async fn start(start: Start<'_>, pins: &Pins) -> anyhow::Result<(Self, Events)> {
        let mut datapath = Datapath::load(pins, start.config.flow_capacity)?;
        let events = Events::open(&mut datapath)?;
        let tables = Tables::open(pins)?;
        let reconciler = Reconciler::open(&tables)?;
        let (policy, _) = watch::channel(Policy::default());
        let (neighbours, in_use) = watch::channel(BTreeSet::new());
        let mut supervisor = start.supervisor;
        let prober = Arc::new(Prober::new(in_use));
        supervisor.restart("the prober of neighbours", move || {
            let prober = Arc::clone(&prober);
            async move { ended(prober.run().await) }
        });
        let mirror = Arc::new(start.network.mirror);
        supervisor.restart("the follower of the kernel's network", move || {
            let mirror = Arc::clone(&mirror);
            async move { ended(mirror.follow().await) }
        });
        if let Some(log) = DatapathLog::open(&mut datapath) {
            let log = Arc::new(log);
            supervisor.restart("the datapath's log", move || {
                let log = Arc::clone(&log);
                async move { log.forward().await }
            });
        }
        announce(None, &start.desired);
        let mut bridge = Self {
            attachments: Attachments::new(start.config.tc_attach, pins).await,
            config: start.config,
            feed: start.feed,
            accepted: start.desired,
            // The first one waits for programs to be loaded, which says nothing about later ones.
            pending: None,
            lag: start.lag,
            journal: start.journal,
            network: start.network.view.state,
            read_at: start.network.view.read_at,
            down: supervisor.down(),
            supervisor,
            interest: start.network.interest,
            ways: Ways::default(),
            reserved: reserved_ports()?,
            datapath,
            reconciler,
            policy,
            xdp_remarks: Vec::new(),
            neighbours,
            xdp_problems: Vec::new(),
            trouble: None,
            written: None,
        };
        if let Some(before) = start.before {
            let cidrs = cluster_cidrs(&bridge.accepted);
            let known: Vec<CidrState> = before.cluster_cidrs().cloned().collect();
            bridge.journal.note_cidrs(&known, &cidrs);
        }
        bridge.demand_xdp().await?;
        bridge.apply().await?;
        bridge.announce_layer();
        Ok((bridge, events))
    }

    /// The kernel's network as it is now.
    fn network(&mut self) -> Arc<NetworkState> {
        let network = self.network.borrow_and_update().clone();
        let pods = self.accepted.cidrs_of(CidrKind::Pod).collect();
        self.ways.settle(&pods, network)
    }

    /// Asks with `--datapath xdp` for XDP on the uplink before anything else is changed: without it there is no start,
    /// and an earlier `run` that forwards is not disturbed.
    async fn demand_xdp(&mut self) -> anyhow::Result<()> {
        if self.config.datapath != Layer::Xdp {
            return Ok(());
        }
        let network = self.network();
        let obstacles = xdp_obstacles(&self.config, &self.accepted, &network);
        let wanted = attach_points(&self.config, &self.accepted, &network);
        let is_uplinks = |point: &&AttachPoint| {
            point.program == Program::XdpFast && point.interface == self.config.uplink
        };
        let Some(point) = wanted.values().find(is_uplinks) else {
            return Ok(());
        };
        self.attachments
            .ensure_xdp(&mut self.datapath, point, &obstacles)
            .await;
        match self.attachments.xdp_refusals().get(&point.ifindex) {
            Some(refusal) => bail!("--datapath xdp: {refusal}"),
            None => Ok(()),
        }
    }

    /// Brings tables and attachments to the state of cluster and kernel, as far as possible.
    async fn apply(&mut self) -> anyhow::Result<()> {
        let outcome = self.try_apply().await;
        self.trouble = outcome
            .as_ref()
            .err()
            .map(|error| format!("not all is in force: {error:#}"));
        let written = self.write_state();
        outcome.and(written)
    }

    async fn try_apply(&mut self) -> anyhow::Result<()> {
        let desired = Arc::clone(&self.accepted);
        let network = self.network();
        let obstacles = xdp_obstacles(&self.config, &desired, &network);
        let ports = self.attachments.xdp_ports(&obstacles);
        let contents = self.contents(&desired, &network, &ports);
        self.note_next_hops(&contents.next_hops);
        if contents.settings.nat_port_count == 0 {
            bail!(
                "no port is left for NAT: net.ipv4.ip_local_port_range, net.ipv4.ip_local_reserved_ports and \
                 listening sockets cover all from 1024 on; narrow the range, for example to `32768 60999`"
            );
        }
        let read_at = *self.read_at.borrow();
        let reconciled = self.reconciler.apply(&contents, read_at);
        let changes = reconciled.as_ref().copied().unwrap_or_default();
        if reconciled.is_ok()
            && let Some(received) = self.pending.take()
        {
            self.lag.record(received.elapsed());
        }
        if !changes.is_empty() {
            info!(
                written = changes.written,
                removed = changes.removed,
                "tables reconciled"
            );
        }
        self.policy.send_replace(Policy {
            timeouts: contents.settings.timeouts,
            office: self.config.office_cidrs.clone(),
            nat_addresses: contents.nat_addresses().collect::<HashSet<_>>(),
            reachable: contents.reachable().collect(),
            cluster: desired.authoritative.then(|| Arc::clone(&desired)),
        });
        let wanted = attach_points(&self.config, &desired, &network);
        if !wanted
            .values()
            .any(|point| point.program == Program::UplinkIngress)
        {
            warn!("the uplink {} is gone; waiting for it", self.config.uplink);
        }
        let attached = self
            .attachments
            .reconcile(&mut self.datapath, &wanted, &obstacles)
            .await;
        self.note_xdp(&obstacles);
        reconciled?;
        let now = self.attachments.xdp_ports(&obstacles);
        if now != ports {
            let contents = self.contents(&desired, &network, &now);
            self.reconciler.apply(&contents, read_at)?;
        }
        Ok(attached?)
    }

    fn contents(
        &self,
        desired: &DesiredState,
        network: &NetworkState,
        ports: &XdpPorts,
    ) -> Contents {
        Contents::new(&self.config, desired, network, &self.reserved, ports)
    }

    /// Tells once what XDP was wanted for and can't do.
    fn note_xdp(&mut self, obstacles: &XdpObstacles) {
        let is_asked_for = self.config.datapath == Layer::Xdp;
        let refusals = self.attachments.xdp_refusals().values();
        let refusals = refusals
            .filter(|refusal| !matches!(refusal, XdpRefusal::Obstacle(_)))
            .map(left_to_tc);
        let limits = self.attachments.xdp_limits(obstacles);
        let now: Vec<XdpRemark> = obstacles
            .values()
            .map(|obstacle| XdpRemark {
                text: left_to_tc(obstacle),
                is_problem: true,
            })
            .chain(refusals.chain(limits).map(|text| XdpRemark {
                text,
                is_problem: is_asked_for,
            }))
            .collect();
        for remark in &now {
            let text = &remark.text;
            if self.xdp_remarks.contains(remark) {
                continue;
            }
            if remark.is_problem {
                warn!("{text}");
            } else {
                info!("{text}");
            }
            if is_asked_for {
                self.journal.note(format!("degraded: {text}"));
            }
        }
        for remark in &self.xdp_remarks {
            if !now.contains(remark) {
                info!("no longer so: {}", remark.text);
            }
        }
        self.xdp_remarks = now;
    }

    /// Why XDP is not had at the uplink with `--datapath auto`.
    fn announce_layer(&self) {
        let network = self.network.borrow();
        if let Some(uplink) = network.link_named(&self.config.uplink)
            && self.config.datapath == Layer::Auto
            && has_unfinished_checksums(uplink)
        {
            info!(
                uplink = %uplink.name,
                "the uplink is a veth: packets from this host's own namespaces have unfinished checksums, which XDP \
                 can't see. They take the TC path; --datapath xdp forces XDP"
            );
        }
    }

    fn write_state(&mut self) -> anyhow::Result<()> {
        let state = self.state();
        if self.written.as_ref() != Some(&state) {
            state
                .write(&self.config.pin_path)
                .context("can't write what status shows")?;
            self.written = Some(state);
        }
        Ok(())
    }

    fn state(&self) -> State {
        let desired = &self.accepted;
        let office = self.config.office_cidrs.iter().map(|cidr| CidrState {
            cidr: cidr.to_string(),
            kind: "office".to_owned(),
            source: "configuration".to_owned(),
        });
        let listen = self.config.dns.iter().flat_map(|dns| &dns.listen);
        State {
            pid: std::process::id(),
            uplink: self.config.uplink.clone(),
            cluster: self.config.cluster.to_string(),
            cluster_state: Some(ClusterState::new(
                self.config.cluster.to_string(),
                &self.feed.connection.borrow(),
            )),
            events: self.journal.events(),
            mode: self.attachments.tc_mode(),
            attach_points: self.attachments.points().values().cloned().collect(),
            cidrs: office.chain(cluster_cidrs(desired)).collect(),
            problems: desired
                .problems
                .iter()
                .chain(
                    self.xdp_remarks
                        .iter()
                        .filter(|remark| remark.is_problem)
                        .map(|remark| &remark.text),
                )
                .chain(&self.xdp_problems)
                .chain(&self.trouble)
                .cloned()
                .chain(self.down.borrow().iter().map(|(name, down)| {
                    format!(
                        "{name} has ended and is about to be started again: {}",
                        down.why
                    )
                }))
                .collect(),
            dns_listen: listen.map(ToString::to_string).collect(),
        }
    }

    /// Has neighbours probed that XDP sends to, and tells what it can't do.
    fn note_next_hops(&mut self, next_hops: &NextHops) {
        self.neighbours.send_if_modified(|known| {
            let changed = *known != next_hops.neighbours;
            known.clone_from(&next_hops.neighbours);
            changed
        });
        for problem in &next_hops.problems {
            if !self.xdp_problems.contains(problem) {
                warn!("{problem}");
            }
        }
        self.xdp_problems.clone_from(&next_hops.problems);
    }

    /// Takes a new state of the cluster; says whether it can be applied.
    fn accept(&mut self) -> bool {
        let Some((desired, received)) = take(&mut self.feed) else {
            return false;
        };
        let desired = followable(desired, &self.config);
        announce(Some(&self.accepted), &desired);
        let cidrs = cluster_cidrs(&desired);
        self.journal
            .note_cidrs(&cluster_cidrs(&self.accepted), &cidrs);
        self.interest.send_if_modified(|known| {
            let interest = interest(&self.config, &desired);
            let changed = *known != interest;
            *known = interest;
            changed
        });
        self.accepted = desired;
        self.pending = Some(self.pending.map_or(received, |first| first.min(received)));
        true
    }

    /// Notes whether the cluster is followed.
    fn note_connection(&mut self, before: &Connection, now: &Connection) {
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
        self.journal.note(message);
    }

    async fn follow(
        mut self,
        mut served: Served,
        events: Events,
        mut signals: Signals,
    ) -> anyhow::Result<()> {
        let sweeping = Arc::new(Sweeping {
            sweeper: Arc::new(Sweeper::new(Tables::open(self.datapath.pins())?)?),
            policy: self.policy.subscribe(),
            events: Mutex::new(events),
            sweeps: served.sweeps().clone(),
        });
        self.supervisor.restart("the sweeper of flows", move || {
            let sweeping = Arc::clone(&sweeping);
            async move { sweeping.run().await }
        });
        served.answer_dns(&mut self.supervisor);
        served.set_started();
        let mut ports = interval(PORTS);
        ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = self.feed.connection.borrow_and_update().clone();
        info!(uplink = %self.config.uplink, cluster = %self.config.cluster, "office-bridge is forwarding");
        loop {
            let outcome = tokio::select! {
                () = signals.next() => break,
                failure = self.supervisor.failure() => return Err(failure),
                Ok(()) = self.down.changed() => {
                    self.down.mark_unchanged();
                    self.write_state()
                }
                Ok(()) = self.feed.desired.changed() => {
                    if !self.accept() {
                        continue;
                    }
                    self.apply().await
                }
                Ok(()) = self.feed.connection.changed() => {
                    let now = self.feed.connection.borrow_and_update().clone();
                    self.note_connection(&connection, &now);
                    connection = now;
                    self.write_state()
                }
                Ok(()) = self.network.changed() => self.apply().await,
                _ = ports.tick() => match reserved_ports() {
                    Ok(reserved) => {
                        self.reserved = reserved;
                        self.apply().await
                    }
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = outcome {
                // What was applied before stays in force, and the next change or tick tries again.
                warn!("{error:#}");
            }
        }
        info!("stopping; forwarding goes on (`office-bridge uninstall` ends it)");
        served.stop(&mut self.supervisor).await
    }
}

/// What XDP was wanted for and can't do.
#[derive(PartialEq)]
struct XdpRemark {
    text: String,
    /// Whether the operator should do something about it.
    is_problem: bool,
}

fn left_to_tc(reason: impl std::fmt::Display) -> String {
    format!("{reason}: packets take the TC path there")
}

/// What ends `run`.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn hold() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("can't wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("can't wait for SIGINT")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What a start begins with.
struct Start<'a> {
    config: Config,
    feed: Feed,
    desired: Arc<DesiredState>,
    network: Network,
    lag: SyncLag,
    journal: Journal,
    /// What an earlier process has left.
    before: Option<&'a State>,
    supervisor: Supervisor,
}

/// What a task has ended with that ends with an error only.
fn ended<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> anyhow::Error {
    match result {
        Ok(_) => anyhow!("it was told to end"),
        Err(error) => error.into(),
    }
}

fn take(feed: &mut Feed) -> Option<(Arc<DesiredState>, Instant)> {
    feed.desired.borrow_and_update().as_ref().map(Update::take)
}

/// Waits for the first state of the cluster, and says meanwhile why there is none; `None` when told to stop.
/// What an earlier process has left in the kernel goes on unchanged.
async fn wait_for_cluster(
    feed: &mut Feed,
    config: &Config,
    signals: &mut Signals,
) -> Option<Arc<DesiredState>> {
    info!("waiting for the state of the cluster; what is in the kernel already goes on as it is");
    loop {
        if let Err(error) = show_waiting(config, &feed.connection.borrow_and_update()) {
            warn!("{error:#}");
        }
        tokio::select! {
            () = signals.next() => return None,
            Ok(()) = feed.desired.changed() => {
                if let Some((desired, _)) = take(feed) {
                    return Some(desired);
                }
            }
            Ok(()) = feed.connection.changed() => {}
        }
    }
}

/// Has `status` tell how the cluster is followed, and for the rest what an earlier process has left.
fn show_waiting(config: &Config, connection: &Connection) -> anyhow::Result<()> {
    let source = config.cluster.to_string();
    let Some(mut state) = State::read(&config.pin_path).ok().flatten() else {
        return Ok(());
    };
    let mut now = ClusterState::new(source, connection);
    if let Some(before) = &state.cluster_state {
        now.last_contact = now.last_contact.min(before.last_contact);
    }
    state.cluster_state = Some(now);
    state
        .write(&config.pin_path)
        .context("can't write what status shows")
}

fn cluster_cidrs(desired: &DesiredState) -> Vec<CidrState> {
    desired
        .cidrs
        .iter()
        .map(|cidr| CidrState {
            cidr: cidr.cidr.to_string(),
            kind: cidr.kind.to_string(),
            source: cidr.source.clone(),
        })
        .collect()
}

fn announce(before: Option<&DesiredState>, desired: &DesiredState) {
    for problem in &desired.problems {
        if before.is_none_or(|before| !before.problems.contains(problem)) {
            warn!("{problem}");
        }
    }
    debug!(
        services = desired.services.len(),
        networks = desired.cidrs.len(),
        "the cluster has changed"
    );
}

/// Sweeping in turns, and at once when the datapath says that a table is full, or when a backend is gone.
struct Sweeping {
    sweeper: Arc<Sweeper>,
    policy: watch::Receiver<Policy>,
    events: Mutex<Events>,
    sweeps: http::Sweeps,
}

impl Sweeping {
    async fn run(&self) -> anyhow::Error {
        let mut policy = self.policy.clone();
        let mut events = self.events.lock().await;
        let mut turns = interval(SWEEP);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept_by = Policy::default();
        loop {
            tokio::select! {
                _ = turns.tick() => {}
                full = events.table_full() => if let Err(error) = full {
                    return anyhow::Error::new(error).context("the event ring can't be watched");
                },
                changed = policy.changed() => {
                    if changed.is_err() {
                        return anyhow!("nobody says any more which flows may live");
                    }
                    if !policy.borrow_and_update().loses_backends(&swept_by) {
                        continue;
                    }
                }
            }
            let policy = policy.borrow().clone();
            swept_by = policy.clone();
            let sweeper = Arc::clone(&self.sweeper);
            // A full table takes a moment to read.
            let begun = Instant::now();
            match tokio::task::spawn_blocking(move || sweeper.sweep(&policy)).await {
                Ok(Ok(plan)) => {
                    self.sweeps.record(&plan, begun.elapsed());
                    if plan.evicted > 0 {
                        warn!(
                            evicted = plan.evicted,
                            "the flow tables are nearly full: flows were removed before their time; \
                             consider a larger --flow-capacity"
                        );
                    }
                }
                Ok(Err(error)) => warn!("sweep: {error}"),
                Err(panic) => return anyhow::Error::new(panic).context("sweeping"),
            }
        }
    }
}
