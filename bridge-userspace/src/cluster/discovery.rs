//! Which networks belong to the cluster, and who says so.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::{CidrKind, ClusterCidr, Key, Objects};
use crate::model::networks::{CidrError, parse_cidr};
use crate::model::{Problem, Subject};

/// The first of the known places that names a CIDR of each kind; ascending, each network once.
pub(super) fn cidrs(
    objects: &Objects,
    explicit: &[ClusterCidr],
    problems: &mut Vec<Problem>,
) -> Vec<ClusterCidr> {
    let explicit_of = |kind| {
        explicit
            .iter()
            .filter(|cidr| cidr.kind == kind)
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut found = or_else(explicit_of(CidrKind::Pod), || {
        or_else(kubeadm(objects, CidrKind::Pod, problems), || {
            nodes(objects, problems)
        })
    });
    found.extend(or_else(explicit_of(CidrKind::Service), || {
        or_else(service_cidrs(objects, problems), || {
            kubeadm(objects, CidrKind::Service, problems)
        })
    }));

    let mut unique: BTreeMap<(CidrKind, Ipv4Net), String> = BTreeMap::new();
    for cidr in found {
        unique.entry((cidr.kind, cidr.cidr)).or_insert(cidr.source);
    }
    unique
        .into_iter()
        .map(|((kind, cidr), source)| ClusterCidr { kind, cidr, source })
        .collect()
}

fn or_else(
    first: Vec<ClusterCidr>,
    otherwise: impl FnOnce() -> Vec<ClusterCidr>,
) -> Vec<ClusterCidr> {
    if first.is_empty() { otherwise() } else { first }
}

fn service_cidrs(objects: &Objects, problems: &mut Vec<Problem>) -> Vec<ClusterCidr> {
    let mut found = Vec::new();
    for (key, object) in &objects.service_cidrs {
        for text in &object.cidrs {
            let source = format!("ServiceCIDR {}", key.name);
            found.extend(read(CidrKind::Service, text, source, problems));
        }
    }
    found
}

fn nodes(objects: &Objects, problems: &mut Vec<Problem>) -> Vec<ClusterCidr> {
    let mut found = Vec::new();
    for (key, node) in &objects.nodes {
        for text in &node.pod_cidrs {
            let source = format!("Node {} spec.podCIDRs", key.name);
            found.extend(read(CidrKind::Pod, text, source, problems));
        }
    }
    found
}

/// The part of kubeadm's `ClusterConfiguration` (kubeadm.k8s.io/v1beta4) that is read here.
#[derive(Deserialize)]
struct ClusterConfiguration {
    #[serde(default)]
    networking: Networking,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Networking {
    /// Comma-separated in dual-stack clusters.
    service_subnet: Option<String>,
    pod_subnet: Option<String>,
}

fn kubeadm(objects: &Objects, kind: CidrKind, problems: &mut Vec<Problem>) -> Vec<ClusterCidr> {
    let key = Key {
        namespace: "kube-system".to_owned(),
        name: "kubeadm-config".to_owned(),
    };
    let Some(text) = objects
        .config_maps
        .get(&key)
        .and_then(|config_map| config_map.cluster_configuration.as_deref())
    else {
        return Vec::new();
    };
    let networking = match serde_saphyr::from_str::<ClusterConfiguration>(text) {
        Ok(configuration) => configuration.networking,
        Err(error) => {
            problems.push(Problem::new(
                Subject::Object(format!("ConfigMap {key}")),
                format!(
                    "ConfigMap {key}: ClusterConfiguration does not parse: {}",
                    error.without_snippet()
                ),
                "mend it, or give --pod-cidr and --service-cidr",
            ));
            return Vec::new();
        }
    };
    let (subnets, field) = match kind {
        CidrKind::Pod => (networking.pod_subnet, "podSubnet"),
        CidrKind::Service => (networking.service_subnet, "serviceSubnet"),
    };
    let mut found = Vec::new();
    for text in subnets.iter().flat_map(|subnets| subnets.split(',')) {
        if !text.trim().is_empty() {
            let source = format!("kubeadm-config networking.{field}");
            found.extend(read(kind, text, source, problems));
        }
    }
    found
}

fn read(
    kind: CidrKind,
    text: &str,
    source: String,
    problems: &mut Vec<Problem>,
) -> Option<ClusterCidr> {
    match parse_cidr(text) {
        Ok(cidr) => Some(ClusterCidr { kind, cidr, source }),
        // The other half of a dual-stack cluster is no problem: IPv6 passes untouched.
        Err(CidrError::Ipv6(_)) => None,
        Err(error) => {
            let what = format!("{source}: {error}");
            let remedy = "mend the object, or give --pod-cidr and --service-cidr";
            problems.push(Problem::new(Subject::Object(source), what, remedy));
            None
        }
    }
}
