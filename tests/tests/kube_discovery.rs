//! What the bridge discovers through the API server: the cluster's networks, and which rights (RBAC) that takes.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use lab::bridge::arguments::with;
use lab::host::exchange;
use lab::netfilter::Firewall;
use lab::plan::{self, ECHO_SERVICE, port};
use lab::wait::FOLLOWS;
use lab::{Bridge, Lab, LabOptions, eventually, objects};
use serde_json::Value;

const EXTRA: &str = "172.30.0.0/16";

#[test]
fn a_network_that_comes_or_goes_is_an_event_that_people_are_told() {
    let lab = LabOptions::default_variant().with_api_server().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let admin = lab.api().admin();

    let extra = objects::service_cidr("extra", EXTRA);
    if admin.serves(&extra).unwrap() {
        admin.apply(&extra).unwrap();
        admin.apply_status(&extra).unwrap();
        eventually(FOLLOWS, "the new service network is known", || {
            source_of(&bridge, EXTRA).is_some_and(|source| source.contains("extra"))
        });
        assert!(has_event(&bridge, &["service CIDR", EXTRA, "new", "route"]));
        assert!(bridge.log().contains(EXTRA), "{}", bridge.log());
        admin.delete(&extra).unwrap();
        eventually(FOLLOWS, "the service network is gone", || {
            source_of(&bridge, EXTRA).is_none()
        });
        assert!(has_event(&bridge, &["service CIDR", EXTRA, "gone"]));
    } else {
        println!("this API server has no ServiceCIDRs (Kubernetes 1.33 and later has)");
    }

    assert_eq!(
        source_of(&bridge, plan::POD_CIDR).as_deref(),
        Some("kubeadm-config networking.podSubnet")
    );
    let wider = "10.244.0.0/15";
    let config = objects::kubeadm_config(wider, plan::SERVICE_CIDR);
    admin.apply(&config).unwrap();
    eventually(FOLLOWS, "the wider pod network is known", || {
        source_of(&bridge, wider).is_some()
    });
    let grown = [
        "pod CIDR",
        wider,
        "contains",
        plan::POD_CIDR,
        "become one to",
    ];
    assert!(has_event(&bridge, &grown));
    assert!(!has_event(&bridge, &["pod CIDR", plan::POD_CIDR, "gone"]));
    let pod = lab.at("echo-1", port::ECHO);
    lab.office_pc().tcp_echo(pod, b"still reached").unwrap();
}

#[test]
fn the_shipped_rights_suffice_and_a_missing_one_is_named() {
    let lab = router().open();
    let admin = lab.api().admin();
    let rights = shipped_rights();
    // The account and its namespace first.
    lab.api()
        .account_kubeconfig("office-bridge", "office-bridge")
        .unwrap();
    for object in &rights {
        admin.apply(object).unwrap();
    }
    let mut bridge = start_as_account(&lab);
    bridge.await_ready().unwrap();
    let status = bridge.status().unwrap();
    assert_eq!(status["cluster_state"]["connected"], true, "{status}");
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!(
        source_of(&bridge, plan::POD_CIDR).as_deref(),
        Some("kubeadm-config networking.podSubnet")
    );
    let name = "echo.project-a-dev1.svc.cluster.local";
    let vip = lab.office_pc().resolve(plan::ROUTER_LAN, name).unwrap();
    let vip = SocketAddrV4::new(vip, port::ECHO);
    lab.office_pc().tcp_echo(vip, b"by name").unwrap();
    bridge.uninstall().unwrap();
    bridge.leave_installed();

    let role = rights
        .iter()
        .find(|object| object["kind"] == "ClusterRole")
        .unwrap();
    for missing in ["endpointslices", "services", "servicecidrs"] {
        let mut role = role.clone();
        for rule in role["rules"].as_array_mut().unwrap() {
            let resources = rule["resources"].as_array_mut().unwrap();
            resources.retain(|resource| resource != missing);
            if resources.is_empty() {
                *resources = vec!["nodes".into()];
            }
        }
        admin.apply(&role).unwrap();
        let mut bridge = start_as_account(&lab);
        eventually(Duration::from_secs(20), missing, || {
            let told = bridge.log();
            told.lines()
                .any(|line| line.contains("403") && line.contains(missing))
                || bridge
                    .status()
                    .is_ok_and(|status| status["problems"].to_string().contains(missing))
        });
        // Pods need none of these rights.
        bridge.await_ready().unwrap();
        let pod = lab.at("echo-1", port::ECHO);
        lab.office_pc().tcp_echo(pod, b"a pod").unwrap();
        assert!(has_flow_to(&bridge, pod));
        if missing != "servicecidrs" {
            leaves_services_to_kube_proxy(&lab, &bridge, missing);
        }
        bridge.stop().unwrap();
        bridge.uninstall().unwrap();
    }
}

