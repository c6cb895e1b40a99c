//! The manifests in `deploy/kustomize`, applied to an API server, and the pods that a kubelet would start from them.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use lab::host::exchange;
use lab::netns::finish;
use lab::plan::{self, ECHO_SERVICE, MYSQL_NAME, port};
use lab::pod::{self, NodeRoot, Pod};
use lab::{Lab, LabOptions};
use serde::de::DeserializeOwned;
use serde_json::Value;

const NAMESPACE: &str = "office-bridge";

#[test]
fn the_applied_manifests_let_the_office_reach_the_cluster() {
    let lab = LabOptions::default_variant().with_api_server().open();
    let root = NodeRoot::create(&lab).unwrap();
    let template = bridge(&lab);
    let pod = start(&lab, &root, &template);

    let address = lab
        .office_pc()
        .resolve(plan::ROUTER_LAN, MYSQL_NAME)
        .unwrap();
    assert_eq!(address, plan::MYSQL);
    let mut session = lab
        .office_pc()
        .mysql(SocketAddrV4::new(address, port::MYSQL))
        .unwrap();
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
    lab.office_pc().ping(lab.pod("echo-2").address()).unwrap();

    pod.is_alive().unwrap();
    let status = status(&pod);
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["cluster"], "kube", "{status}");
    // The network of services comes from the cluster; that of pods must be the one that the router has its route for.
    let sources: Vec<&str> = status["cidrs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|cidr| cidr["source"].as_str())
        .collect();
    assert!(
        sources.iter().any(|source| source.contains("ServiceCIDR")),
        "{sources:?}"
    );
    assert!(
        sources.iter().any(|source| source.ends_with("bridge.yaml")),
        "{sources:?}"
    );
}

#[test]
fn a_rolling_update_interrupts_no_session() {
    let lab = LabOptions::default_variant().with_api_server().open();
    let root = NodeRoot::create(&lab).unwrap();
    let template = bridge(&lab);
    let mut old = start(&lab, &root, &template);
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"the old pod").unwrap();

    // `maxUnavailable: 1` without a surge: the old pod ends before the new one begins.
    let ended = old.delete().unwrap();
    assert!(ended.success(), "{ended}: {}", old.log());
    exchange(&mut session, b"no pod").unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"no pod").unwrap();

    let new = start(&lab, &root, &template);
    exchange(&mut session, b"the new pod").unwrap();
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"the new pod")
        .unwrap();
    new.is_ready().unwrap();
}

#[test]
fn the_uninstall_job_waits_for_the_bridge_and_leaves_nothing_in_the_kernel() {
    let lab = LabOptions::default_variant().with_api_server().open();
    let root = NodeRoot::create(&lab).unwrap();
    let template = bridge(&lab);
    let mut pod = start(&lab, &root, &template);
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"installed")
        .unwrap();
    let job = uninstall(&lab);

    // Kubernetes starts a failed Job again.
    let mut refused = Pod::start(&lab, &root, NAMESPACE, &job).unwrap();
    let ended = refused.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(ended.code(), Some(1), "{}", refused.log());
    assert!(
        refused.log().contains("already works on"),
        "{}",
        refused.log()
    );
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"still installed")
        .unwrap();

    pod.delete().unwrap();
    let mut done = Pod::start(&lab, &root, NAMESPACE, &job).unwrap();
    let ended = done.wait(Duration::from_secs(10)).unwrap();
    assert!(ended.success(), "{}", done.log());
    let log = done.log();
    let Some((_, detached)) = log.split_once("detached from ") else {
        panic!("{log}");
    };
    assert!(detached.contains("eth0"), "{detached}");
    assert!(!root.at("/sys/fs/bpf/office-bridge").exists());
    assert!(lab.office_pc().is_cut_off_from(ECHO_SERVICE));
}

/// `kubectl apply -k`, as README.md has it.
fn apply(lab: &Lab, directory: &str) {
    let mut kubectl = lab.control_plane().command("kubectl");
    kubectl
        .arg("--kubeconfig")
        .arg(lab.api().admin_kubeconfig())
        .args(["apply", "-k"])
        .arg(manifests(directory));
    finish(kubectl, None).unwrap_or_else(|error| panic!("apply {directory}: {error:#}"));
}

fn manifests(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(directory)
}

/// An object as the API server has it.
fn get<K: DeserializeOwned>(lab: &Lab, path: &str) -> K {
    let object = lab.api().admin().get(path).unwrap();
    serde_json::from_value(object).unwrap()
}

/// The template of the applied `DaemonSet`, which would run on node-30.
fn bridge(lab: &Lab) -> PodTemplateSpec {
    apply(lab, "deploy/kustomize");
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/office-bridge");
    let template = get::<DaemonSet>(lab, &path).spec.template;
    pod::schedule(&template, &get(lab, "/api/v1/nodes/node-30")).unwrap();
    pod::schedule(&template, &get(lab, "/api/v1/nodes/worker-1")).unwrap_err();
    template
}

/// The template of the applied Job that uninstalls.
fn uninstall(lab: &Lab) -> PodTemplateSpec {
    apply(lab, "deploy/kustomize/uninstall");
    let path = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs/office-bridge-uninstall");
    let template = get::<Job>(lab, &path).spec.unwrap().template;
    pod::schedule(&template, &get(lab, "/api/v1/nodes/node-30")).unwrap();
    template
}

fn start<'lab>(lab: &'lab Lab, root: &NodeRoot, template: &PodTemplateSpec) -> Pod<'lab> {
    let mut pod = Pod::start(lab, root, NAMESPACE, template).unwrap();
    pod.await_ready().unwrap();
    pod
}

/// `office-bridge status` in the pod.
fn status(pod: &Pod<'_>) -> Value {
    let text = pod
        .exec(&["office-bridge", "status", "-o", "json"])
        .unwrap();
    serde_json::from_str(&text).unwrap()
}
