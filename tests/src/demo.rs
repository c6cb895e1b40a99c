//! The office developer's day, step by step, with what came of each step.

use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::bridge::Bridge;
use crate::lab::Lab;
use crate::plan::{self, port};

/// One step and what came of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the developer does.
    pub what: String,
    /// What the developer sees: a short result, or the error's whole chain.
    pub result: Result<String, String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Step {
    fn take(what: impl Into<String>, work: impl FnOnce() -> Result<String>) -> Self {
        let started = Instant::now();
        let result = work().map_err(|error| format!("{error:#}"));
        Self {
            what: what.into(),
            result,
            elapsed: started.elapsed(),
        }
    }

    /// Whether it went well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.result.is_ok()
    }
}

/// Plays the developer on `office-pc`.
#[must_use]
pub fn play(lab: &Lab, bridge: &Bridge) -> Vec<Step> {
    let pc = lab.office_pc();
    let pod = lab.pod("echo-1").address();
    let web = SocketAddrV4::new(lab.pod("web-0").address(), port::HTTP);
    let name = "mysql.project-a-dev1.svc.cluster.local";
    let dns = lab.options().dns.listen();
    let mut steps = vec![
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
            let hops = pc.traceroute(pod, &[])?;
            let shown: Vec<String> = hops
                .iter()
                .map(|hop| hop.map_or_else(|| "*".to_owned(), |address| address.to_string()))
                .collect();
            ensure!(
                hops.last() == Some(&Some(pod)),
                "ends at {}",
                shown.join(" > ")
            );
            Ok(shown.join(" > "))
        }),
    ];
    steps.push(Step::take(
        "the flow table (office-bridge flows list)",
        || {
            let flows = bridge.flows()?;
            ensure!(!flows.is_empty(), "it is empty");
            Ok(format!("{} flows", flows.len()))
        },
    ));
    steps
}

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