#[test]
fn a_cluster_without_endpoint_slices_has_its_pods_bridged_and_its_services_when_it_has_them() {
    let mut lab = router().open();
    lab.api_mut()
        .restart_without(&["discovery.k8s.io/v1"])
        .unwrap();
    let bridge = lab.start_bridge(&[]).unwrap();
    leaves_services_to_kube_proxy(&lab, &bridge, "discovery.k8s.io/v1");
    let pod = lab.at("echo-1", port::ECHO);
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"by kube-proxy").unwrap();
    lab.office_pc().tcp_echo(pod, b"a pod").unwrap();
    assert!(has_flow_to(&bridge, pod));

    // Upgraded.
    lab.api_mut().restart_without(&[]).unwrap();
    eventually(Duration::from_secs(45), "services are known", || {
        bridge.status().unwrap()["problems"] == serde_json::json!([])
    });
    let services = bridge.client().json(&["services"]).unwrap();
    assert!(!services.as_array().unwrap().is_empty(), "{services}");
    exchange(&mut session, b"by kube-proxy still").unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"by us").unwrap();
    assert!(has_flow_to(&bridge, ECHO_SERVICE));

    // And once they are known they stay, whatever the API server has forgotten.
    lab.api_mut()
        .restart_without(&["discovery.k8s.io/v1"])
        .unwrap();
    eventually(
        Duration::from_secs(45),
        "it is told that they are gone",
        || {
            let status = bridge.status().unwrap();
            let error = status["cluster_state"]["last_error"].as_str();
            error.is_some_and(|error| error.contains("EndpointSlice"))
        },
    );
    assert_eq!(bridge.client().json(&["services"]).unwrap(), services);
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"by us").unwrap();
}

/// What the bridge does for services that it can't know: nothing, which it tells, and kube-proxy goes on.
#[track_caller]
fn leaves_services_to_kube_proxy(lab: &Lab, bridge: &Bridge, why: &str) {
    let status = bridge.status().unwrap();
    assert_eq!(status["ready"], true, "{status}");
    let problems = status["problems"].to_string();
    assert!(
        problems.contains(why) && problems.contains("kube-proxy"),
        "{problems}"
    );
    assert_eq!(
        bridge.client().json(&["services"]).unwrap(),
        serde_json::json!([])
    );
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"by kube-proxy")
        .unwrap();
    assert!(!has_flow_to(bridge, ECHO_SERVICE));
}

fn has_event(bridge: &Bridge, words: &[&str]) -> bool {
    let status = bridge.status().unwrap();
    let events = status["events"].as_array().cloned().unwrap_or_default();
    events.iter().any(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        words.iter().all(|word| message.contains(word))
    })
}

fn source_of(bridge: &Bridge, cidr: &str) -> Option<String> {
    let status = bridge.status().unwrap();
    let cidrs = status["cidrs"].as_array().cloned().unwrap_or_default();
    cidrs
        .iter()
        .find(|entry| entry["cidr"] == cidr)
        .and_then(|entry| entry["source"].as_str().map(ToOwned::to_owned))
}

/// The roles and bindings of the manifests that are shipped.
fn shipped_rights() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/rbac.yaml");
    let text = fs::read_to_string(&path).unwrap();
    serde_saphyr::from_multiple::<Value>(&text).unwrap()
}

fn start_as_account(lab: &Lab) -> Bridge {
    let kubeconfig = lab
        .api()
        .account_kubeconfig("office-bridge", "office-bridge")
        .unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let arguments = with(&Bridge::default_arguments(lab), "--kubeconfig", &kubeconfig);
    Bridge::spawn(lab, &arguments).unwrap()
}

/// Whether the bridge itself has translated a flow to this destination, and not kube-proxy.
fn has_flow_to(bridge: &Bridge, destination: SocketAddrV4) -> bool {
    let flows = bridge.flows().unwrap();
    let destination = destination.to_string();
    flows
        .iter()
        .any(|flow| flow["destination"] == destination.as_str() && flow["layer"] == "tc")
}

/// A lab whose node forwards by itself what kube-proxy has translated.
fn router() -> LabOptions {
    LabOptions {
        firewall: Firewall::Open,
        ..LabOptions::default_variant().with_api_server()
    }
}
