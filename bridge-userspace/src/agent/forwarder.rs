//! What the bridge has in the kernel, and bringing it to the wanted state.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::bail;
use bridge_common::abi::Settings;
use tokio::sync::watch;
use tracing::{info, warn};

use super::inputs::Facts;
use crate::checks::{check_nat_ports, few_nat_ports};
use crate::cluster::DesiredState;
use crate::config::{Config, Datapath as Layer};
use crate::conntrack::in_use::InUse;
use crate::conntrack::policy::Policy;
use crate::datapath::{
    Attachments, Datapath, Mode, Rival, XdpIncompatibilities, XdpInterfaces, XdpRefusal,
};
use crate::kernel::clock;
use crate::kernel::netlink::{Neighbour, NetworkState};
use crate::maps::{Pins, Tables};
use crate::model::program::{AttachPoint, Program};
use crate::model::{Problem, Subject};
use crate::observe::problems::Notice;
use crate::observe::report::{Overtaken, Report};
use crate::plan::attach_points::{attach_points, has_unfinished_checksums, xdp_incompatibilities};
use crate::plan::map_state::{MapState, seconds};
use crate::plan::retained::{Retained, SETTLE};
use crate::reconcile::{Changes, Reconciler};

/// What came of applying.
#[derive(Debug)]
pub struct Applied {
    /// What there is to say about the state that was reached.
    pub notices: Vec<Notice>,
    /// The same about what XDP was wanted for and can't do.
    pub xdp_notices: Vec<Notice>,
    /// Whether the tables hold all that is wanted.
    pub is_reconciled: bool,
    /// Why not all is in force, if so.
    pub outcome: anyhow::Result<()>,
}

/// Brings the kernel to the state that follows from facts.
pub trait Forward: Send {
    /// Applies what follows from `facts`, as far as possible.
    fn apply(&mut self, facts: &Facts) -> impl Future<Output = Applied> + Send;

    /// How TC programs are attached.
    fn tc_mode(&self) -> Mode;

    /// What is attached where.
    fn attach_points(&self) -> Vec<AttachPoint>;

    /// The ids of the TC programs that are ours.
    fn programs(&self) -> BTreeSet<u32>;

    /// What is attached and gets no packets.
    fn overtaken(&self) -> Vec<Overtaken>;
}

/// The programs and tables in the kernel.
pub struct Forwarder {
    config: Arc<Config>,
    datapath: Datapath,
    attachments: Attachments,
    reconciler: Reconciler,
    policy: watch::Sender<Policy>,
    /// What flows need to be ours.
    in_use: watch::Receiver<Arc<InUse>>,
    kept_nat: Retained<Ipv4Addr>,
    kept_local: Retained<()>,
    /// Whether packets to backends on the node itself are served, by this process or the one before.
    serves_itself: bool,
    /// Neighbours that XDP sends to.
    neighbours: watch::Sender<BTreeSet<Neighbour>>,
}

impl Forwarder {
    /// Opens the tables that `datapath` has pinned. Nothing is attached yet. `before` is what an earlier process has reported.
    ///
    /// # Errors
    /// When a table can't be opened or read.
    pub async fn open(
        config: Arc<Config>,
        datapath: Datapath,
        pins: &Pins,
        in_use: watch::Receiver<Arc<InUse>>,
        before: Option<&Report>,
    ) -> anyhow::Result<Self> {
        let reported = before.map(|before| before.programs.clone());
        let served_itself = before.is_some_and(|before| {
            let mut points = before.attach_points.iter();
            points.any(|point| point.program == Program::UplinkEgress)
        });
        let reconciler = Reconciler::open(&Tables::open(pins)?)?;
        Ok(Self {
            attachments: Attachments::new(config.tc_attach, pins, reported.unwrap_or_default())
                .await,
            config,
            datapath,
            reconciler,
            policy: watch::Sender::default(),
            in_use,
            kept_nat: Retained::default(),
            kept_local: Retained::default(),
            serves_itself: served_itself,
            neighbours: watch::Sender::default(),
        })
    }

    /// Which flows may live, as it was applied last.
    #[must_use]
    pub fn policy(&self) -> watch::Receiver<Policy> {
        self.policy.subscribe()
    }

    /// The neighbours that XDP sends to.
    #[must_use]
    pub fn neighbours(&self) -> watch::Receiver<BTreeSet<Neighbour>> {
        self.neighbours.subscribe()
    }

