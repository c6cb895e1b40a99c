//! Where the state of the cluster comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::environment::Environment;
use super::networks::{POD_CIDR, SERVICE_CIDR};
use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use super::values::choice;
use crate::cluster::{ApiAccess, InternalTrafficPolicy, SourceSpec};
use crate::model::Findings;

pub(super) const SETTINGS: &[SettingFacts] = &[
    CLUSTER.facts,
    KUBECONFIG.facts,
    INTERNAL_TRAFFIC_POLICY.facts,
    NODE_NAME.facts,
];

const CLUSTER: Setting<String> = Setting::new(
    "cluster",
    "cluster",
    "SOURCE",
    DefaultValue::Derived("kube with a kubeconfig or in a pod, else static"),
    "Where to learn about the cluster: `kube` (its API server), `manifests=DIR` (Kubernetes objects as YAML or JSON \
     files) or `static` (the networks given here; services are left to kube-proxy)",
);
const KUBECONFIG: Setting<PathBuf> = Setting::new(
    "kubeconfig",
    "kubeconfig",
    "FILE",
    DefaultValue::Derived(
        "the files that the variable KUBECONFIG names, or in a pod its service account",
    ),
    "How to reach the API server",
);
const INTERNAL_TRAFFIC_POLICY: Setting<String> = Setting::new(
    "internalTrafficPolicy",
    "internal-traffic-policy",
    "POLICY",
    DefaultValue::Text("ignore"),
    "What to do with `internalTrafficPolicy: Local`: `ignore` it (a client in the office is on no node) or `honor` it \
     (only endpoints on this node)",
);
const NODE_NAME: Setting<String> = Setting::new(
    "nodeName",
    "node-name",
    "NAME",
    DefaultValue::Derived("the variable `NODE_NAME`, or the host name"),
    "This node's name in the cluster",
);

/// `kube`, `manifests=DIR` or `static`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    Kube,
    Manifests(PathBuf),
    Static,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube => f.write_str("kube"),
            Self::Manifests(directory) => write!(f, "manifests={}", directory.display()),
            Self::Static => f.write_str("static"),
        }
    }
}

impl FromStr for Choice {
    /// Cause and remedy.
    type Err = (String, &'static str);

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "kube" => Ok(Self::Kube),
            None if text == "static" => Ok(Self::Static),
            Some(("manifests", directory)) if !directory.is_empty() => {
                Ok(Self::Manifests(PathBuf::from(directory)))
            }
            None if text == "manifests" => Err((
                "`manifests` needs a directory".to_owned(),
                "write `manifests=DIR`",
            )),
            _ => Err((
                format!("`{text}` is no cluster source"),
                "write `kube`, `manifests=DIR` or `static`",
            )),
        }
    }
}

/// The cluster source: the one that was chosen, or else the API server if anything says how to reach it.
pub(super) fn source(
    settings: &Settings,
    environment: &Environment,
    findings: &mut Findings,
) -> SourceSpec {
    let access = match settings.get(&KUBECONFIG) {
        Some(file) => Some(ApiAccess::Kubeconfig(file.clone())),
        None if environment.has_kubeconfig => Some(ApiAccess::KubeconfigVariable),
        None if environment.is_in_cluster => Some(ApiAccess::ServiceAccount),
        None => None,
    };
    let choice = match settings.get(&CLUSTER).map(|text| text.parse()).transpose() {
        Ok(choice) => choice,
        Err((cause, remedy)) => {
            findings.push(settings.wrong(&CLUSTER, &format!(": {cause}"), remedy));
            return SourceSpec::Static;
        }
    };
    match (choice, access) {
        (
            Some(choice @ (Choice::Manifests(_) | Choice::Static)),
            Some(ApiAccess::Kubeconfig(file)),
        ) => {
            findings.push(settings.wrong(
                &KUBECONFIG,
                &format!(
                    " {} is given, but --cluster {choice} does not ask the API server",
                    file.display()
                ),
                "remove one of them",
            ));
            SourceSpec::Static
        }
        (Some(Choice::Manifests(directory)), _) => SourceSpec::Manifests(directory),
        (Some(Choice::Static), _) | (None, None) => {
            if settings.lacks(&POD_CIDR) && settings.lacks(&SERVICE_CIDR) {
                findings.push(settings.wrong(
                    &CLUSTER,
                    " static knows only the networks that it is given",
                    "add --pod-cidr and --service-cidr, e.g. --pod-cidr 10.244.0.0/16 --service-cidr 10.96.0.0/12, \
                     or --kubeconfig FILE to ask the cluster",
                ));
            }
            SourceSpec::Static
        }
        (Some(Choice::Kube) | None, Some(access)) => SourceSpec::Kube(access),
        (Some(Choice::Kube), None) => {
            findings.push(settings.wrong(
                &CLUSTER,
                " kube: nothing says how to reach the API server",
                "give --kubeconfig FILE, or the variable KUBECONFIG, or run in a pod with a service account",
            ));
            SourceSpec::Static
        }
    }
}

/// What becomes of services for clients on the same node.
pub(super) fn internal_traffic_policy(
    settings: &Settings,
    environment: Environment,
    findings: &mut Findings,
) -> InternalTrafficPolicy {
    let choices = [("ignore", false), ("honor", true)];
    let is_honored = choice(
        settings,
        &INTERNAL_TRAFFIC_POLICY,
        "policy",
        &choices,
        false,
        findings,
    );
    if !is_honored {
        return InternalTrafficPolicy::Ignore;
    }
    let name = settings.get(&NODE_NAME).cloned();
    let name = name.or(environment.node_name).or(environment.hostname);
    if let Some(node) = name.filter(|name| !name.is_empty()) {
        return InternalTrafficPolicy::Honor { node };
    }
    findings.push(settings.wrong(
        &INTERNAL_TRAFFIC_POLICY,
        " honor: this node's name in the cluster is unknown",
        "give --node-name",
    ));
    InternalTrafficPolicy::Ignore
}
