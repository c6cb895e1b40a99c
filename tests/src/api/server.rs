//! etcd and kube-apiserver on the host `control-plane`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::client::Client;
use super::envtest::Programs;
use super::pki::Pki;
use super::{resource, seed};
use crate::cluster::objects;
use crate::cluster::{Cluster, Service};
use crate::machine::netns::Namespace;
use crate::machine::process::Daemon;
use crate::plan::{self, SERVICE_CIDR, port};
use crate::variant::Overlay;

/// How long etcd and kube-apiserver may take until they are ready, on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Since this minor version of Kubernetes 1 `discovery.k8s.io/v1` is there.
const FIRST_WITH_DISCOVERY: u32 = 21;

/// Before this minor version of Kubernetes 1 the fields of an `EndpointSlice` that the bridge reads had
/// to be asked for.
const FIRST_WITH_SLICE_FIELDS: u32 = 22;
const SLICE_FIELDS: &str =
    "EndpointSliceNodeName=true,EndpointSliceTerminatingCondition=true,IPv6DualStack=true";

const ETCD: &str = "http://127.0.0.1:2379";

/// A running API server, with its database. Dropping it ends both.
#[derive(Debug)]
pub struct ApiServer {
    // Fields drop in this order: who writes to the database first.
    server: Daemon,
    _etcd: Daemon,
    programs: Programs,
    minor_version: u32,
    namespace: Namespace,
    directory: PathBuf,
    pki: Pki,
    /// Groups and versions that are not served.
    without: Vec<String>,
    admin: Client,
    applied: BTreeMap<String, Value>,
}

impl ApiServer {
    /// Starts both programs on the host with this namespace and does not wait: they come up while the
    /// rest of a lab is built. They end with the calling thread, at the latest.
    pub fn spawn(programs: Programs, namespace: &Namespace, directory: &Path) -> Result<Self> {
        let directory = directory.join("control-plane");
        let pki = Pki::create(&directory.join("pki"))?;
        let minor_version = programs.minor_version()?;
        let etcd = start_etcd(&programs, namespace, &directory)?;
        let server = start_server(&programs, minor_version, &[], namespace, &directory, &pki)?;
        let admin = Client::new(namespace, &pki.user("admin", Some("system:masters"))?)?;
        Ok(Self {
            server,
            _etcd: etcd,
            programs,
            minor_version,
            namespace: namespace.clone(),
            directory,
            pki,
            without: Vec::new(),
            admin,
            applied: BTreeMap::new(),
        })
    }

    /// Waits until the server answers `/readyz` and has made its own service, `kubernetes`.
    pub fn await_ready(&mut self) -> Result<()> {
        let admin = &self.admin;
        self.server.wait_until(START_LIMIT, || {
            admin.text("/readyz").is_ok()
                && admin
                    .get("/api/v1/namespaces/default/services/kubernetes")
                    .is_ok()
        })
    }

    /// Minor version of Kubernetes: 20 for 1.20.
    #[must_use]
    pub fn minor_version(&self) -> u32 {
        self.minor_version
    }

