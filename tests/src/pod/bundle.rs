//! What runc is told: `config.json` of the OCI runtime specification 1.0, as containerd fills it in for kubelet.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use caps::CapSet;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};
use serde_json::{Value, json};

use super::image::Image;
use super::volumes::api_server_environment;
use crate::lab::Lab;

/// A container that is about to run on node-30.
pub struct Bundle<'a> {
    pub lab: &'a Lab,
    pub spec: &'a PodSpec,
    pub container: &'a Container,
    pub image: &'a Image,
    pub mounts: Vec<Value>,
}

impl Bundle<'_> {
    /// Writes it beside the root filesystem.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join("config.json");
        let config = serde_json::to_vec_pretty(&self.config()?)?;
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))
    }

    fn config(&self) -> Result<Value> {
        ensure!(
            self.spec.host_network == Some(true),
            "a pod with a network of its own is not supported"
        );
        let is_privileged = self.is_privileged();
        let mut mounts = base_mounts(is_privileged);
        mounts.extend(self.mounts.iter().cloned());
        let mut linux = json!({
            // With the host's network goes the host's name, hence no namespace of type `uts`.
            "namespaces": [
                {"type": "pid"},
                {"type": "ipc"},
                {"type": "mount"},
                {"type": "network", "path": self.lab.node_30().namespace().path()},
            ],
        });
        if !is_privileged {
            linux["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/sys/firmware"]);
            linux["readonlyPaths"] = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]);
        }
        let capabilities = self.capabilities()?;
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "args": self.arguments()?,
                "env": self.environment()?,
                "noNewPrivileges": self.context().is_some_and(|context| {
                    context.allow_privilege_escalation == Some(false)
                }),
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
            },
            "root": {
                "path": "rootfs",
                "readonly": self.context().and_then(|context| context.read_only_root_filesystem),
            },
            "mounts": mounts,
            "linux": linux,
        }))
    }

    fn context(&self) -> Option<&k8s_openapi::api::core::v1::SecurityContext> {
        self.container.security_context.as_ref()
    }

    fn is_privileged(&self) -> bool {
        self.context()
            .is_some_and(|context| context.privileged == Some(true))
    }

    /// A privileged container has all that this machine has to give; another one what it asks for.
    fn capabilities(&self) -> Result<Vec<String>> {
        if self.is_privileged() {
            let all = caps::read(None, CapSet::Bounding).context("read the capabilities")?;
            return Ok(all.iter().map(ToString::to_string).collect());
        }
        let asked = self
            .context()
            .and_then(|context| context.capabilities.clone());
        let asked = asked.unwrap_or_default();
        ensure!(
            asked.drop.iter().flatten().any(|name| name == "ALL"),
            "the default capabilities of a container runtime are not known here: drop ALL"
        );
        Ok(asked
            .add
            .iter()
            .flatten()
            .map(|name| format!("CAP_{name}"))
            .collect())
    }

    fn arguments(&self) -> Result<Vec<String>> {
        let program = match &self.container.command {
            Some(command) => command.clone(),
            None => self.image.list("Entrypoint")?,
        };
        let arguments = match (&self.container.command, &self.container.args) {
            (_, Some(arguments)) => arguments.clone(),
            (Some(_), None) => Vec::new(),
            (None, None) => self.image.list("Cmd")?,
        };
        Ok([program, arguments].concat())
    }

    fn environment(&self) -> Result<Vec<String>> {
        let mut environment = self.image.list("Env")?;
        environment.extend(api_server_environment(self.lab)?);
        ensure!(
            self.container.env_from.is_none(),
            "envFrom is not supported"
        );
        for variable in self.container.env.iter().flatten() {
            environment.push(format!("{}={}", variable.name, self.value(variable)?));
        }
        Ok(environment)
    }

    fn value(&self, variable: &EnvVar) -> Result<String> {
        let Some(from) = &variable.value_from else {
            return Ok(variable.value.clone().unwrap_or_default());
        };
        match from
            .field_ref
            .as_ref()
            .map(|field| field.field_path.as_str())
        {
            Some("spec.nodeName") => Ok(self.lab.node_30().name().to_owned()),
            other => bail!(
                "the value of {} from {other:?} is not supported",
                variable.name
            ),
        }
    }
}

/// What every container has, as containerd mounts it (`oci.WithDefaultSpec`).
fn base_mounts(is_privileged: bool) -> Vec<Value> {
    let mount = |kind: &str, at: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": at, "options": options});
    let access = if is_privileged { "rw" } else { "ro" };
    vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
    ]
}
