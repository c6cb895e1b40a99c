//! The cluster as Kubernetes objects: what an administrator or a controller writes, without what only
//! the API server adds.

use serde_json::{Value, json};

use crate::cluster::{Cluster, ClusterNode, Service};
use crate::plan::{CLUSTER_DOMAIN, POD_CIDR, SERVICE_CIDR};
use crate::variant::Overlay;

/// All nodes.
#[must_use]
pub fn nodes(cluster: &Cluster, overlay: Overlay) -> Vec<Value> {
    let nodes = cluster.nodes.iter();
    nodes.map(|entry| node(entry, overlay)).collect()
}

/// All services.
#[must_use]
pub fn services(cluster: &Cluster) -> Vec<Value> {
    cluster.services.iter().map(service).collect()
}

/// One `EndpointSlice` for each service.
#[must_use]
pub fn endpoint_slices(cluster: &Cluster) -> Vec<Value> {
    cluster.services.iter().map(endpoint_slice).collect()
}

/// A node as kubeadm and flannel leave it.
#[must_use]
pub fn node(node: &ClusterNode, overlay: Overlay) -> Value {
    let (backend, data) = match overlay {
        Overlay::Vxlan => (
            "vxlan",
            json!({"VNI": 1, "VtepMAC": node.vtep_mac()}).to_string(),
        ),
        Overlay::HostGw => ("host-gw", "null".to_owned()),
    };
    let heartbeat = "2024-05-06T07:08:09Z";
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "annotations": {
                "flannel.alpha.coreos.com/backend-data": data,
                "flannel.alpha.coreos.com/backend-type": backend,
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/public-ip": node.underlay,
                "node.alpha.kubernetes.io/ttl": "0",
            },
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
            },
        },
        "spec": {"podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr()]},
        "status": {
            "addresses": [
                {"address": node.underlay, "type": "InternalIP"},
                {"address": node.name, "type": "Hostname"},
            ],
            "conditions": [{
                "lastHeartbeatTime": heartbeat,
                "lastTransitionTime": heartbeat,
                "message": "kubelet is posting ready status",
                "reason": "KubeletReady",
                "status": "True",
                "type": "Ready",
            }],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "1f6a2d0c-0000-4000-8000-000000000001",
                "containerRuntimeVersion": "containerd://1.7.13",
                "kernelVersion": "6.1.0-18-amd64",
                "kubeProxyVersion": "v1.33.1",
                "kubeletVersion": "v1.33.1",
                "machineID": format!("6d8a1f6a2d0c4000800000000000{:04x}", node.pod_octet),
                "operatingSystem": "linux",
                "osImage": "Debian GNU/Linux 12 (bookworm)",
                "systemUUID": format!("6d8a1f6a-2d0c-4000-8000-00000000{:04x}", node.pod_octet),
            },
        },
    });
    if node.name == "node-30" {
        object["metadata"]["labels"]["node"] = "dns-l4".into();
        object["spec"]["taints"] =
            json!([{"effect": "NoSchedule", "key": "forward", "value": "node-30"}]);
    }
    object
}

/// A service.
#[must_use]
pub fn service(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name,
                "port": port.port,
                "protocol": port.protocol.upper(),
                "targetPort": port.target,
            })
        })
        .collect();
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service.name,
            "namespace": service.namespace,
            "labels": {"app": service.name},
        },
        "spec": {
            "clusterIP": service.vip,
            "clusterIPs": [service.vip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": ports,
            "selector": {"app": service.name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    });
    if let Some(timeout) = service.session_affinity {
        object["spec"]["sessionAffinity"] = "ClientIP".into();
        object["spec"]["sessionAffinityConfig"] =
            json!({"clientIP": {"timeoutSeconds": timeout.as_secs()}});
    }
    object
}

/// The backends of a service as the endpoint slice controller writes them.
#[must_use]
pub fn endpoint_slice(service: &Service) -> Value {
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.address],
                "conditions": {
                    "ready": endpoint.takes_connections(),
                    "serving": endpoint.ready,
                    "terminating": endpoint.terminating,
                },
                "nodeName": endpoint.node,
                "targetRef": {
                    "kind": "Pod",
                    "name": endpoint.pod,
                    "namespace": service.namespace,
                    "uid": format!("5b1f6a2d-0000-4000-8000-{:012x}", endpoint.address.to_bits()),
                },
            })
        })
        .collect();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name,
                "port": port.target,
                "protocol": port.protocol.upper(),
            })
        })
        .collect();
    json!({
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": endpoints,
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-x7k2p", service.name),
            "namespace": service.namespace,
            "generateName": format!("{}-", service.name),
            "labels": {
                "app": service.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service.name,
            },
        },
        "ports": ports,
    })
}

/// A range of service addresses (Kubernetes 1.33 and later has one of the name `kubernetes`).
#[must_use]
pub fn service_cidr(name: &str, cidr: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": [cidr]},
        "status": {
            "conditions": [{
                "lastTransitionTime": "2024-05-06T07:08:09Z",
                "message": "Kubernetes Service CIDR is ready",
                "reason": "",
                "status": "True",
                "type": "Ready",
            }],
        },
    })
}

/// What kubeadm remembers of `kubeadm init`, with these networks.
#[must_use]
pub fn kubeadm_config(pod_cidr: &str, service_cidr: &str) -> Value {
    let configuration = format!(
        "apiVersion: kubeadm.k8s.io/v1beta3\n\
         clusterName: kubernetes\n\
         kind: ClusterConfiguration\n\
         kubernetesVersion: v1.33.1\n\
         networking:\n  dnsDomain: {CLUSTER_DOMAIN}\n  podSubnet: {pod_cidr}\n  \
         serviceSubnet: {service_cidr}\n"
    );
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterConfiguration": configuration},
    })
}

/// [`kubeadm_config`] of the lab's own networks.
#[must_use]
pub fn default_kubeadm_config() -> Value {
    kubeadm_config(POD_CIDR, SERVICE_CIDR)
}
