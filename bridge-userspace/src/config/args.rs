//! The raw settings of `run`, as words.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::TimeoutArgs;

/// Settings of `run`, from the command line or from the file that `--config` names.
///
/// Values that need checking stay words here, so that one check with one message serves
/// both origins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RunArgs {
    /// YAML file with any of these settings
    ///
    /// Each flag is a field of the same name in camel case (`--office-cidr` is `officeCidr`);
    /// those that may be repeated take a list. Timeouts (`timeouts`) are set in the file only.
    /// A flag wins over its field.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Interface where office packets come in
    #[arg(long, value_name = "IF")]
    pub uplink: Option<String>,

    /// Network whose hosts may reach the cluster; a single host is ADDRESS/32 (repeatable)
    #[arg(long = "office-cidr", value_name = "CIDR")]
    #[serde(rename = "officeCidr", deserialize_with = "one_or_many")]
    pub office_cidrs: Vec<String>,

    /// Network of pods; wins over what the cluster says (repeatable)
    #[arg(long = "pod-cidr", value_name = "CIDR")]
    #[serde(rename = "podCidr", deserialize_with = "one_or_many")]
    pub pod_cidrs: Vec<String>,

    /// Network of service addresses; wins over what the cluster says (repeatable)
    #[arg(long = "service-cidr", value_name = "CIDR")]
    #[serde(rename = "serviceCidr", deserialize_with = "one_or_many")]
    pub service_cidrs: Vec<String>,

    /// Where to learn about the cluster: `kube` (its API server), `manifests=DIR` (Kubernetes
    /// objects as YAML or JSON files) or `static` (the networks given here; services are left to
    /// kube-proxy) [default: kube with a kubeconfig or in a pod, else static]
    #[arg(long, value_name = "SOURCE")]
    pub cluster: Option<ClusterChoice>,

    /// How to reach the API server [default: the files that the variable KUBECONFIG names, or
    /// in a pod its service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// What to do with `internalTrafficPolicy: Local`: `ignore` it (a client in the office is on
    /// no node) or `honor` it (only endpoints on this node) [default: ignore]
    #[arg(long, value_name = "POLICY")]
    pub internal_traffic_policy: Option<String>,

    /// This node's name in the cluster [default: the variable `NODE_NAME`, or the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// The way of new flows: `auto` (the fastest that each interface can), `xdp` (in the uplink's driver, or no start;
    /// what XDP can't finish takes the TC path), `tc` (past the kernel's IP stack; what the tables don't know takes
    /// the stack path) or `stack` (routed by the kernel, through netfilter) [default: auto]
    #[arg(long, value_name = "LAYER")]
    pub datapath: Option<String>,

    /// Address to translate clients to, instead of the preferred source of the kernel's
    /// route to the pod (repeatable)
    #[arg(long = "snat-address", value_name = "IP")]
    #[serde(rename = "snatAddress", deserialize_with = "one_or_many")]
    pub snat_addresses: Vec<String>,

    /// Take DNS queries here, UDP and TCP (repeatable)
    #[arg(long, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "one_or_many")]
    pub dns_listen: Vec<String>,

    /// Forward DNS queries to this server, usually the kube-dns service; further ones
    /// step in when it fails (repeatable)
    #[arg(long, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "one_or_many")]
    pub dns_upstream: Vec<String>,

    /// Network that may send DNS queries besides the office's (repeatable)
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "one_or_many")]
    pub dns_allow: Vec<String>,

    /// Relay no DNS, whatever the file says
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL")]
    pub no_dns: Option<bool>,

    /// Answer pings to the addresses of services that have a ready backend [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL")]
    pub answer_ping: Option<bool>,

    /// Domain of the cluster's names [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,

    /// Serve `/healthz`, `/readyz` and `/metrics` here [default: 127.0.0.1:9530]
    #[arg(long, value_name = "ADDR:PORT")]
    pub http_listen: Option<String>,

    /// Serve no status and no metrics, whatever the file says
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL")]
    pub no_http: Option<bool>,

    /// Directory of the pinned tables, on a bpf filesystem [default: /sys/fs/bpf/office-bridge]
    #[arg(long, value_name = "DIR")]
    pub pin_path: Option<PathBuf>,

    /// Set the sysctls that forwarding needs, such as `net.ipv4.ip_forward`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL")]
    pub manage_sysctls: Option<bool>,

    /// How to attach at TC: `auto` (TCX links, or clsact filters below kernel 6.6) or `clsact`
    #[arg(long, value_name = "MODE")]
    pub tc_attach: Option<String>,

    /// Number of flows that the tables hold [default: 262144]
    #[arg(long, value_name = "FLOWS")]
    pub flow_capacity: Option<u32>,

    /// Idle times of flows.
    #[arg(skip)]
    pub timeouts: TimeoutArgs,
}

/// `kube`, `manifests=DIR` or `static`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterChoice {
    /// The API server.
    Kube,
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The networks of the configuration.
    Static,
}

impl fmt::Display for ClusterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube => f.write_str("kube"),
            Self::Manifests(directory) => write!(f, "manifests={}", directory.display()),
            Self::Static => f.write_str("static"),
        }
    }
}

impl FromStr for ClusterChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "kube" => Ok(Self::Kube),
            None if text == "static" => Ok(Self::Static),
            Some(("manifests", directory)) if !directory.is_empty() => {
                Ok(Self::Manifests(PathBuf::from(directory)))
            }
            None if text == "manifests" => {
                Err("`manifests` needs a directory: manifests=DIR".to_owned())
            }
            _ => Err(format!(
                "`{text}` is no cluster source; write `kube`, `manifests=DIR` or `static`"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for ClusterChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A YAML list of texts, or a single text for a list of one.
#[derive(Debug, Default)]
struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_unit<E: de::Error>(self) -> Result<OneOrMany, E> {
                Ok(OneOrMany::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }

        deserializer.deserialize_any(Words)
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    OneOrMany::deserialize(deserializer).map(|OneOrMany(texts)| texts)
}
