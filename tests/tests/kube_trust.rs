//! Which API servers are trusted: those that kubectl trusts.

use std::path::Path;
use std::time::Duration;

use lab::bridge::arguments::with;
use lab::bridge::nothing_pinned;
use lab::plan::ECHO_SERVICE;
use lab::{Bridge, Lab, LabOptions, eventually};

/// Attempts come up to 10 s after each other.
const TOLD: Duration = Duration::from_secs(30);

#[test]
fn a_self_signed_api_server_is_trusted_by_its_own_certificate_alone() {
    let mut lab = LabOptions::default_variant().with_api_server().open();
    let first = lab.api_mut().restart_self_signed("first", false).unwrap();
    let mut bridge = Bridge::start(&lab, &arguments(&lab, &first)).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"trusted").unwrap();

    // The next one has the same names, and is not the one that was given.
    let second = lab.api_mut().restart_self_signed("second", false).unwrap();
    eventually(TOLD, "the other certificate is refused", || {
        tells(
            &bridge,
            "self-signed certificate that is not in the configured CA file",
        )
    });
    bridge.stop().unwrap();
    let mut bridge = Bridge::start(&lab, &arguments(&lab, &second)).unwrap();
    bridge.stop().unwrap();
    bridge.uninstall().unwrap();

    let expired = lab.api_mut().restart_self_signed("expired", true).unwrap();
    let mut bridge = Bridge::spawn(&lab, &arguments(&lab, &expired)).unwrap();
    eventually(TOLD, "the expired certificate is refused", || {
        tells(&bridge, "its certificate has expired (2020-12-31")
    });
    nothing_pinned(&lab);
    bridge.stop().unwrap();
}

fn arguments(lab: &Lab, kubeconfig: &Path) -> Vec<String> {
    let kubeconfig = kubeconfig.display().to_string();
    with(&Bridge::default_arguments(lab), "--kubeconfig", &kubeconfig)
}

/// In `status`, or without anything installed in the log.
fn tells(bridge: &Bridge, what: &str) -> bool {
    let Ok(status) = bridge.status() else {
        return bridge.log().contains(what);
    };
    let error = status["cluster_state"]["last_error"].as_str();
    error.is_some_and(|error| error.contains(what))
}
