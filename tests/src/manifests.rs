//! The cluster as `kubectl get -o yaml` prints it, for `--cluster manifests=DIR`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, ClusterNode, Service};
use crate::node::Overlay;
use crate::plan::SERVICE_CIDR;

/// Writes one file per kind of object into `directory`. A file is replaced in one step, so that a
/// reader never sees half of it.
pub fn write(directory: &Path, cluster: &Cluster, overlay: Overlay) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let nodes: String = cluster
        .nodes
        .iter()
        .map(|entry| node(entry, overlay))
        .collect();
    let services: String = cluster.services.iter().map(service).collect();
    let slices: String = cluster.services.iter().map(endpoint_slice).collect();
    for (name, items) in [
        ("nodes", nodes),
        ("services", services),
        ("endpointslices", slices),
        ("servicecidrs", service_cidr()),
    ] {
        let text = format!(
            "apiVersion: v1\nitems:\n{items}kind: List\nmetadata:\n  resourceVersion: \"\"\n"
        );
        let path = directory.join(format!("{name}.yaml"));
        let next = directory.join(format!(".{name}.next"));
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &path))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn node(node: &ClusterNode, overlay: Overlay) -> String {
    let (backend, data) = match overlay {
        Overlay::Vxlan => (
            "vxlan",
            format!(r#"'{{"VNI":1,"VtepMAC":"{}"}}'"#, node.vtep_mac()),
        ),
        Overlay::HostGw => ("host-gw", "\"null\"".to_owned()),
    };
    let forwarding = if node.name == "node-30" {
        "    taints:\n    - effect: NoSchedule\n      key: forward\n      value: node-30\n"
    } else {
        ""
    };
    let label = if node.name == "node-30" {
        "      node: dns-l4\n"
    } else {
        ""
    };
    format!(
        r#"- apiVersion: v1
  kind: Node
  metadata:
    annotations:
      flannel.alpha.coreos.com/backend-data: {data}
      flannel.alpha.coreos.com/backend-type: {backend}
      flannel.alpha.coreos.com/kube-subnet-manager: "true"
      flannel.alpha.coreos.com/public-ip: {address}
      node.alpha.kubernetes.io/ttl: "0"
    creationTimestamp: "2024-05-06T07:08:09Z"
    labels:
      kubernetes.io/arch: amd64
      kubernetes.io/hostname: {name}
      kubernetes.io/os: linux
{label}    name: {name}
    resourceVersion: "1001"
    uid: 7c7e2f55-0000-4000-8000-0000000000{octet:02x}
  spec:
    podCIDR: {cidr}
    podCIDRs:
    - {cidr}
{forwarding}  status:
    addresses:
    - address: {address}
      type: InternalIP
    - address: {name}
      type: Hostname
    conditions:
    - lastHeartbeatTime: "2024-05-06T07:08:09Z"
      lastTransitionTime: "2024-05-06T07:08:09Z"
      message: kubelet is posting ready status
      reason: KubeletReady
      status: "True"
      type: Ready
    nodeInfo:
      architecture: amd64
      bootID: 1f6a2d0c-0000-4000-8000-000000000001
      containerRuntimeVersion: containerd://1.7.13
      kernelVersion: 6.1.0-18-amd64
      kubeProxyVersion: v1.33.1
      kubeletVersion: v1.33.1
      machineID: 6d8a1f6a2d0c4000800000000000{octet:04x}
      operatingSystem: linux
      osImage: Debian GNU/Linux 12 (bookworm)
      systemUUID: 6d8a1f6a-2d0c-4000-8000-00000000{octet:04x}
"#,
        address = node.underlay,
        name = node.name,
        cidr = node.pod_cidr(),
        octet = node.pod_octet,
    )
}

fn service(service: &Service) -> String {
    let mut ports = String::new();
    for port in &service.ports {
        write!(
            ports,
            "    - name: {}\n      port: {}\n      protocol: {}\n      targetPort: {}\n",
            port.name,
            port.port,
            port.protocol.upper(),
            port.target
        )
        .expect("a String takes every write");
    }
    format!(
        r#"- apiVersion: v1
  kind: Service
  metadata:
    creationTimestamp: "2024-05-06T07:08:09Z"
    labels:
      app: {name}
    name: {name}
    namespace: {namespace}
    resourceVersion: "2001"
    uid: 0c0a8d5e-0000-4000-8000-{uid:012x}
  spec:
    clusterIP: {vip}
    clusterIPs:
    - {vip}
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    ipFamilyPolicy: SingleStack
    ports:
{ports}    selector:
      app: {name}
    sessionAffinity: None
    type: ClusterIP
  status:
    loadBalancer: {{}}
"#,
        name = service.name,
        namespace = service.namespace,
        vip = service.vip,
        uid = service.vip.to_bits(),
    )
}

fn endpoint_slice(service: &Service) -> String {
    let mut endpoints = String::new();
    for endpoint in &service.endpoints {
        let ready = endpoint.ready;
        write!(
            endpoints,
            "  - addresses:\n    - {}\n    conditions:\n      ready: {ready}\n      serving: {ready}\n      \
             terminating: false\n    nodeName: {}\n    targetRef:\n      kind: Pod\n      name: {}\n      \
             namespace: {}\n      uid: 5b1f6a2d-0000-4000-8000-{:012x}\n",
            endpoint.address,
            endpoint.node,
            endpoint.pod,
            service.namespace,
            endpoint.address.to_bits()
        )
        .expect("a String takes every write");
    }
    let endpoints = if endpoints.is_empty() {
        "  endpoints: []\n".to_owned()
    } else {
        format!("  endpoints:\n{endpoints}")
    };
    let mut ports = String::new();
    for port in &service.ports {
        write!(
            ports,
            "  - name: {}\n    port: {}\n    protocol: {}\n",
            port.name,
            port.target,
            port.protocol.upper()
        )
        .expect("a String takes every write");
    }
    format!(
        r#"- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
{endpoints}  kind: EndpointSlice
  metadata:
    creationTimestamp: "2024-05-06T07:08:09Z"
    generateName: {name}-
    generation: 1
    labels:
      app: {name}
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: {name}
    name: {name}-x7k2p
    namespace: {namespace}
    resourceVersion: "3001"
    uid: 9d1c8d5e-0000-4000-8000-{uid:012x}
  ports:
{ports}"#,
        name = service.name,
        namespace = service.namespace,
        uid = service.vip.to_bits(),
    )
}

fn service_cidr() -> String {
    format!(
        r#"- apiVersion: networking.k8s.io/v1
  kind: ServiceCIDR
  metadata:
    creationTimestamp: "2024-05-06T07:08:09Z"
    finalizers:
    - networking.k8s.io/service-cidr-finalizer
    name: kubernetes
    resourceVersion: "7"
    uid: 3e1f6a2d-0000-4000-8000-000000000007
  spec:
    cidrs:
    - {SERVICE_CIDR}
  status:
    conditions:
    - lastTransitionTime: "2024-05-06T07:08:09Z"
      message: Kubernetes Service CIDR is ready
      reason: ""
      status: "True"
      type: Ready
"#
    )
}
