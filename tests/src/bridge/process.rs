//! `office-bridge run` on node-30.

use std::fs;
use std::net::SocketAddrV4;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::client::{Client, binary};
use crate::hosts::dns::DnsPlan;
use crate::lab::Lab;
use crate::machine::process::Daemon;
use crate::plan::{self, ECHO_SERVICE, port};
use crate::variant::Datapath;
use crate::wait::eventually;

/// How long a bridge may take until it is ready: the verifier runs meanwhile, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running bridge. Dropping it stops and uninstalls it.
#[derive(Debug)]
pub struct Bridge {
    daemon: Daemon,
    client: Client,
    uninstall_on_drop: bool,
}

impl Bridge {
    /// `run` with what an administrator of node-30 writes for this lab, and its datapath.
    #[must_use]
    pub fn default_arguments(lab: &Lab) -> Vec<String> {
        let mut arguments = vec![
            "--uplink".to_owned(),
            "eth0".to_owned(),
            "--office-cidr".to_owned(),
            plan::OFFICE_CIDR.to_owned(),
        ];
        if lab.options().api_server {
            let kubeconfig = lab.api().admin_kubeconfig().display().to_string();
            arguments.extend(["--cluster", "kube", "--kubeconfig"].map(str::to_owned));
            arguments.push(kubeconfig);
        } else {
            let source = format!("manifests={}", lab.manifests().display());
            arguments.extend(["--cluster".to_owned(), source]);
        }
        let office_dns = format!("{}/32", plan::ROUTER_LAN);
        if lab.options().dns == DnsPlan::ThroughNode {
            arguments.extend(["--office-cidr".to_owned(), office_dns.clone()]);
        }
        if lab.options().dns == DnsPlan::Relay {
            arguments.extend(["--dns-listen".to_owned(), format!("{}:53", plan::NODE_30)]);
            arguments.extend(["--dns-allow".to_owned(), office_dns]);
            // The node itself reaches VIPs by kube-proxy's rules only.
            let upstreams: Vec<_> = if lab.options().kube_proxy {
                vec![plan::KUBE_DNS]
            } else {
                plan::PODS
                    .iter()
                    .filter(|pod| pod.name.starts_with("dns-"))
                    .map(|pod| pod.address)
                    .collect()
            };
            for upstream in upstreams {
                arguments.extend(["--dns-upstream".to_owned(), format!("{upstream}:53")]);
            }
        } else {
            arguments.push("--no-dns".to_owned());
        }
        if lab.options().datapath != Datapath::Auto {
            let datapath = lab.options().datapath.to_string();
            arguments.extend(["--datapath".to_owned(), datapath]);
        }
        arguments
    }

    /// `run` without DNS, with this datapath, knowing of the cluster no more than its networks.
    #[must_use]
    pub fn static_arguments(datapath: &str) -> Vec<String> {
        let networks = [
            "--pod-cidr",
            plan::POD_CIDR,
            "--service-cidr",
            plan::SERVICE_CIDR,
        ];
        let mut arguments = Self::arguments("static", datapath);
        arguments.extend(networks.map(str::to_owned));
        arguments
    }

    /// `run` without DNS, with this datapath, knowing the lab's whole cluster.
    #[must_use]
    pub fn manifests_arguments(lab: &Lab, datapath: &str) -> Vec<String> {
        Self::arguments(
            &format!("manifests={}", lab.manifests().display()),
            datapath,
        )
    }

    fn arguments(cluster: &str, datapath: &str) -> Vec<String> {
        [
            "--uplink",
            "eth0",
            "--office-cidr",
            plan::OFFICE_CIDR,
            "--no-dns",
            "--cluster",
            cluster,
            "--datapath",
            datapath,
        ]
        .map(str::to_owned)
        .into()
    }

    /// Starts `office-bridge run` with these arguments and waits until it is ready.
    pub fn start(lab: &Lab, arguments: &[String]) -> Result<Self> {
        let mut bridge = Self::spawn(lab, arguments)?;
        bridge.await_ready()?;
        Ok(bridge)
    }

    /// Starts `office-bridge run` with these arguments and does not wait.
    pub fn spawn(lab: &Lab, arguments: &[String]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let client = Client::new(lab);
        let command = Self::command(lab, arguments)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = lab.directory().join(format!("bridge-{count}.log"));
        let daemon = Daemon::spawn("office-bridge", command, &log)?;
        Ok(Self {
            daemon,
            client,
            uninstall_on_drop: true,
        })
    }

