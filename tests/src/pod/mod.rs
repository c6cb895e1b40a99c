//! A pod of applied manifests on node-30: the lab does what kubelet and a container runtime would, from the
//! objects that the API server gives, and runc runs the container. Nothing is known here about the program in it.
//!
//! [`volumes`] makes files of the pod's volumes, [`image`] the container's root filesystem, [`bundle`] what runc
//! is told. What a manifest may ask for and is not done here is an error.

mod bundle;
mod image;
mod volumes;

use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Node, PodTemplateSpec, Probe, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::machine::containers;
use crate::machine::netns::finish;
use crate::machine::process::Daemon;
use bundle::Bundle;
use image::Image;
pub use volumes::NodeRoot;

/// A pod with one container. Dropping it ends the container at once.
pub struct Pod<'lab> {
    lab: &'lab Lab,
    id: String,
    container: Container,
    grace: Duration,
    daemon: Daemon,
}

impl<'lab> Pod<'lab> {
    /// Starts the pod of a controller's template in this Kubernetes namespace.
    pub fn start(
        lab: &'lab Lab,
        root: &NodeRoot,
        namespace: &str,
        template: &PodTemplateSpec,
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let spec = template.spec.as_ref().context("a template without spec")?;
        let [container] = &spec.containers[..] else {
            bail!(
                "{} containers, where one is expected",
                spec.containers.len()
            );
        };
        // Unique on this machine, as a control group is named after it.
        let prefix = lab
            .directory()
            .file_name()
            .context("a lab without a name")?;
        let id = format!(
            "{}-{}-{}",
            prefix.display(),
            container.name,
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = lab.directory().join("pods").join(&id);
        let volumes = volumes::Volumes::new(lab, root, namespace, &directory);
        let mounts = volumes.mounts(spec, container)?;
        let image = Image::unpack(&directory)?;
        let asked = container.image.as_deref().unwrap_or_default();
        ensure!(
            image.reference() == asked,
            "the pod wants the image {asked}, and {} was made",
            image.reference()
        );
        Bundle {
            lab,
            spec,
            container,
            image: &image,
            mounts,
        }
        .write(&directory)?;
        let mut command = containers::runc(lab.directory());
        command.arg("run").arg("--bundle").arg(&directory).arg(&id);
        let daemon = Daemon::spawn(&container.name, command, &directory.join("log"))?;
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        Ok(Self {
            lab,
            id,
            container: container.clone(),
            grace: Duration::from_secs(grace.try_into().context("a grace period below 0")?),
            daemon,
        })
    }

    /// Waits as long as the startup probe allows, then until the readiness probe succeeds.
    pub fn await_ready(&mut self) -> Result<()> {
        for probe in [
            self.container.startup_probe.clone(),
            self.container.readiness_probe.clone(),
        ] {
            let probe = probe.context("a probe is missing")?;
            let seconds = |value: Option<i32>, default| {
                Duration::from_secs(
                    value.map_or(default, |value| value.max(0).unsigned_abs().into()),
                )
            };
            let period = seconds(probe.period_seconds, 10);
            let limit = period * seconds(probe.failure_threshold, 3).as_secs().try_into()?;
            let deadline = Instant::now() + limit.max(Duration::from_secs(30));
            loop {
                match self.answer(&probe) {
                    Ok(()) => break,
                    Err(error) if Instant::now() > deadline => {
                        return Err(error).with_context(|| self.daemon.log_end());
                    }
                    Err(_) => {}
                }
                if let Some(status) = self.daemon.exited()? {
                    bail!("it ended ({status}):\n{}", self.daemon.log_end());
                }
                sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Does what kubelet does for the liveness probe.
    pub fn is_alive(&self) -> Result<()> {
        let probe = self.container.liveness_probe.as_ref();
        self.answer(probe.context("no liveness probe")?)
    }

    /// Does what kubelet does for the readiness probe.
    pub fn is_ready(&self) -> Result<()> {
        let probe = self.container.readiness_probe.as_ref();
        self.answer(probe.context("no readiness probe")?)
    }

    fn answer(&self, probe: &Probe) -> Result<()> {
        let get = probe.http_get.as_ref().context("a probe without httpGet")?;
        let host = get.host.as_deref().context("a probe without host")?;
        let port = match &get.port {
            IntOrString::Int(port) => *port,
            IntOrString::String(name) => {
                self.container
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_ref() == Some(name))
                    .with_context(|| format!("the container has no port {name}"))?
                    .container_port
            }
        };
        let to = format!("{host}:{port}").parse::<std::net::SocketAddrV4>()?;
        let path = get.path.as_deref().unwrap_or("/");
        let response = self.lab.node_30().http_get(to, path)?;
        // Kubelet: any code from 200 on and below 400 is success.
        ensure!(
            (200..400).contains(&response.status),
            "{path} answers {}: {}",
            response.status,
            response.body
        );
        Ok(())
    }

    /// `kubectl exec`: runs a command in the container to its end, and gives what it printed.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let mut runc = containers::runc(self.lab.directory());
        runc.arg("exec").arg(&self.id).args(command);
        finish(runc, None).with_context(|| format!("exec {}", command.join(" ")))
    }

    /// `kubectl logs`.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Deletes the pod: SIGTERM, and an error if it takes longer than its grace period.
    pub fn delete(&mut self) -> Result<ExitStatus> {
        self.daemon.signal(Signal::SIGTERM)?;
        self.daemon.wait(self.grace)
    }

    /// Waits until the container ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.daemon.wait(limit)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of {} ends:\n{}", self.id, self.daemon.log_end());
        }
        containers::delete(self.lab.directory(), &self.id);
    }
}

/// Whether a `DaemonSet` or `Job` would put a pod of this template on this node: its labels are selected and its taints
/// tolerated.
pub fn schedule(template: &PodTemplateSpec, node: &Node) -> Result<()> {
    let spec = template.spec.as_ref().context("a template without spec")?;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in spec.node_selector.iter().flatten() {
        ensure!(
            labels.get(key) == Some(value),
            "the node has no label {key}={value}: {labels:?}"
        );
    }
    let taints = node
        .spec
        .iter()
        .filter_map(|spec| spec.taints.as_ref())
        .flatten();
    for taint in taints {
        // The API server marks each new node as not ready; no controller is here to see that it is.
        if taint.key.starts_with("node.kubernetes.io/") {
            continue;
        }
        ensure!(
            spec.tolerations
                .iter()
                .flatten()
                .any(|toleration| tolerates(toleration, taint)),
            "nothing tolerates the taint {}={}:{}",
            taint.key,
            taint.value.as_deref().unwrap_or_default(),
            taint.effect
        );
    }
    Ok(())
}

/// `Toleration.ToleratesTaint` of k8s.io/component-helpers.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let matches = |wanted: &Option<String>, value: &str| {
        wanted
            .as_deref()
            .is_none_or(|wanted| wanted.is_empty() || wanted == value)
    };
    matches(&toleration.effect, &taint.effect)
        && matches(&toleration.key, &taint.key)
        && (toleration.operator.as_deref() == Some("Exists")
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}
