//! What the developer reaches: pods and services, by address and by name.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};

use super::step::Step;
use crate::bridge::Bridge;
use crate::hosts::host::Host;
use crate::lab::Lab;
use crate::plan::port;

pub(super) fn steps(lab: &Lab, bridge: &Bridge) -> Vec<Step> {
    let pc = lab.office_pc();
    let pod = lab.pod("echo-1").address();
    let web = lab.at("web-0", port::HTTP);
    let name = "mysql.project-a-dev1.svc.cluster.local";
    let dns = lab.options().dns.listen();
    vec![
        Step::take("what it knows (office-bridge status)", || knowledge(bridge)),
        Step::take(format!("ping a pod ({pod}, on worker-1)"), || {
            let ping = pc.ping_with(pod, &["-c", "3", "-i", "0.2", "-W", "2"])?;
            ensure!(ping.complete(), "{}", ping.text.trim());
            let times = ping.text.lines().rev().find(|line| line.starts_with("rtt"));
            Ok(times.unwrap_or("answered").to_owned())
        }),
        Step::take(
            format!("HTTP to a pod (http://{web}/, on worker-2)"),
            || {
                let response = pc.http_get(web, "/")?;
                ensure!(response.status == 200, "HTTP {}", response.status);
                Ok(format!("HTTP 200: {}", response.body.trim()))
            },
        ),
        Step::take(format!("resolve {name} (office DNS {dns})"), || {
            Ok(pc.resolve(dns, name)?.to_string())
        }),
        Step::take(format!("a MySQL session to {name}"), || {
            let address = pc.resolve(dns, name)?;
            let mut session = pc.mysql(SocketAddrV4::new(address, port::MYSQL))?;
            let answer = session.query("SELECT 42")?;
            ensure!(answer == "42", "SELECT 42 gives {answer:?}");
            Ok(format!(
                "MySQL {}, SELECT 42 gives {answer}",
                session.version
            ))
        }),
        Step::take(format!("traceroute to a pod ({pod})"), || {
            trace(pc, pod, &[])
        }),
    ]
}

/// Where office-bridge learns of the cluster, and how much it has learned.
fn knowledge(bridge: &Bridge) -> Result<String> {
    let status = bridge.status()?;
    let source = status["cluster"].as_str().context("no cluster source")?;
    let services = status["services"].as_u64().context("no services")?;
    ensure!(services > 0, "{source} has no services");
    let networks = status["cidrs"].as_array().map_or(0, Vec::len);
    Ok(format!(
        "from {source}: {services} service ports, {networks} networks"
    ))
}

/// The way from a host to a pod, which must end there.
fn trace(from: &Host, pod: Ipv4Addr, arguments: &[&str]) -> Result<String> {
    let hops = from.traceroute(pod, arguments)?;
    let shown: Vec<String> = hops
        .iter()
        .map(|hop| hop.map_or_else(|| "*".to_owned(), |address| address.to_string()))
        .collect();
    let shown = shown.join(" > ");
    ensure!(hops.last() == Some(&Some(pod)), "ends at {shown}");
    Ok(shown)
}