    /// The command that [`Bridge::spawn`] runs.
    pub fn command(lab: &Lab, arguments: &[String]) -> Result<Command> {
        Self::command_under(lab, &[], arguments)
    }

    /// The same, started by another program such as `prlimit`, which takes a command line as its last arguments.
    pub fn command_under(lab: &Lab, wrapper: &[&str], arguments: &[String]) -> Result<Command> {
        let binary = binary()?.display().to_string();
        let words = [wrapper, &[binary.as_str()]].concat();
        let mut command = lab.node_30().command(words[0]);
        command
            .args(&words[1..])
            .arg("run")
            .args(arguments)
            .arg("--pin-path")
            .arg(lab.pin_path());
        Ok(command)
    }

    /// Waits until `status` tells that the bridge is ready.
    pub fn await_ready(&mut self) -> Result<()> {
        let client = self.client.clone();
        let id = self.daemon.id();
        // A predecessor's tables may tell of readiness too; they don't name this process.
        self.daemon.wait_until(START_LIMIT, || {
            client.status().is_ok_and(|status| {
                status["ready"] == Value::Bool(true)
                    && status
                        .get("pid")
                        .is_none_or(|pid| pid.as_u64() == Some(id.into()))
            })
        })
    }

    /// Commands that look at this bridge.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `status -o json`.
    pub fn status(&self) -> Result<Value> {
        self.client.status()
    }

    /// `flows list -o json`.
    pub fn flows(&self) -> Result<Vec<Value>> {
        self.client.flows()
    }

    /// The one flow of a client that `is_wanted`, as [`Client::only_flow`] has it.
    #[must_use]
    #[track_caller]
    pub fn only_flow(&self, client: SocketAddrV4, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.client.only_flow(client, is_wanted)
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.daemon.id()
    }

    /// The time that it has had on a CPU.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.daemon.cpu_time()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Asks it to end (SIGTERM) and waits. Tables and programs stay.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.daemon.signal(Signal::SIGTERM)?;
        self.daemon.wait(Duration::from_secs(10))
    }

    /// Kills it (SIGKILL). Tables and programs stay.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.daemon.signal(Signal::SIGKILL)?;
        self.daemon.wait(Duration::from_secs(10))
    }

    /// Waits for its end without asking for it.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.daemon.wait(limit)
    }

    /// Stops it, if it runs, and removes everything that it left.
    pub fn uninstall(&mut self) -> Result<()> {
        if self.daemon.exited()?.is_none() {
            self.stop()?;
        }
        self.client.uninstall()
    }

    /// Leaves tables and programs in the kernel when this value is dropped.
    pub fn leave_installed(&mut self) {
        self.uninstall_on_drop = false;
    }
}

impl Lab {
    /// Starts the bridge on node-30 as [`Bridge::default_arguments`] has it, with `extra` arguments,
    /// and waits until it is ready.
    pub fn start_bridge(&self, extra: &[&str]) -> Result<Bridge> {
        let mut arguments = Bridge::default_arguments(self);
        arguments.extend(extra.iter().map(|&argument| argument.to_owned()));
        Bridge::start(self, &arguments)
    }

    /// Starts a bridge with the shortest `timeouts.backendGrace`.
    pub fn start_impatient_bridge(&self) -> Result<Bridge> {
        let config = self.directory().join("bridge.yaml");
        fs::write(&config, "timeouts: {backendGrace: 1}\n")?;
        self.start_bridge(&["--config", &config.display().to_string()])
    }

    /// Leaves the service `echo` this pod alone, and waits until the bridge knows.
    ///
    /// # Panics
    ///
    /// When it does not get to know.
    #[track_caller]
    pub fn leave_echo_to(&mut self, pod: &str) {
        self.cluster_mut().service_mut("echo").scale_to(&[pod]);
        self.publish().unwrap();
        let address = self.at(pod, port::ECHO).to_string();
        eventually(Duration::from_secs(5), "the service has one pod", || {
            let services = Client::new(self).json(&["services"]).unwrap();
            services.as_array().unwrap().iter().any(|service| {
                service["vip"] == ECHO_SERVICE.to_string()
                    && service["backends"].as_array().unwrap().len() == 1
                    && service["backends"].to_string().contains(&address)
            })
        });
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of office-bridge ends:\n{}", self.daemon.log_end());
        }
        if self.uninstall_on_drop
            && let Err(error) = self.uninstall()
        {
            eprintln!("the bridge was not uninstalled: {error:#}");
        }
    }
}
