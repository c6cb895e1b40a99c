//! What the TC path leaves to other layers, and the table of all flows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};

use super::step::Step;
use crate::bridge::Bridge;
use crate::hosts::host::Host;
use crate::lab::Lab;
use crate::plan::port;
use crate::serve::http::{self, Response};
use crate::traffic::portless::{self, PROTOCOL};

pub(super) fn steps(lab: &Lab, bridge: &Bridge) -> Vec<Step> {
    // A pod on node-30: what other nodes' pods open takes another way to the office, and what the kernel forwards to
    // them is masqueraded by flannel.
    let pod = lab.pod("echo-0");
    let address = pod.address();
    let pc = lab.office_pc();
    let laptop = SocketAddrV4::new(pc.address(), port::HTTP);
    vec![
        Step::take(
            format!("HTTP from a pod ({address}, on node-30) to http://{laptop}/"),
            || {
                let greet = |_, peer| Response::ok(format!("office-pc greets {peer}"));
                pc.serve_tcp(laptop.port(), http::handler(greet))?;
                let response = pod.http_get(laptop, "/")?;
                ensure!(response.status == 200, "HTTP {}", response.status);
                let layer = layer(bridge, laptop, address)?;
                Ok(format!("HTTP 200: {}; layer {layer}", response.body))
            },
        ),
        Step::take(
            format!("let node-30 forward IP protocol {PROTOCOL} to that pod"),
            || allow(lab.node_30(), pod),
        ),
        Step::take(
            format!("a packet of IP protocol {PROTOCOL}, without ports, and back"),
            || {
                portless::exchange(pc, pod, b"neither TCP nor UDP")?;
                let client = SocketAddrV4::new(pc.address(), 0);
                let layer = layer(bridge, client, address)?;
                Ok(format!("answered; layer {layer}"))
            },
        ),
        Step::take("the flow table (office-bridge flows list)", || {
            census(bridge)
        }),
    ]
}

/// In the lab node-30 forwards nothing for the office by itself.
fn allow(node: &Host, pod: &Host) -> Result<String> {
    let rule = format!("-I FORWARD -p {PROTOCOL} -d {} -j ACCEPT", pod.address());
    let arguments: Vec<_> = rule.split(' ').collect();
    node.run("iptables", &arguments)?;
    Ok(format!("iptables {rule}"))
}

/// The layer of the flow between this client and this pod.
fn layer(bridge: &Bridge, client: SocketAddrV4, pod: Ipv4Addr) -> Result<String> {
    let client = client.to_string();
    let pod = format!("{pod}:");
    let flows = bridge.flows()?;
    let flow = flows
        .iter()
        .filter(|flow| flow["client"] == client.as_str())
        .find(|flow| {
            let backend = flow["backend"].as_str();
            backend.is_some_and(|backend| backend.starts_with(&pod))
        })
        .with_context(|| format!("no flow from {client} to {pod}"))?;
    let layer = flow["layer"].as_str().context("a flow has no layer")?;
    Ok(layer.to_owned())
}

/// How many flows each layer has.
fn census(bridge: &Bridge) -> Result<String> {
    let flows = bridge.flows()?;
    ensure!(!flows.is_empty(), "no flows");
    let mut layers = BTreeMap::<&str, usize>::new();
    for flow in &flows {
        let layer = flow["layer"].as_str().context("a flow has no layer")?;
        *layers.entry(layer).or_default() += 1;
    }
    let shown: Vec<String> = layers
        .iter()
        .rev()
        .map(|(layer, count)| format!("{layer} {count}"))
        .collect();
    Ok(format!("{} flows: {}", flows.len(), shown.join(", ")))
}
