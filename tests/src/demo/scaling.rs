//! A service that is scaled while the developer uses it.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::step::Step;
use crate::bridge::Bridge;
use crate::cluster::{PROJECT, Protocol};
use crate::lab::Lab;
use crate::plan::{self, port};

const SERVICE: &str = "echo";
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(plan::ECHO, port::ECHO);
const ONE: &[&str] = &["echo-1"];
/// In the order of their names.
const ALL: &[&str] = &["echo-0", "echo-1", "echo-2"];

/// A change is in the kernel after some ten milliseconds; a busy machine gets more.
const SOON: Duration = Duration::from_secs(5);

const LEAST_CONNECTIONS: usize = 4;
/// Each of three pods is as likely as the others: that one of them gets none of so many connections
/// happens once in 200 million demonstrations.
const MOST_CONNECTIONS: usize = 50;

pub(super) fn steps(lab: &mut Lab, bridge: &Bridge) -> Vec<Step> {
    [ONE, ALL]
        .into_iter()
        .flat_map(|pods| {
            let what = format!(
                "kubectl -n {PROJECT} scale deployment {SERVICE} --replicas={}",
                pods.len()
            );
            let scaled = Step::take(what, || scale(lab, bridge, pods));
            let what = format!("new connections to {SERVICE}.{PROJECT} ({ADDRESS})");
            let used = Step::take(what, || connect(lab, pods));
            [scaled, used]
        })
        .collect()
}

/// There is no controller in the lab: what it would write is written here.
fn scale(lab: &mut Lab, bridge: &Bridge, pods: &[&str]) -> Result<String> {
    lab.cluster_mut().service_mut(SERVICE).scale_to(pods);
    lab.publish()?;
    let published = Instant::now();
    let mut wanted: Vec<String> = pods
        .iter()
        .map(|pod| lab.at(pod, port::ECHO).to_string())
        .collect();
    wanted.sort();
    loop {
        let backends = backends(bridge)?;
        if backends == wanted {
            break;
        }
        ensure!(
            published.elapsed() < SOON,
            "after {SOON:?} the backends are {}, not {}",
            backends.join(" "),
            wanted.join(" ")
        );
        thread::sleep(Duration::from_millis(5));
    }
    let place = if lab.options().api_server {
        "to the API server"
    } else {
        "into the manifests"
    };
    let delay = published.elapsed().as_millis();
    Ok(format!(
        "EndpointSlice written {place}; in the kernel after {delay} ms"
    ))
}

/// Where new connections to the service go, by `office-bridge services`.
fn backends(bridge: &Bridge) -> Result<Vec<String>> {
    let services = bridge.client().json(&["services"])?;
    let vip = ADDRESS.to_string();
    let service = services
        .as_array()
        .into_iter()
        .flatten()
        .find(|service| service["protocol"] == "tcp" && service["vip"] == vip.as_str())
        .with_context(|| format!("office-bridge services has no {vip}"))?;
    let mut backends: Vec<String> = service["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    backends.sort();
    Ok(backends)
}

/// Connects until each of these pods has answered, and tells how often each did.
fn connect(lab: &Lab, pods: &[&str]) -> Result<String> {
    let before = visits(lab);
    let mut answered = BTreeMap::new();
    for count in 1..=MOST_CONNECTIONS {
        lab.office_pc().tcp_echo(ADDRESS, b"which pod?")?;
        answered = visits(lab);
        for (pod, visits) in &mut answered {
            *visits -= before[pod];
        }
        answered.retain(|_, visits| *visits > 0);
        if count >= LEAST_CONNECTIONS && answered.len() >= pods.len() {
            break;
        }
    }
    let shown: Vec<String> = answered
        .iter()
        .map(|(pod, visits)| format!("{pod} {visits}"))
        .collect();
    let shown = format!("answered by {}", shown.join(", "));
    ensure!(answered.keys().eq(pods), "{shown}, not by {pods:?}");
    Ok(shown)
}

/// How many connections each pod has had, as the pods themselves count.
fn visits(lab: &Lab) -> BTreeMap<&'static str, usize> {
    ALL.iter()
        .map(|&pod| (pod, lab.pod(pod).peers(Protocol::Tcp, port::ECHO).len()))
        .collect()
}
