//! What the surroundings of the process say where the configuration says nothing.

use std::env;
use std::path::Path;

/// Where a pod finds the token of its service account (client-go `rest.InClusterConfig`).
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What the surroundings of the process say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Whether the variable `KUBECONFIG` names files.
    pub has_kubeconfig: bool,
    /// Whether this process runs in a pod with a service account.
    pub is_in_cluster: bool,
    /// The variable `NODE_NAME`, which a pod's manifest fills from `spec.nodeName`.
    pub node_name: Option<String>,
    /// The host name in lower case, as kubelet registers a node unless told otherwise.
    pub hostname: Option<String>,
}

impl Environment {
    /// That of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let filled = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            has_kubeconfig: filled("KUBECONFIG"),
            is_in_cluster: filled("KUBERNETES_SERVICE_HOST")
                && Path::new(SERVICE_ACCOUNT_TOKEN).exists(),
            node_name: env::var("NODE_NAME").ok().filter(|name| !name.is_empty()),
            hostname: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .map(|name| name.to_lowercase()),
        }
    }
}
