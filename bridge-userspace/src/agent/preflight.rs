//! All checks of a start, and what has to be opened for them. Nothing in the kernel is changed before they have passed.

use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tracing::warn;

use super::inputs::take;
use super::listeners::Listeners;
use crate::checks::{
    Forwarding, HookFacts, MachineFacts, XdpFacts, check_forwarding, check_hooks, check_instance,
    check_machine, check_nat_ports, check_network, check_office, check_xdp,
};
use crate::cluster::{self, DesiredState, Feed, Rules, Source, static_state};
use crate::config::Config;
use crate::kernel::netlink::{Mirror, MirrorView};
use crate::kernel::reserved_ports;
use crate::kernel::sysctl::IP_FORWARD;
use crate::maps::{InstanceLock, Pins};
use crate::model::{Findings, Subject};
use crate::observe::state_file::StateFile;
use crate::plan::attach_points::attach_points;
use crate::plan::map_state::{
    exclusive_addresses, free_nat_ports, has_local_backends, watched_prefixes,
};

/// What a start has in hand when nothing keeps it from going on.
pub(super) struct Preflight {
    /// The right to work on the pin path.
    pub(super) lock: InstanceLock,
    pub(super) source: Arc<dyn Source>,
    pub(super) feed: Feed,
    /// The first state of the cluster, if it is known already.
    pub(super) first: Option<Arc<DesiredState>>,
    pub(super) network: Network,
    pub(super) listeners: Listeners,
}

impl Preflight {
    /// Checks all that can be checked, logs the warnings, and switches forwarding on if that is asked for.
    ///
    /// # Errors
    /// All errors that were found.
    pub(super) async fn run(config: &Config) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        let lock = lock(config, &mut findings);
        let rules = Rules {
            explicit: config.cluster_cidrs.clone(),
            internal_traffic_policy: config.internal_traffic_policy.clone(),
        };
        let mut opened = findings.keep(cluster::open(&config.cluster, rules.clone()).await);
        let first = opened
            .as_mut()
            .and_then(|(_, feed)| take(feed))
            .map(|(state, _)| state);
        // An API server may be away: what can be checked without it is.
        let known = first
            .clone()
            .unwrap_or_else(|| Arc::new(static_state(&rules)));
        let network = findings.keep(Network::check(config, &known).await);
        let listeners = bind(config, &mut findings);
        let is_forwarding = IP_FORWARD.is_on().map_err(|error| error.to_string());
        let forwarding = check_forwarding(
            &is_forwarding,
            config.datapath,
            config.manage_sysctls,
            &mut findings,
        );
        match reserved_ports() {
            Ok(reserved) => {
                let free = free_nat_ports(&reserved.ports);
                let is_shared = network.as_ref().is_none_or(|network| {
                    let network = network.view.state.borrow();
                    let mut exclusive = exclusive_addresses(config, &network, &reserved);
                    config.snat_addresses.is_empty() || !exclusive.all(|exclusive| exclusive)
                });
                findings.keep(check_nat_ports(free, is_shared));
            }
            Err(error) => findings.push(error),
        }
        let (Some(lock), Some((source, feed)), Some(network), Some(listeners), false) =
            (lock, opened, network, listeners, findings.has_errors())
        else {
            return Err(findings);
        };
        for warning in findings {
            warn!("{warning}");
        }
        if forwarding == Forwarding::SwitchOn {
            IP_FORWARD.write("1")?;
        }
        Ok(Self {
            lock,
            source,
            feed,
            first,
            network,
            listeners,
        })
    }
}

/// Takes the right to work on the pin path, if the machine is fit for it and nobody else has it.
fn lock(config: &Config, findings: &mut Findings) -> Option<InstanceLock> {
    let pin_path = &config.pin_path;
    check_machine(&MachineFacts::read(pin_path), findings);
    check_instance(pin_path, InstanceLock::holder(pin_path), findings);
    if findings.has_errors() {
        // There will be no start.
        return None;
    }
    findings.keep(InstanceLock::acquire(pin_path))
}

/// Binds all addresses; those of a bridge that is at work are taken by it, which is no finding of its own.
fn bind(config: &Config, findings: &mut Findings) -> Option<Listeners> {
    if findings.concern(&Subject::Instance) {
        return None;
    }
    match Listeners::bind(config) {
        Ok(listeners) => Some(listeners),
        Err(mut errors) => {
            // What the check of the network has found about an address, binding it finds too.
            errors.retain(|error| !findings.concern(&error.subject));
            findings.extend(errors);
            None
        }
    }
}

/// The kernel's routes to the networks that matter, and where to say which do.
pub(super) struct Network {
    pub(super) mirror: Mirror,
    pub(super) view: MirrorView,
    pub(super) watched: watch::Sender<Vec<Ipv4Net>>,
}

impl Network {
    /// Reads the kernel's network, and checks configuration and cluster against it.
    ///
    /// # Errors
    /// All errors that were found.
    pub(super) async fn check(config: &Config, cluster: &DesiredState) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        check_office(config, cluster, &mut findings);
        let (watched, receiver) = watch::channel(watched_prefixes(config, cluster, []));
        let opened = Mirror::open(receiver).await;
        let Some((mirror, mut view)) = findings.keep(opened) else {
            return Err(findings);
        };
        let state = view.state.borrow_and_update().clone();
        check_network(config, cluster, &state, &mut findings);
        let xdp = XdpFacts::read(config, &state).await;
        check_xdp(config, &state, xdp, &mut findings);
        let pins = Pins::new(&config.pin_path);
        let reported = StateFile::new(&config.pin_path).read().ok().flatten();
        let reported = reported.map(|report| report.programs).unwrap_or_default();
        let wanted = attach_points(config, cluster, &state, has_local_backends(cluster, &state));
        check_hooks(
            HookFacts::read(&pins, &reported, &wanted, &state).await,
            &mut findings,
        );
        findings.into_warnings()?;
        Ok(Self {
            mirror,
            view,
            watched,
        })
    }
}
