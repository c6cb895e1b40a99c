//! The report, in Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::goals::{self, Bound};
use super::machine::Facts;
use super::plan::{
    Cell, Contestant, Direction, FLOWS, Key, NEW_SERVICE_FLOWS, Network, Packet, Scope, Target,
};
use super::plot::Plot;
use super::results::{Failures, Results, Summary};

/// The circumstances of the run.
pub struct Run<'a> {
    pub facts: &'a Facts,
    /// The measured commit.
    pub commit: &'a str,
    pub rounds: usize,
    /// The duration of the run.
    pub took: Duration,
    pub scope: &'a Scope,
    pub failures: &'a Failures,
    pub plots: &'a [Plot],
}

pub fn markdown(results: &Results, run: &Run<'_>) -> String {
    let mut text = String::new();
    let parts = [
        introduction(run),
        goals(results, run.scope),
        rates(results),
        flows(results, run.scope),
        services(results, run.scope),
        connections(results),
        programs(results),
        plots(run.plots),
        failures(run.failures),
    ];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let _ = writeln!(text, "{part}");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn introduction(run: &Run<'_>) -> String {
    let Facts {
        kernel,
        cpu,
        date,
        iptables,
    } = run.facts;
    format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`; how it measures: [development](../development.md#the-bench). Commit {}, Linux \
         {kernel}, {cpu}, {date}, {iptables}; {} rounds in {:.0} minutes.\n\n\
         All contestants take turns in one run, on one core of one machine. Absolute figures say something of that machine \
         only; ratios are what counts. A cell has the median of the rounds and, in brackets, the least and the greatest.\n",
        run.commit,
        run.rounds,
        (run.took.as_secs_f64() / 60.0).ceil(),
    )
}

fn goals(results: &Results, scope: &Scope) -> String {
    let mut text = String::from(
        "## What has to be reached\n\n| what | goal | reached | |\n|---|---|---|---|\n",
    );
    for goal in goals::judge(results, scope) {
        let bound = match goal.bound {
            Bound::AtLeast(least) => format!("≥ {}", goal.write(least)),
            Bound::AtMost(most) => format!("≤ {}", goal.write(most)),
            Bound::Shown => String::new(),
        };
        let reached = goal
            .reached
            .map_or_else(|| "not measured".into(), |reached| goal.write(reached));
        let verdict = match goal.is_met() {
            Some(true) => "held",
            Some(false) => "**missed**",
            None => "",
        };
        let what = &goal.what;
        let _ = writeln!(text, "| {what} | {bound} | {reached} | {verdict} |");
    }
    text
}

/// A median with its spread, divided by `unit`.
fn shown(summary: Option<Summary>, unit: f64, digits: usize) -> String {
    summary.map_or_else(String::new, |Summary { median, min, max }| {
        format!(
            "{:.digits$} ({:.digits$}-{:.digits$})",
            median / unit,
            min / unit,
            max / unit
        )
    })
}

/// A table with a row for each contestant that has a figure.
fn table(head: &[String], columns: usize, cell: impl Fn(Contestant, usize) -> String) -> String {
    let mut text = format!(
        "| |{}|\n|---|{}\n",
        head.join(" | "),
        "---|".repeat(head.len())
    );
    for contestant in Contestant::ALL {
        let cells: Vec<String> = (0..columns)
            .map(|column| cell(contestant, column))
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {} | {} |", contestant.title(), cells.join(" | "));
        }
    }
    text
}

fn rates(results: &Results) -> String {
    let mut text = String::new();
    for network in Network::ALL {
        let cells = [
            (0, Cell::rate(Direction::Forward, Target::Pod, FLOWS)),
            (1, Cell::rate(Direction::Forward, Target::Service, FLOWS)),
            (0, Cell::rate(Direction::Reply, Target::Pod, FLOWS)),
            (1, Cell::rate(Direction::Reply, Target::Service, FLOWS)),
        ];
        let ceiling = Key::new(Network::HostGw, Contestant::Ceiling, 0, cells[0].1);
        let ceiling = results.median(ceiling);
        let head = [
            "to pods",
            "to services",
            "from pods",
            "from services",
            "of iptables",
            "ns in the node",
        ]
        .map(str::to_owned);
        let body = table(&head, head.len(), |contestant, column| {
            let to_pods = results.median(Key::new(network, contestant, 0, cells[0].1));
            match column {
                4 => {
                    let iptables = Key::new(network, Contestant::Iptables, 0, cells[0].1);
                    let ratio = to_pods.zip(results.median(iptables));
                    ratio.map_or_else(String::new, |(own, other)| format!("{:.2} x", own / other))
                }
                5 => {
                    let cost = to_pods.zip(ceiling);
                    cost.map_or_else(String::new, |(own, all)| {
                        format!("{:.0}", 1e9 / own - 1e9 / all)
                    })
                }
                _ => {
                    let (services, cell) = cells[column];
                    shown(
                        results.get(Key::new(network, contestant, services, cell)),
                        1e6,
                        2,
                    )
                }
            }
        });
        let _ = writeln!(
            text,
            "## Packets a second, {network}\n\n\
             Million 64-octet UDP packets delivered a second, {FLOWS} flows. The last columns are about the first one; what the \
             generator alone takes is not in the nanoseconds.\n\n{body}"
        );
    }
    text
}

fn flows(results: &Results, scope: &Scope) -> String {
    let mut text = String::from(
        "## Against flows\n\nMillion packets a second to pods; new flows: each packet opens one.\n\n",
    );
    for network in Network::ALL {
        let mut head: Vec<String> = scope
            .flows
            .iter()
            .map(|flows| {
                if *flows == 1 {
                    "1 flow".into()
                } else {
                    format!("{flows} flows")
                }
            })
            .collect();
        head.push("new flows".into());
        let body = table(&head, head.len(), |contestant, column| {
            let cell = scope.flows.get(column).map_or(
                Cell::NewFlows {
                    target: Target::Pod,
                    flows: scope.new_flows,
                },
                |&flows| Cell::rate(Direction::Forward, Target::Pod, flows),
            );
            shown(results.get(Key::new(network, contestant, 0, cell)), 1e6, 2)
        });
        let _ = writeln!(text, "{network}:\n\n{body}");
    }
    text
}

fn services(results: &Results, scope: &Scope) -> String {
    let head: Vec<String> = ["flows", "new flows"]
        .into_iter()
        .flat_map(|what| {
            let counts = scope.services.iter();
            counts.map(move |count| format!("{what}, {count} services"))
        })
        .collect();
    let body = table(&head, head.len(), |contestant, column| {
        let count = scope.services.len();
        let cell = if column < count {
            Cell::rate(Direction::Forward, Target::Service, FLOWS)
        } else {
            Cell::NewFlows {
                target: Target::Service,
                flows: NEW_SERVICE_FLOWS,
            }
        };
        let services = scope.services[column % count];
        shown(
            results.get(Key::new(Network::Vxlan, contestant, services, cell)),
            1e3,
            0,
        )
    });
    format!(
        "## Against services\n\nThousand packets a second to services over VXLAN, one backend each; {FLOWS} flows spread over the \
         services.\n\n{body}"
    )
}

fn connections(results: &Results) -> String {
    let mut text = String::from(
        "## Connections\n\nTCP between sockets, GSO and GRO on; for the XDP path the hosts compute checksums themselves, as a veth's \
         packets have none yet otherwise. Bulk in Gbit/s, one connection.\n\n",
    );
    for network in Network::ALL {
        let columns = [
            ("bulk to a pod", Cell::Bulk(Direction::Forward), 1e9, 1),
            ("bulk from a pod", Cell::Bulk(Direction::Reply), 1e9, 1),
            ("request and response, µs", Cell::Response, 1.0, 1),
            ("connections/s", Cell::Connects, 1.0, 0),
        ];
        let head = columns.map(|column| column.0.to_owned());
        let body = table(&head, head.len(), |contestant, column| {
            let (_, cell, unit, digits) = columns[column];
            shown(
                results.get(Key::new(network, contestant, 0, cell)),
                unit,
                digits,
            )
        });
        let _ = writeln!(text, "{network}:\n\n{body}");
    }
    text
}

fn programs(results: &Results) -> String {
    let mut text = String::from(
        "## The programs alone\n\nNanoseconds for one packet, run by the kernel over and over (`BPF_PROG_TEST_RUN`), over what a \
         program takes that passes all; in that is writing the packet, too. Redirecting itself, and at TC the way to the program, \
         is not in it.\n\n",
    );
    for network in Network::ALL {
        let packets = [
            ("not ours", Packet::NotOurs),
            ("to a pod", Packet::ToPod),
            ("to a service", Packet::ToService),
            ("from a pod", Packet::FromPod),
        ];
        let head = packets.map(|packet| packet.0.to_owned());
        let body = table(&head, head.len(), |contestant, column| {
            let at = |packet| Key::new(network, contestant, 1, Cell::Program(packet));
            let cost = results.get(at(packets[column].1));
            let cost = cost.zip(results.median(at(Packet::Baseline)));
            let over = cost.map(|(cost, baseline)| Summary {
                median: cost.median - baseline,
                min: cost.min - baseline,
                max: cost.max - baseline,
            });
            shown(over, 1.0, 0)
        });
        let _ = writeln!(text, "{network}:\n\n{body}");
    }
    text
}

fn plots(plots: &[Plot]) -> String {
    let mut text = String::from("## Plots\n\n");
    for Plot { file, title } in plots {
        let _ = writeln!(text, "![{title}]({file})\n");
    }
    text
}

fn failures(failures: &Failures) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let mut text = String::from("## Not measured\n\n");
    for (session, error) in failures {
        let first = error.lines().next().unwrap_or_default();
        let _ = writeln!(text, "* {session}: {first}");
    }
    text
}
