//! What a person reads: tables for a terminal, addresses, and commands to paste.

use std::fmt::Write as _;

use serde_json::Value;

use super::step::Step;
use crate::bridge::Bridge;
use crate::lab::Lab;
use crate::plan;

/// The steps as a table for a terminal.
#[must_use]
pub fn table(steps: &[Step]) -> String {
    let rows: Vec<[String; 4]> = steps
        .iter()
        .map(|step| {
            let (mark, result) = match &step.result {
                Ok(result) => ("ok", result),
                Err(error) => ("FAILED", error),
            };
            let time = format!("{:.1} ms", step.elapsed.as_secs_f64() * 1000.0);
            [
                step.what.clone(),
                mark.to_owned(),
                result.replace('\n', " "),
                time,
            ]
        })
        .collect();
    columns(&["step", "", "result", "time"], &rows)
}

/// The flow table as `flows list -o json` gives it, in columns.
#[must_use]
pub fn flow_table(flows: &[Value]) -> String {
    let names = [
        "protocol",
        "client",
        "destination",
        "backend",
        "nat",
        "state",
        "packets",
        "layer",
    ];
    let rows: Vec<[String; 8]> = flows
        .iter()
        .map(|flow| {
            names.map(|name| match &flow[name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        })
        .collect();
    columns(&names, &rows)
}

fn columns<const N: usize>(head: &[&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut shown = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            write!(shown, "{cell:<width$}  ").expect("a String takes every write");
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    };
    line(*head);
    let rules = widths.map(|width| "-".repeat(width));
    line(std::array::from_fn(|index| rules[index].as_str()));
    for row in rows {
        line(std::array::from_fn(|index| row[index].as_str()));
    }
    text
}

/// How to look at the bridge's tables from another terminal.
#[must_use]
pub fn how_to_look(lab: &Lab, bridge: &Bridge) -> String {
    let enter = enter(lab, "node-30");
    let mut text = format!("Programs on node-30:\n  {enter} bpftool link show\n");
    for name in ["flows", "replies", "services"] {
        if let Ok(path) = bridge.client().table(name) {
            writeln!(text, "  bpftool map dump pinned {}", path.display())
                .expect("a String takes every write");
        }
    }
    text
}

/// How to look at the cluster from another terminal, and to change it; empty without an API server.
#[must_use]
pub fn how_to_ask(lab: &Lab) -> String {
    if !lab.options().api_server {
        return String::new();
    }
    format!(
        "The API server:\n  {} kubectl --kubeconfig={} get services,endpointslices -A\n",
        enter(lab, "node-30"),
        lab.api().admin_kubeconfig().display()
    )
}

/// How to get a shell on the office developer's machine.
#[must_use]
pub fn how_to_enter(lab: &Lab) -> String {
    format!(
        "A shell on office-pc:\n  {} bash\n",
        enter(lab, "office-pc")
    )
}

fn enter(lab: &Lab, host: &str) -> String {
    format!(
        "nsenter --net={}",
        lab.host(host).namespace().path().display()
    )
}

/// The addresses that a person in the lab wants to know.
#[must_use]
pub fn addresses(lab: &Lab) -> String {
    let rows: Vec<[String; 3]> = lab
        .hosts()
        .iter()
        .map(|host| {
            let name = host.name().to_owned();
            [
                name,
                host.address().to_string(),
                host.namespace().name().to_owned(),
            ]
        })
        .chain(lab.cluster().services.iter().map(|service| {
            let ports: Vec<String> = service
                .ports
                .iter()
                .map(|port| format!("{}/{}", port.port, port.protocol.lower()))
                .collect();
            [
                service.dns_name(),
                service.vip.to_string(),
                format!("service {}", ports.join(" ")),
            ]
        }))
        .chain([[
            "office DNS".to_owned(),
            lab.options().dns.listen().to_string(),
            {
                format!(
                    "server=/{}/{}",
                    plan::CLUSTER_DOMAIN,
                    lab.options().dns.server()
                )
            },
        ]])
        .collect();
    columns(&["host", "address", "network namespace"], &rows)
}
