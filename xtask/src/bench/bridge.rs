//! office-bridge as the forwarder, started by its command line.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::MapInfo;
use aya::programs::{ProgramFd, ProgramInfo, loaded_programs};
use lab::cluster::Cluster;
use lab::manifests;
use lab::netns::Namespace;
use lab::plan::{OFFICE_CIDR, POD_CIDR, SERVICE_CIDR};
use lab::process::Daemon;
use serde_json::Value;

use super::topology::{End, Topology, UPLINK};

const START_LIMIT: Duration = Duration::from_mins(1);

/// A running bridge. Dropping it ends the process; the topology removes the pins.
pub struct Bridge {
    daemon: Daemon,
    node: Namespace,
    binary: PathBuf,
    pins: PathBuf,
    flow_capacity: u32,
}

impl Bridge {
    /// Starts it with this datapath and waits until it is ready.
    pub fn start(
        binary: &Path,
        topology: &Topology,
        datapath: &str,
        cluster: &Cluster,
        flow_capacity: u32,
    ) -> Result<Self> {
        let pins = topology.pin_path();
        let mut command = topology.node.command(&binary.display().to_string());
        command
            .args(["run", "--uplink", UPLINK.name, "--no-dns"])
            .args(["--office-cidr", OFFICE_CIDR, "--datapath", datapath])
            // A handful of clients send everything.
            .args(["--client-flow-rate", "0", "--client-flows", "0"])
            .args(["--client-nat-ports", "0", "--client-answer-rate", "0"])
            .args(["--flow-capacity", &flow_capacity.to_string(), "--pin-path"])
            .arg(&pins);
        if datapath == "stack" {
            command
                .args(["--cluster", "static", "--pod-cidr", POD_CIDR])
                .args(["--service-cidr", SERVICE_CIDR]);
        } else {
            let directory = topology.directory().join("manifests");
            manifests::write(&directory, cluster, topology.network.overlay())?;
            command
                .arg("--cluster")
                .arg(format!("manifests={}", directory.display()));
        }
        let log = topology.directory().join("office-bridge.log");
        let mut bridge = Self {
            daemon: Daemon::spawn("office-bridge", command, &log)?,
            node: topology.node.clone(),
            binary: binary.to_owned(),
            pins,
            flow_capacity,
        };
        bridge.await_ready(datapath)?;
        Ok(bridge)
    }

    fn await_ready(&mut self, datapath: &str) -> Result<()> {
        let (node, binary, pins) = (&self.node, &self.binary, &self.pins);
        self.daemon.wait_until(START_LIMIT, || {
            status(node, binary, pins).is_ok_and(|status| status["ready"] == Value::Bool(true))
        })?;
        let status = status(node, binary, pins)?;
        let hooks: Vec<&str> = status["datapath"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|interface| interface["hook"].as_str())
            .collect();
        let wanted = if datapath == "xdp" { "xdp" } else { "tc" };
        ensure!(
            hooks.iter().any(|hook| hook.starts_with(wanted)),
            "office-bridge was to attach to {wanted} and has attached to {hooks:?}"
        );
        Ok(())
    }

    /// Forwarded packets in both directions: all of them, and those that were forwarded in XDP.
    pub fn forwarded(&self) -> Result<(u64, u64)> {
        let status = status(&self.node, &self.binary, &self.pins)?;
        let packets = |names: [&str; 2]| {
            let counts = names.map(|name| status["traffic"][name]["packets"].as_u64());
            counts.into_iter().sum::<Option<u64>>()
        };
        packets(["to-backend", "to-client"])
            .zip(packets(["xdp-to-backend", "xdp-to-client"]))
            .context("status does not tell what was forwarded")
    }

    /// Octets of a flow in the tables of both directions: the size of the tables divided by their capacity.
    pub fn flow_memory(&self) -> Result<f64> {
        let mut octets = 0;
        for table in ["flows", "replies"] {
            octets += locked_memory(&self.pin(table)?)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "gigabytes at most")]
        Ok(octets as f64 / f64::from(self.flow_capacity))
    }

    /// The loaded TC program of this name that uses the tables of this bridge.
    pub fn tc_program(&self, name: &str) -> Result<ProgramFd> {
        let flows = MapInfo::from_pin(self.pin("flows")?)?.id();
        for program in loaded_programs() {
            let Ok(program) = program else { continue };
            let is_ours = |maps: Option<Vec<u32>>| maps.is_some_and(|maps| maps.contains(&flows));
            if program.name() == name.as_bytes() && program.map_ids().is_ok_and(is_ours) {
                return Ok(program.fd()?);
            }
        }
        bail!(
            "no program {name} works on the tables below {}",
            self.pins.display()
        )
    }

    /// The XDP program on an interface of the node.
    pub fn xdp_program(&self, end: End) -> Result<ProgramFd> {
        let text = self
            .node
            .output("ip", &["-j", "-d", "link", "show", "dev", end.name])?;
        let links: Value = serde_json::from_str(&text).context("read what ip prints")?;
        let id = links[0]["xdp"]["prog"]["id"]
            .as_u64()
            .with_context(|| format!("{} has no XDP program", end.name))?;
        let has_id = |program: &ProgramInfo| u64::from(program.id()) == id;
        let mut programs = loaded_programs().flatten();
        let found = programs.find(has_id).context("the program is gone")?;
        Ok(found.fd()?)
    }

    fn pin(&self, table: &str) -> Result<PathBuf> {
        let versions =
            fs::read_dir(&self.pins).with_context(|| format!("list {}", self.pins.display()))?;
        versions
            .flatten()
            .map(|version| version.path().join(table))
            .find(|path| path.exists())
            .with_context(|| format!("no table {table} below {}", self.pins.display()))
    }
}

fn status(node: &Namespace, binary: &Path, pins: &Path) -> Result<Value> {
    let pins = pins.display().to_string();
    let arguments = ["status", "-o", "json", "--pin-path", &pins];
    let text = node.output(&binary.display().to_string(), &arguments)?;
    serde_json::from_str(&text).context("read what status prints")
}

/// The memory that the kernel reports for a pinned table, in octets.
fn locked_memory(pin: &Path) -> Result<u64> {
    let table = MapInfo::from_pin(pin)?.fd()?;
    let descriptor = std::os::fd::AsFd::as_fd(&table).as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))
        .context("read /proc/self/fdinfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .and_then(|octets| octets.trim().parse().ok())
        .with_context(|| format!("the kernel tells no size of {}", pin.display()))
}
