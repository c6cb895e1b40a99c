//! The real kube-proxy on a node, in iptables mode.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::envtest;
use super::server::ApiServer;
use crate::hosts::host::Host;
use crate::machine::process::Daemon;
use crate::plan::POD_CIDR;

/// The metrics and health of kube-proxy are served on the node's loopback, at these ports.
const HEALTH_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// How long it may take until its rules are there.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running kube-proxy. Dropping it ends it; its rules stay, as on a real node.
#[derive(Debug)]
pub struct KubeProxy {
    daemon: Daemon,
}

impl KubeProxy {
    /// Starts it on a node of the lab, as the node `node.name()` of this API server's cluster, and waits
    /// until the rules of all services are there. Told of the pods' network, it masquerades what comes to services
    /// from elsewhere.
    pub fn start(node: &Host, api: &ApiServer, knows_pods: bool) -> Result<Self> {
        let program = api.programs().kube_proxy().with_context(|| {
            format!(
                "there is no kube-proxy in {} nor on PATH; the archive of a Kubernetes release has it: \
                 put it beside kube-apiserver ({})",
                api.programs().directory().display(),
                envtest::VARIABLE
            )
        })?;
        let kubeconfig = api.user_kubeconfig("system:kube-proxy")?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": kubeconfig},
            "clusterCIDR": if knows_pods { POD_CIDR } else { "" },
            "hostnameOverride": node.name(),
            "bindAddress": node.address(),
            "mode": "iptables",
            "iptables": {"syncPeriod": "30s", "minSyncPeriod": "100ms"},
            "healthzBindAddress": format!("127.0.0.1:{HEALTH_PORT}"),
            "metricsBindAddress": format!("127.0.0.1:{METRICS_PORT}"),
            // Zero leaves the host's own settings alone; some of them are not the namespace's.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        });
        let stem = node.directory().join(format!("kube-proxy-{}", node.name()));
        let path = stem.with_extension("yaml");
        fs::write(&path, serde_saphyr::to_string(&config)?)
            .with_context(|| format!("write {}", path.display()))?;
        let mut command = node.namespace().bound_command(&program);
        command.arg("--config").arg(&path);
        let daemon = Daemon::spawn("kube-proxy", command, &stem.with_extension("log"))?;
        let mut proxy = Self { daemon };
        proxy.await_rules(node)?;
        Ok(proxy)
    }

    fn await_rules(&mut self, node: &Host) -> Result<()> {
        self.daemon.wait_until(START_LIMIT, || {
            node.run("iptables-save", &["-t", "nat"])
                .is_ok_and(|rules| rules.contains("-A KUBE-SVC-"))
        })
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
