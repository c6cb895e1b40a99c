//! `office-bridge run`: checks everything first, then loads, fills, attaches, and follows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use nix::sys::signal::{SigSet, Signal as SignalNumber};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::cluster::{self, CidrKind, DesiredState};
use crate::config::{Config, RunArgs};
use crate::contents::{Contents, attach_points, interest};
use crate::datapath::{Attachments, Datapath, Mode, Pins, Program, detach_filters, has_filter};
use crate::events;
use crate::http;
use crate::listeners::{Listeners, Served};
use crate::netlink::{self, NetworkState};
use crate::preflight::{InstanceLock, check_machine, check_network, forwarding, reserved_ports};
use crate::reconcile::Reconciler;
use crate::state::{CidrState, State};
use crate::sweep::{Policy, Sweeper};
use crate::tables::Tables;

/// How often expired flows are removed; the datapath counts them as absent before.
const SWEEP: Duration = Duration::from_secs(10);
/// How often the node's own ports are looked at: a socket that listens from now on must not be a NAT port.
const PORTS: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT; links and tables stay.
///
/// # Errors
/// When the configuration is wrong (nothing was touched then) or the kernel refuses (what was new is removed).
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let (config, remarks) = Config::load(args)?;
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
    desired: watch::Receiver<Arc<DesiredState>>,
    /// The last state of the cluster that does not contradict the configuration.
    accepted: Arc<DesiredState>,
    network: watch::Receiver<Arc<NetworkState>>,
    interest: watch::Sender<Vec<Ipv4Net>>,
    datapath: Datapath,
    attachments: Attachments,
    reconciler: Reconciler,
    policy: watch::Sender<Policy>,
}

impl Bridge {
    async fn run(config: Config) -> anyhow::Result<()> {
        let mut desired = cluster::watch(&config.cluster, config.cluster_cidrs.clone())?;
        let state = desired.borrow_and_update().clone();
        state.check_against_office(&config.office_cidrs)?;
        let (interest_sender, interest_receiver) = watch::channel(interest(&config, &state));
        let mut network = netlink::watch(interest_receiver).await?;
        let pod_cidrs: Vec<Ipv4Net> = state.cidrs_of(CidrKind::Pod).collect();
        check_network(&config, &pod_cidrs, &network.borrow_and_update().clone())?;
        let listeners = Listeners::bind(&config)?;
        if let Some(remark) = forwarding(config.datapath, config.manage_sysctls)? {
            warn!("{remark}");
        }
        let pins = Pins::new(&config.pin_path);
        for other in pins.other_layouts() {
            warn!(
                "tables of another version are pinned below {}/{other}",
                config.pin_path.display()
            );
        }
        // From here on a start is finished before it is stopped: half of one would translate one way only.
        let signals = Signals::hold()?;
        let is_new = !pins.exist();
        let before = State::read(pins.root()).ok().flatten();
        let served = listeners.serve(&pins)?;
        let started = Self::start(config, desired, network, interest_sender, &pins);
        let (bridge, log) = match started {
            Ok(started) => started,
            Err(error) => {
                if is_new {
                    // Nothing of a start that failed stays behind; the first error is the one to tell.
                    let _ = pins.remove_all();
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
                attachments.mode() == Mode::Tcx || !has_filter(attachments.points(), point)
            });
            detach_filters(unwanted).await;
        }
        bridge.follow(served, log, signals).await
    }

    /// Loads, fills and attaches. Call it inside of the runtime.
    fn start(
        config: Config,
        desired: watch::Receiver<Arc<DesiredState>>,
        network: watch::Receiver<Arc<NetworkState>>,
        interest: watch::Sender<Vec<Ipv4Net>>,
        pins: &Pins,
    ) -> anyhow::Result<(Self, events::Events)> {
        let mut datapath = Datapath::load(pins, config.flow_capacity)?;
        let events = events::Events::open(&mut datapath)?;
        let tables = Tables::open(pins)?;
        let reconciler = Reconciler::open(&tables)?;
        let (policy, _) = watch::channel(Policy::default());
        let accepted = desired.borrow().clone();
        let mut bridge = Self {
            attachments: Attachments::new(config.tc_attach),
            config,
            accepted,
            desired,
            network,
            interest,
            datapath,
            reconciler,
            policy,
        };
        bridge.apply()?;
        Ok((bridge, events))
    }

