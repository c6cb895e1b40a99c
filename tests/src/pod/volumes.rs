//! A pod's volumes as files of the node, and where they are mounted in the container.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, PodSpec, Volume};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::machine::containers;
use crate::plan;

/// Where every container finds its service account (admission plugin `ServiceAccount`).
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The root directory of node-30: what a pod mounts of the node lies below it. There is a bpf filesystem, as
/// systemd mounts one.
#[derive(Debug)]
pub struct NodeRoot {
    path: PathBuf,
}

impl NodeRoot {
    /// Makes it.
    pub fn create(lab: &Lab) -> Result<Self> {
        let path = lab.directory().join("node-30");
        let bpffs = path.join("sys/fs/bpf");
        fs::create_dir_all(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount a bpf filesystem on {}", bpffs.display()))?;
        let root = Self { path };
        mount(
            None::<&str>,
            &bpffs,
            None::<&str>,
            MsFlags::MS_SHARED,
            None::<&str>,
        )
        .context("share what is mounted there")?;
        Ok(root)
    }

    /// A path of the node, as this machine sees it.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }
}

impl Drop for NodeRoot {
    fn drop(&mut self) {
        containers::unmount(&self.path);
    }
}

/// Makes the volumes of one pod.
pub struct Volumes<'a> {
    lab: &'a Lab,
    root: &'a NodeRoot,
    namespace: &'a str,
    directory: PathBuf,
}

impl<'a> Volumes<'a> {
    pub fn new(lab: &'a Lab, root: &'a NodeRoot, namespace: &'a str, pod: &Path) -> Self {
        Self {
            lab,
            root,
            namespace,
            directory: pod.join("volumes"),
        }
    }

    /// What is mounted in the container, as runc is told.
    pub fn mounts(&self, spec: &PodSpec, container: &Container) -> Result<Vec<Value>> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            ensure!(
                mount.sub_path.is_none() && mount.sub_path_expr.is_none(),
                "subPath is not supported"
            );
            let volume = spec
                .volumes
                .iter()
                .flatten()
                .find(|volume| volume.name == mount.name)
                .with_context(|| format!("the pod has no volume {}", mount.name))?;
            let propagation = match mount.mount_propagation.as_deref() {
                None | Some("None") => "rprivate",
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                Some(other) => bail!("mountPropagation {other}"),
            };
            let is_read_only = mount.read_only.unwrap_or_default();
            mounts.push(bind(
                &self.source(volume)?,
                &mount.mount_path,
                propagation,
                is_read_only,
            ));
        }
        if spec.automount_service_account_token.unwrap_or(true) {
            let source = self.service_account(spec)?;
            mounts.push(bind(&source, SERVICE_ACCOUNT, "rprivate", true));
        }
        Ok(mounts)
    }

    fn source(&self, volume: &Volume) -> Result<PathBuf> {
        if let Some(path) = &volume.host_path {
            return self.host_path(path);
        }
        if let Some(map) = &volume.config_map {
            ensure!(map.items.is_none(), "a choice of items is not supported");
            return self.config_map(&map.name);
        }
        bail!("a volume of this kind is not supported: {}", volume.name)
    }

    fn host_path(&self, volume: &HostPathVolumeSource) -> Result<PathBuf> {
        let path = self.root.at(&volume.path);
        match volume.type_.as_deref() {
            Some("Directory") => {
                ensure!(path.is_dir(), "the node has no directory {}", volume.path);
            }
            Some("DirectoryOrCreate") => fs::create_dir_all(&path)
                .with_context(|| format!("create {} on the node", volume.path))?,
            other => bail!("hostPath of type {other:?}"),
        }
        Ok(path)
    }

    fn config_map(&self, name: &str) -> Result<PathBuf> {
        let path = format!("/api/v1/namespaces/{}/configmaps/{name}", self.namespace);
        let map = self.lab.api().admin().get(&path)?;
        let data = map["data"]
            .as_object()
            .with_context(|| format!("{path} is empty"))?;
        let files = data
            .iter()
            .map(|(name, text)| Ok((name.as_str(), text.as_str().context("no text")?)));
        self.write(name, &files.collect::<Result<Vec<_>>>()?)
    }

    /// Token, certificate authority and namespace, as the projected volume `kube-api-access` has them.
    fn service_account(&self, spec: &PodSpec) -> Result<PathBuf> {
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        let token = self.lab.api().admin().token(self.namespace, account)?;
        let authority = self.lab.api().certificate_authority()?;
        self.write(
            "kube-api-access",
            &[
                ("token", &token),
                ("ca.crt", &authority),
                ("namespace", self.namespace),
            ],
        )
    }

    fn write(&self, volume: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
        let directory = self.directory.join(volume);
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(directory)
    }
}

/// The environment by which a container finds the API server, as kubelet makes it of the service `kubernetes`.
pub fn api_server_environment(lab: &Lab) -> Result<Vec<String>> {
    let service = lab
        .api()
        .admin()
        .get("/api/v1/namespaces/default/services/kubernetes")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("no clusterIP")?;
    ensure!(
        address == plan::KUBERNETES.to_string(),
        "kubernetes has the VIP {address}"
    );
    let port = &service["spec"]["ports"][0]["port"];
    Ok(vec![
        format!("KUBERNETES_SERVICE_HOST={address}"),
        format!("KUBERNETES_SERVICE_PORT={port}"),
    ])
}

fn bind(source: &Path, destination: &str, propagation: &str, is_read_only: bool) -> Value {
    let access = if is_read_only { "ro" } else { "rw" };
    json!({
        "type": "bind",
        "source": source,
        "destination": destination,
        "options": ["rbind", propagation, access],
    })
}
