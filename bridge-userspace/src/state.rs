//! What `run` knows and the tables don't hold, left for the commands that show it: where a CIDR comes from, which
//! interfaces are attached to. Like the tables it stays when the process ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::datapath::{AttachPoint, Mode};
use crate::preflight::state_path;

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

/// What `run` last applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Process id of the `run` that wrote this.
    pub pid: u32,
    /// Where clients come in.
    pub uplink: String,
    /// The cluster source as given.
    pub cluster: String,
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
    /// Reads the state of the bridge with this pin path; `None` where there is none.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn read(pin_path: &Path) -> io::Result<Option<Self>> {
        match fs::read(state_path(pin_path)) {
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
        let path = state_path(pin_path);
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
        match fs::remove_file(state_path(pin_path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