    /// Brings tables and attachments to the state of cluster and kernel.
    fn apply(&mut self) -> anyhow::Result<()> {
        let desired = Arc::clone(&self.accepted);
        let network = self.network.borrow_and_update().clone();
        let reserved = reserved_ports()?;
        let contents = Contents::new(&self.config, &desired, &network, &reserved);
        if contents.settings.nat_port_count == 0 {
            bail!(
                "no port is left for NAT: net.ipv4.ip_local_port_range, net.ipv4.ip_local_reserved_ports and \
                 listening sockets cover all from 1024 on; narrow the range, for example to `32768 60999`"
            );
        }
        let changes = self.reconciler.apply(&contents)?;
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
        let attached = self.attachments.reconcile(&mut self.datapath, &wanted);
        self.state(&desired)
            .write(&self.config.pin_path)
            .context("can't write what status shows")?;
        Ok(attached?)
    }

    fn state(&self, desired: &DesiredState) -> State {
        let office = self.config.office_cidrs.iter().map(|cidr| CidrState {
            cidr: cidr.to_string(),
            kind: "office".to_owned(),
            source: "configuration".to_owned(),
        });
        let cluster = desired.cidrs.iter().map(|cidr| CidrState {
            cidr: cidr.cidr.to_string(),
            kind: cidr.kind.to_string(),
            source: cidr.source.clone(),
        });
        let listen = self.config.dns.iter().flat_map(|dns| &dns.listen);
        State {
            pid: std::process::id(),
            uplink: self.config.uplink.clone(),
            cluster: self.config.cluster.to_string(),
            mode: self.attachments.mode(),
            attach_points: self.attachments.points().values().cloned().collect(),
            cidrs: office.chain(cluster).collect(),
            problems: desired.problems.clone(),
            dns_listen: listen.map(ToString::to_string).collect(),
        }
    }

    async fn follow(
        mut self,
        served: Served,
        events: events::Events,
        mut signals: Signals,
    ) -> anyhow::Result<()> {
        let sweeper = Sweeper::new(Tables::open(self.datapath.pins())?)?;
        let sweeps = served.sweeps().clone();
        tokio::spawn(sweep(sweeper, self.policy.subscribe(), events, sweeps));
        let served = served.answer_dns();
        let mut ports = interval(PORTS);
        ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        info!(uplink = %self.config.uplink, cluster = %self.config.cluster, "office-bridge is forwarding");
        loop {
            tokio::select! {
                () = signals.next() => break,
                Ok(()) = self.desired.changed() => {
                    let desired = self.desired.borrow_and_update().clone();
                    if let Err(error) = desired.check_against_office(&self.config.office_cidrs) {
                        warn!("the cluster's new state is not applied: {error}");
                        continue;
                    }
                    announce(&desired);
                    self.interest.send_replace(interest(&self.config, &desired));
                    self.accepted = desired;
                }
                Ok(()) = self.network.changed() => {}
                _ = ports.tick() => {}
            }
            if let Err(error) = self.apply() {
                // What was applied before stays in force, and the next change or tick tries again.
                warn!("{error:#}");
            }
        }
        info!("stopping; forwarding goes on (`office-bridge uninstall` ends it)");
        served.stop().await
    }
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

fn announce(desired: &DesiredState) {
    for problem in &desired.problems {
        warn!("{problem}");
    }
    info!(
        services = desired.services.len(),
        networks = desired.cidrs.len(),
        "the cluster has changed"
    );
}

/// Sweeps in turns, and at once when the datapath says that a table is full, or when a backend is gone.
async fn sweep(
    sweeper: Sweeper,
    mut policy: watch::Receiver<Policy>,
    mut events: events::Events,
    sweeps: http::Sweeps,
) {
    let sweeper = Arc::new(sweeper);
    let mut turns = interval(SWEEP);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept_by = Policy::default();
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            () = events.table_full() => {}
            Ok(()) = policy.changed() => {
                if !policy.borrow_and_update().loses_backends(&swept_by) {
                    continue;
                }
            }
        }
        let policy = policy.borrow().clone();
        swept_by = policy.clone();
        let sweeper = Arc::clone(&sweeper);
        // A full table takes a moment to read.
        let begun = Instant::now();
        match tokio::task::spawn_blocking(move || sweeper.sweep(&policy)).await {
            Ok(Ok(plan)) => {
                sweeps.record(&plan, begun.elapsed());
                if plan.evicted > 0 {
                    warn!(
                        evicted = plan.evicted,
                        "the flow tables are nearly full: flows were removed before their time; \
                         consider a larger --flow-capacity"
                    );
                }
            }
            Ok(Err(error)) => warn!("sweep: {error}"),
            Err(error) => warn!("sweep: {error}"),
        }
    }
}