    /// What is attached.
    #[must_use]
    pub fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// Asks with `--datapath xdp` for XDP on the uplink before anything else is changed: without it there is no start,
    /// and an earlier `run` that forwards is not disturbed.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn require_xdp(&mut self, facts: &Facts) -> anyhow::Result<()> {
        if self.config.datapath != Layer::Xdp {
            return Ok(());
        }
        let incompatibilities = xdp_incompatibilities(&self.config, &facts.cluster, &facts.network);
        let wanted = attach_points(&self.config, &facts.cluster, &facts.network, false);
        let is_uplinks = |point: &&AttachPoint| {
            point.program == Program::XdpFast && point.interface == self.config.uplink
        };
        let Some(point) = wanted.values().find(is_uplinks) else {
            return Ok(());
        };
        self.attachments
            .ensure_xdp(&mut self.datapath, point, &incompatibilities)
            .await;
        match self.attachments.xdp_refusals().get(&point.ifindex) {
            Some(refusal) => bail!("--datapath xdp: {refusal}"),
            None => Ok(()),
        }
    }

    /// Tells why XDP is not had at the uplink with `--datapath auto`.
    pub fn announce_layer(&self, network: &NetworkState) {
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

    async fn try_apply(&mut self, facts: &Facts, applied: &mut Applied) -> anyhow::Result<()> {
        let Facts {
            cluster, network, ..
        } = facts;
        self.call_uplink(&facts.uplink);
        let incompatibilities = xdp_incompatibilities(&self.config, cluster, network);
        let ports = self.attachments.xdp_interfaces(&incompatibilities);
        let mut map_state = self.wanted(facts, &ports);
        let kept = self.kept_nat_addresses(&map_state, network);
        map_state.keep_nat_addresses(kept.iter().copied());
        self.probe(&map_state, &mut applied.notices);
        let settings = &map_state.settings;
        let is_shared = settings.has_shared_nat_address();
        check_nat_ports(settings.nat_port_count, is_shared)?;
        let few = few_nat_ports(settings.nat_port_count, is_shared);
        applied.notices.extend(few.map(Notice::from));
        let reconciled = self.reconciler.apply(&map_state, facts.read_at);
        applied.is_reconciled = reconciled.is_ok();
        log_changes(reconciled.as_ref().copied().unwrap_or_default());
        self.policy
            .send_replace(self.policy_of(&map_state, cluster));
        let serves_itself = map_state.settings.has(Settings::HAS_LOCAL_BACKENDS);
        let serves_itself = self.serves_itself(serves_itself);
        let wanted = attach_points(&self.config, cluster, network, serves_itself);
        if !wanted
            .values()
            .any(|point| point.program == Program::UplinkIngress)
        {
            applied.notices.push(self.uplink_is_gone());
        }
        let attached = self
            .attachments
            .reconcile(&mut self.datapath, &wanted, &incompatibilities)
            .await;
        let rivals = self.attachments.rivals().map(Rival::problem);
        applied.notices.extend(rivals.map(Notice::from));
        applied.xdp_notices = self.xdp_notices(&incompatibilities, network);
        reconciled?;
        let now = self.attachments.xdp_interfaces(&incompatibilities);
        if now != ports {
            let mut map_state = self.wanted(facts, &now);
            map_state.keep_nat_addresses(kept);
            self.reconciler.apply(&map_state, facts.read_at)?;
        }
        Ok(attached?)
    }

    fn call_uplink(&mut self, name: &str) {
        if self.config.uplink != name {
            warn!(before = %self.config.uplink, now = name, "the uplink has another name");
            let mut config = Config::clone(&self.config);
            name.clone_into(&mut config.uplink);
            self.config = Arc::new(config);
        }
    }

    fn wanted(&self, facts: &Facts, ports: &XdpInterfaces) -> MapState {
        let Facts {
            cluster,
            network,
            reserved,
            ..
        } = facts;
        MapState::new(&self.config, cluster, network, reserved, ports)
    }

    /// Whether services have backends on this node itself (`is_wanted`), or flows have, or may: for a moment after the last
    /// such backend nobody has looked.
    fn serves_itself(&mut self, is_wanted: bool) -> bool {
        let is_in_use = self.in_use.borrow().has_local;
        let before = self.serves_itself.then_some(());
        let kept =
            self.kept_local
                .keep(before, |()| is_wanted, |()| is_in_use, SETTLE, clock::now());
        self.serves_itself = is_wanted || is_in_use || !kept.is_empty();
        self.serves_itself
    }

    /// NAT addresses that are no longer chosen, are still the node's, and have flows: what answers these must find back.
    fn kept_nat_addresses(
        &mut self,
        map_state: &MapState,
        network: &NetworkState,
    ) -> Vec<Ipv4Addr> {
        let wanted: HashSet<Ipv4Addr> = map_state.nat_addresses().collect();
        let before: Vec<Ipv4Addr> = self.reconciler.nat_addresses().collect();
        let before = before
            .into_iter()
            .filter(|address| network.is_local(*address));
        let in_use = Arc::clone(&self.in_use.borrow());
        self.kept_nat.keep(
            before,
            |address| wanted.contains(address),
            |address| in_use.nat_addresses.contains(address),
            SETTLE,
            clock::now(),
        )
    }

    fn policy_of(&self, map_state: &MapState, cluster: &Arc<DesiredState>) -> Policy {
        Policy {
            timeouts: map_state.settings.timeouts,
            backend_grace: seconds(self.config.timeouts.backend_grace),
            office: self.config.office_cidrs.clone(),
            nat_addresses: map_state.nat_addresses().collect::<HashSet<_>>(),
            reachable: map_state.reachable().collect(),
            cluster: cluster.authoritative.then(|| Arc::clone(cluster)),
        }
    }

    /// Has neighbours probed that XDP sends to, and tells what it can't send to.
    fn probe(&self, map_state: &MapState, notices: &mut Vec<Notice>) {
        let next_hops = &map_state.next_hops;
        self.neighbours.send_if_modified(|known| {
            let changed = *known != next_hops.neighbours;
            known.clone_from(&next_hops.neighbours);
            changed
        });
        notices.extend(next_hops.problems.iter().map(|what| {
            let remedy = "nothing is lost: the TC path carries these packets, more slowly";
            Notice::from(Problem::new(Subject::Datapath, what, remedy))
        }));
    }

    fn uplink_is_gone(&self) -> Notice {
        let uplink = &self.config.uplink;
        Problem::new(
            Subject::Interface(uplink.clone()),
            format!("the uplink {uplink} is gone; waiting for it"),
            "bring the interface back, or start with another --uplink",
        )
        .into()
    }

    /// What XDP was wanted for and can't do. Refusals are problems where XDP was asked for.
    fn xdp_notices(
        &self,
        incompatibilities: &XdpIncompatibilities,
        network: &NetworkState,
    ) -> Vec<Notice> {
        let is_asked_for = self.config.datapath == Layer::Xdp;
        let notice = |ifindex: &u32, reason: &dyn Display, is_problem| {
            let name = network.links.get(ifindex).map(|link| link.name.clone());
            Notice {
                problem: Problem::new(
                    name.map_or(Subject::Datapath, Subject::Interface),
                    format!("{reason}: packets take the TC path there"),
                    "remove what is in the way of XDP, or choose --datapath tc",
                ),
                is_problem,
            }
        };
        let found = incompatibilities
            .iter()
            .map(|(ifindex, incompatibility)| notice(ifindex, incompatibility, true));
        let refusals = self.attachments.xdp_refusals().iter();
        let refusals = refusals
            .filter(|(_, refusal)| !matches!(refusal, XdpRefusal::Incompatible(_)))
            .map(|(ifindex, refusal)| notice(ifindex, refusal, is_asked_for));
        let limits = self.attachments.xdp_limits(incompatibilities);
        let limits = limits.into_iter().map(|what| Notice {
            problem: Problem::new(
                Subject::Datapath,
                what,
                "choose a driver that sends by XDP, or --datapath tc",
            ),
            is_problem: is_asked_for,
        });
        found.chain(refusals).chain(limits).collect()
    }
}

impl Forward for Forwarder {
    async fn apply(&mut self, facts: &Facts) -> Applied {
        let mut applied = Applied {
            notices: Vec::new(),
            xdp_notices: Vec::new(),
            is_reconciled: false,
            outcome: Ok(()),
        };
        applied.outcome = self.try_apply(facts, &mut applied).await;
        applied
    }

    fn tc_mode(&self) -> Mode {
        self.attachments.tc_mode()
    }

    fn attach_points(&self) -> Vec<AttachPoint> {
        self.attachments.points().values().cloned().collect()
    }

    fn programs(&self) -> BTreeSet<u32> {
        self.attachments.programs().clone()
    }

    fn overtaken(&self) -> Vec<Overtaken> {
        self.attachments
            .rivals()
            .filter(|rival| rival.takes_all)
            .map(|rival| Overtaken {
                point: rival.point.clone(),
                other: rival.other.to_string(),
            })
            .collect()
    }
}

fn log_changes(changes: Changes) {
    if !changes.is_empty() {
        info!(
            written = changes.written,
            removed = changes.removed,
            "tables reconciled"
        );
    }
}