    /// The programs that run.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// A client with all rights.
    #[must_use]
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// The kubeconfig of a user with all rights.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.pki.path("admin.kubeconfig")
    }

    /// The certificate of the authority that has signed the server's, as PEM.
    pub fn certificate_authority(&self) -> Result<String> {
        let path = self.pki.path("ca.crt");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// A kubeconfig for a user with a client certificate, such as `system:kube-proxy`.
    pub fn user_kubeconfig(&self, name: &str) -> Result<PathBuf> {
        self.pki.user(name, None)
    }

    /// A kubeconfig with a token of this service account, which is made if there is none. It has the
    /// rights that roles give it and no other.
    pub fn account_kubeconfig(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        self.admin.apply(&namespace_object(namespace))?;
        self.admin.apply(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
        }))?;
        let token = self.admin.token(namespace, account)?;
        self.pki.bearer(account, &token)
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Makes the server serve this cluster: writes what has changed since the last time, deletes what
    /// is gone. What a test has written by itself stays.
    pub fn apply(&mut self, cluster: &Cluster, overlay: Overlay) -> Result<()> {
        if self.applied.is_empty() {
            self.write_networks(cluster)?;
        }
        let wanted = [
            objects::nodes(cluster, overlay),
            objects::services(cluster),
            objects::endpoint_slices(cluster),
        ]
        .into_iter()
        .flatten()
        .map(|object| Ok((resource::path(&object)?, object)))
        .collect::<Result<BTreeMap<_, _>>>()?;
        for (path, object) in &wanted {
            if self.applied.get(path) != Some(object) {
                self.admin.apply(object)?;
            }
        }
        for (path, object) in &self.applied {
            if !wanted.contains_key(path) {
                self.admin.delete(object)?;
            }
        }
        self.applied = wanted;
        Ok(())
    }

    /// Adds many services at once, which no other part of the lab knows of.
    pub fn seed(&self, services: &[Service]) -> Result<()> {
        let namespaces: BTreeSet<&str> = services
            .iter()
            .map(|service| service.namespace.as_str())
            .collect();
        for namespace in namespaces {
            self.admin.apply(&namespace_object(namespace))?;
        }
        let before = self.service_addresses()?;
        let objects: Vec<Value> = services
            .iter()
            .flat_map(|service| [objects::service(service), objects::endpoint_slice(service)])
            .collect();
        seed::seed(&self.namespace, &objects)?;
        let mut taken = before;
        taken.extend(services.iter().map(|service| service.vip));
        seed::take(&self.namespace, SERVICE_CIDR, &taken)
    }

    fn service_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let list = self.admin.get("/api/v1/services")?;
        let services = list["items"].as_array().into_iter().flatten();
        services
            .filter_map(|service| service["spec"]["clusterIP"].as_str())
            .filter(|address| *address != "None")
            .map(|address| address.parse().with_context(|| address.to_owned()))
            .collect()
    }

    /// What is written once: namespaces, and the networks as kubeadm and the server's own controller
    /// of service networks (1.33 and later) tell them.
    fn write_networks(&self, cluster: &Cluster) -> Result<()> {
        let namespaces: BTreeSet<&str> = cluster
            .services
            .iter()
            .map(|service| service.namespace.as_str())
            .collect();
        for namespace in namespaces {
            self.admin.apply(&namespace_object(namespace))?;
        }
        self.admin.apply(&objects::default_kubeadm_config())?;
        let cidr = objects::service_cidr("kubernetes", SERVICE_CIDR);
        if self.admin.serves(&cidr)? {
            self.admin.apply(&cidr)?;
            self.admin.apply_status(&cidr)?;
        }
        Ok(())
    }

    /// Kills the server (SIGKILL), not its database.
    pub fn kill(&mut self) -> Result<()> {
        self.server.signal(Signal::SIGKILL)?;
        self.server.wait(Duration::from_secs(10)).map(drop)
    }

    /// Starts the server again, with the same port and data, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        if self.server.exited()?.is_none() {
            self.kill()?;
        }
        self.server = start_server(
            &self.programs,
            self.minor_version,
            &self.without,
            &self.namespace,
            &self.directory,
            &self.pki,
        )?;
        self.await_ready()
    }

    /// Starts the server again with all its APIs but these: `discovery.k8s.io/v1`.
    pub fn restart_without(&mut self, apis: &[&str]) -> Result<()> {
        self.without = apis.iter().map(|&api| api.to_owned()).collect();
        self.restart()
    }

    /// Starts the server again with a new self-signed certificate, and gives the kubeconfig of an administrator who trusts
    /// that one alone.
    pub fn restart_self_signed(&mut self, name: &str, expired: bool) -> Result<PathBuf> {
        let kubeconfig = self.pki.self_sign_server(name, expired)?;
        // The lab's own administrator has no more than the authority.
        self.admin = Client::new(&self.namespace, &self.pki.trusting_admin()?)?;
        self.restart()?;
        Ok(kubeconfig)
    }
}

fn namespace_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn start_etcd(programs: &Programs, namespace: &Namespace, directory: &Path) -> Result<Daemon> {
    let peer = "http://127.0.0.1:2380";
    let mut command = namespace.bound_command(&programs.path("etcd"));
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .arg(format!("--listen-client-urls={ETCD}"))
        .arg(format!("--advertise-client-urls={ETCD}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .args(["--unsafe-no-fsync", "--log-level=warn"]);
    Daemon::spawn("etcd", command, &directory.join("etcd.log"))
}

/// Only the stable APIs, and for a kube-proxy that is older than `discovery.k8s.io/v1` the one that it follows.
fn served(minor_version: u32, without: &[String]) -> String {
    let mut served = vec!["api/beta=false".to_owned(), "api/alpha=false".to_owned()];
    if minor_version < FIRST_WITH_DISCOVERY {
        served.push("discovery.k8s.io/v1beta1=true".to_owned());
    }
    served.extend(without.iter().map(|api| format!("{api}=false")));
    served.join(",")
}

/// The flags are those of setup-envtest's control plane (controller-runtime,
/// `pkg/internal/testing/controlplane/apiserver.go`) and hold for all versions since 1.20.
fn start_server(
    programs: &Programs,
    minor_version: u32,
    without: &[String],
    namespace: &Namespace,
    directory: &Path,
    pki: &Pki,
) -> Result<Daemon> {
    let mut command = namespace.bound_command(&programs.path("kube-apiserver"));
    let file = |option: &str, name: &str| format!("--{option}={}", pki.path(name).display());
    command
        .arg(format!("--etcd-servers={ETCD}"))
        .arg("--bind-address=0.0.0.0")
        .arg(format!("--advertise-address={}", plan::CONTROL_PLANE))
        .arg(format!("--secure-port={}", port::API_SERVER))
        .arg(format!("--service-cluster-ip-range={SERVICE_CIDR}"))
        .args(["--allow-privileged=true", "--authorization-mode=RBAC"])
        // The server would write its own endpoint some time after it is ready; the lab does before.
        .arg("--endpoint-reconciler-type=none")
        // To prepare what no test asks for would take a third of a start's time on the CPU.
        .arg("--enable-priority-and-fairness=false")
        .arg(format!(
            "--runtime-config={}",
            served(minor_version, without)
        ))
        // It would wait for default service accounts, which a controller makes.
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg(file("client-ca-file", "ca.crt"))
        .arg(file("tls-cert-file", "apiserver.crt"))
        .arg(file("tls-private-key-file", "apiserver.key"))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(file("service-account-key-file", "sa.pub"))
        .arg(file("service-account-signing-key-file", "sa.key"));
    if minor_version < FIRST_WITH_SLICE_FIELDS {
        command.arg(format!("--feature-gates={SLICE_FIELDS}"));
    }
    Daemon::spawn(
        "kube-apiserver",
        command,
        &directory.join("kube-apiserver.log"),
    )
    .context("start the API server")
}
