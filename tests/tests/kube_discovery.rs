//! What the bridge discovers through the API server: the cluster's networks, and which rights (RBAC) that takes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lab::bridge::arguments::with;
use lab::plan::{self, port};
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
    assert!(has_event(&bridge, &["pod CIDR", wider, "new"]));
    assert!(has_event(&bridge, &["pod CIDR", plan::POD_CIDR, "gone"]));
    let pod = lab.at("echo-1", port::ECHO);
    lab.office_pc().tcp_echo(pod, b"still reached").unwrap();
}

#[test]
fn the_shipped_rights_suffice_and_a_missing_one_is_named() {
    let lab = LabOptions::default_variant().with_api_server().open();
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
    let vip = std::net::SocketAddrV4::new(vip, port::ECHO);
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
        bridge.stop().unwrap();
    }
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
