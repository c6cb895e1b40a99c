//! What `run` knows and the tables don't hold: where a CIDR comes from, which interfaces are attached to, whether the
//! cluster is followed, what is wrong.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cluster::SourceStatus;
use crate::datapath::Mode;
use crate::dns;
use crate::model::Problem;
use crate::model::program::AttachPoint;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by RFC 3339, in UTC.
    pub time: String,
    /// What.
    pub message: String,
}

/// A CIDR and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrState {
    /// The network.
    pub cidr: String,
    /// `office`, `pod` or `service`.
    pub kind: String,
    /// Where it was found.
    pub source: String,
}

/// How well the cluster was followed when this was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// `kube`, `manifests=DIR` or `static`.
    pub source: String,
    /// Whether everything was read once.
    pub synced: bool,
    /// Whether changes came in.
    pub connected: bool,
    /// When the source was last known to be up to date, in seconds since the epoch.
    pub last_contact: u64,
    /// Why changes didn't come in, or the last time didn't.
    pub last_error: Option<String>,
}

impl ClusterState {
    /// What there is to tell of a connection at this moment.
    #[must_use]
    pub fn new(source: String, connection: &SourceStatus) -> Self {
        let last_contact = if connection.connected {
            SystemTime::now()
        } else {
            connection.last_contact
        };
        Self {
            source,
            synced: connection.synced,
            connected: connection.connected,
            last_contact: last_contact
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            last_error: connection.last_error.clone(),
        }
    }

    /// How long changes may have gone unnoticed, in seconds.
    #[must_use]
    pub fn stale_seconds(&self) -> u64 {
        if self.connected {
            return 0;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        now.as_secs().saturating_sub(self.last_contact)
    }
}

/// How the DNS relay stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsState {
    /// Whether some upstream answers and does not forward to this relay. Over UDP, which most queries take and which
    /// is probed from the start.
    pub has_healthy_upstream: bool,
}

impl DnsState {
    /// The state at this moment.
    #[must_use]
    pub fn new(relay: &dns::Snapshot) -> Self {
        Self {
            has_healthy_upstream: relay
                .upstreams
                .iter()
                .any(|upstream| upstream.healthy.udp && !upstream.looping),
        }
    }
}

/// A problem, and since when it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenProblem {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem,
    /// When it was first seen, by RFC 3339, in UTC.
    pub since: String,
}

/// A program of ours that gets no packets, as somebody before it takes all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overtaken {
    /// The program and where it is attached.
    pub point: AttachPoint,
    /// Who is before it.
    pub other: String,
}

/// What `run` reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Process id of the `run` whose configuration is in force.
    pub pid: u32,
    /// Where clients come in.
    pub uplink: String,
    /// The cluster source as given.
    pub cluster: String,
    /// How well the cluster is followed; unknown if an older version wrote this.
    #[serde(default)]
    pub cluster_state: Option<ClusterState>,
    /// What happened lately, the newest last.
    #[serde(default)]
    pub events: Vec<Event>,
    /// How programs are attached.
    pub mode: Mode,
    /// What is attached where, in that order.
    #[serde(rename = "interfaces")]
    pub attach_points: Vec<AttachPoint>,
    /// The ids of the TC programs that are this bridge's: others of the same name are another's.
    #[serde(default)]
    pub programs: BTreeSet<u32>,
    /// Strangers that take all packets before our programs see them.
    #[serde(default)]
    pub overtaken: Vec<Overtaken>,
    /// Networks and their sources.
    pub cidrs: Vec<CidrState>,
    /// What is not as it should be.
    #[serde(default)]
    pub open_problems: Vec<OpenProblem>,
    /// How the DNS relay stands, if there is one and it answers.
    #[serde(default)]
    pub dns: Option<DnsState>,
    /// Where names are relayed.
    pub dns_listen: Vec<String>,
}

impl Report {
    /// The networks on the cluster's side.
    pub fn cluster_cidrs(&self) -> impl Iterator<Item = &CidrState> {
        self.cidrs.iter().filter(|cidr| cidr.kind != "office")
    }

    /// What a process reports that has nothing to report.
    pub(crate) fn example(pid: u32) -> Self {
        Self::empty(pid, "eth0".to_owned(), "static".to_owned())
    }

    /// The report of a process that has put nothing in force so far.
    #[must_use]
    pub fn empty(pid: u32, uplink: String, cluster: String) -> Self {
        Self {
            pid,
            uplink,
            cluster,
            cluster_state: None,
            events: Vec::new(),
            mode: Mode::Tcx,
            attach_points: Vec::new(),
            programs: BTreeSet::new(),
            overtaken: Vec::new(),
            cidrs: Vec::new(),
            open_problems: Vec::new(),
            dns: None,
            dns_listen: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::dns::{ByTransport, Config, Relay, UpstreamSnapshot};

    #[test]
    fn an_upstream_that_is_down_or_loops_is_no_healthy_one() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let config = Config::new(
            vec![address("127.0.0.1:0")],
            vec![address("127.0.0.1:1")],
            vec![],
        );
        let mut relay = Relay::bind(&config).unwrap().handle().snapshot();
        let upstream = |udp, looping| UpstreamSnapshot {
            address: address("10.96.0.10:53"),
            healthy: ByTransport { udp, tcp: true },
            looping,
            queries: 9,
            failures: 4,
            latency_microseconds: 1_500,
        };
        for (upstreams, is_healthy) in [
            (vec![upstream(true, false), upstream(true, true)], true),
            (vec![upstream(true, true)], false),
            (vec![upstream(false, false)], false),
            (vec![], false),
        ] {
            relay.upstreams = upstreams;
            assert_eq!(DnsState::new(&relay).has_healthy_upstream, is_healthy);
        }
    }
}
