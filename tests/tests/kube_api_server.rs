//! The API server of the lab, without a bridge.

use std::time::Duration;

use lab::LabOptions;
use serde_json::json;

const ECHO: &str = "/apis/discovery.k8s.io/v1/namespaces/project-a-dev1/endpointslices/echo-x7k2p";

#[test]
fn the_api_server_serves_the_labs_cluster_also_after_it_was_killed() {
    let mut lab = LabOptions::default_variant().with_api_server().open();
    let admin = lab.api().admin();
    let slice = admin.get(ECHO).unwrap();
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(3));
    let node = admin.get("/api/v1/nodes/node-30").unwrap();
    assert_eq!(node["spec"]["podCIDRs"], json!(["10.244.30.0/24"]));

    let service = lab.cluster_mut().service_mut("echo");
    service.scale_to(&["echo-1", "echo-2"]);
    service.endpoint_mut("echo-1").terminating = true;
    service.session_affinity = Some(Duration::from_mins(1));
    lab.publish().unwrap();
    let admin = lab.api().admin();
    let slice = admin.get(ECHO).unwrap();
    assert_eq!(
        slice["endpoints"][0]["conditions"],
        json!({"ready": false, "serving": true, "terminating": true})
    );
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(2));
    let service = admin
        .get("/api/v1/namespaces/project-a-dev1/services/echo")
        .unwrap();
    assert_eq!(service["spec"]["sessionAffinity"], "ClientIP");

    lab.api_mut().kill().unwrap();
    assert!(lab.api().admin().get(ECHO).is_err());
    lab.api_mut().restart().unwrap();
    assert_eq!(lab.api().admin().get(ECHO).unwrap(), slice);

    lab.cluster_mut()
        .services
        .retain(|service| service.name != "echo");
    lab.publish().unwrap();
    let gone = lab.api().admin().get(ECHO).unwrap_err();
    assert!(format!("{gone:#}").contains("not found"), "{gone:#}");
}
