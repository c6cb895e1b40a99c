//! What `run` knows and the tables don't hold, left for the commands that show it: where a CIDR comes from, which
//! interfaces are attached to, whether the cluster is followed. Like the tables it stays when the process ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cluster::Connection;
use crate::datapath::Mode;
use crate::maps::run_file;
use crate::model::program::AttachPoint;

/// The state is a file beside the lock of the same pin path.
const EXTENSION: &str = "json";

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
    pub fn new(source: String, connection: &Connection) -> Self {
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

/// What `run` last applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Process id of the `run` that wrote this.
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
    /// Networks and their sources.
    pub cidrs: Vec<CidrState>,
    /// What was left out of the cluster's state, and why.
    pub problems: Vec<String>,
    /// Where names are relayed.
    pub dns_listen: Vec<String>,
}

impl State {
    /// The networks on the cluster's side.
    pub fn cluster_cidrs(&self) -> impl Iterator<Item = &CidrState> {
        self.cidrs.iter().filter(|cidr| cidr.kind != "office")
    }

    /// Reads the state of the bridge with this pin path; `None` where there is none.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn read(pin_path: &Path) -> io::Result<Option<Self>> {
        match fs::read(run_file(pin_path, EXTENSION)) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it, in one step for readers.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, pin_path: &Path) -> io::Result<()> {
        let path = run_file(pin_path, EXTENSION);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut unfinished: PathBuf = path.clone();
        unfinished.set_extension("new");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        fs::rename(unfinished, path)
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the file is there and can't be removed.
    pub fn remove(pin_path: &Path) -> io::Result<()> {
        match fs::remove_file(run_file(pin_path, EXTENSION)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
