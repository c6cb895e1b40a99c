//! `cargo xtask bench`: office-bridge beside what it replaces, and beside what the machine can do.
//!
//! Contestants take turns, round after round, so that what else the machine does meets all of them. The map, in the order
//! in which a run uses it:
//!
//! * [`plan`] says what is measured, [`machine`] what on;
//! * [`topology`] builds three namespaces, [`forwarder`] sets a contestant up in the middle one: netfilter's rules, or
//!   [`bridge`] with the services of [`cluster`];
//! * [`traffic`] sends and counts packets, [`gauge`] takes a program's time, both with the programs of
//!   `bridge-ebpf/src/traffic`, whose tables' [`layout`] is theirs; [`stage`] says which packets;
//! * [`packets`], [`sockets`] and [`cost`] measure;
//! * [`results`] keeps the figures, [`bars`] judges them, [`report`] and [`plot`] show them.

mod bars;
mod bridge;
mod cluster;
mod cost;
#[cfg(test)]
#[path = "../../../bridge-ebpf/src/traffic/flows.rs"]
#[expect(
    clippy::inline_always,
    reason = "how the programs of the kernel need it"
)]
mod flows;
mod forwarder;
mod gauge;
#[path = "../../../bridge-ebpf/src/traffic/layout.rs"]
#[expect(
    clippy::inline_always,
    reason = "how the programs of the kernel need it"
)]
mod layout;
mod machine;
mod packets;
mod plan;
mod plot;
mod report;
mod results;
mod sockets;
mod stage;
mod topology;
mod traffic;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::Interrupt;
use crate::packages::{BENCH_TOOLS, missing};
use crate::process::{find, say, step};
use crate::workspace::Workspace;
use crate::{build, ebpf, host};

use self::forwarder::{Forwarder, Programs};
use self::machine::{ConntrackRoom, Facts};
use self::packets::Range;
use self::plan::{Cell, Contestant, Key, Scope, Visit};
use self::results::{Failures, Results};
use self::sockets::Sockets;
use self::stage::Stage;
use self::topology::Topology;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Three minutes, not the whole.
    pub quick: bool,
    /// Only contestants of these names; all if empty.
    pub only: Vec<String>,
    /// How many rounds.
    pub rounds: Option<usize>,
    /// Where the report goes.
    pub output: Option<PathBuf>,
    /// The JSON of an older run.
    pub compare: Option<PathBuf>,
}

/// How much of everything one run measures.
struct Effort {
    scope: Scope,
    rounds: usize,
    window: Duration,
    bulk: u64,
}

impl Effort {
    fn of(options: &Options) -> Self {
        if options.quick {
            Self {
                scope: Scope::QUICK,
                rounds: options.rounds.unwrap_or(2),
                window: Duration::from_millis(100),
                bulk: 64 << 20,
            }
        } else {
            Self {
                scope: Scope::FULL,
                rounds: options.rounds.unwrap_or(5),
                window: Duration::from_millis(400),
                bulk: 256 << 20,
            }
        }
    }
}

/// Measures and reports.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let contestants = contestants(&options.only)?;
    host::ready()?;
    host::install("the bench", &missing(BENCH_TOOLS, find))?;
    let programs = programs(workspace)?;
    let effort = Effort::of(options);
    let interrupted = Interrupt::expect()?.watch()?;
    machine::go_first()?;
    let started = Instant::now();
    let (results, failures) = {
        let _room = ConntrackRoom::make()?;
        measure(&effort, &contestants, &programs, interrupted)?
    };
    let facts = Facts::collect()?;
    let commit = workspace.commit().unwrap_or_else(|| "unknown".to_owned());
    let output = options.output.clone().unwrap_or_else(|| {
        if options.quick {
            workspace.target().join("bench")
        } else {
            workspace.root().join("docs/benchmarks")
        }
    });
    fs::create_dir_all(&output).with_context(|| format!("create {}", output.display()))?;
    let plots = plot::draw(&results, &effort.scope, &output)?;
    let run = report::Run {
        facts: &facts,
        commit: &commit,
        rounds: effort.rounds,
        took: started.elapsed(),
        scope: &effort.scope,
        failures: &failures,
        plots: &plots,
    };
    let text = report::markdown(&results, &run);
    let write = |name: &str, text: &str| {
        let path = output.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    write("README.md", &text)?;
    let json = serde_json::to_string_pretty(&results.to_json(&facts, &commit))?;
    write("results.json", &json)?;
    println!("{text}");
    if let Some(older) = &options.compare {
        println!("{}", results.compare(older)?);
    }
    say(&format!("the report is in {}", output.display()));
    ensure!(
        failures.is_empty(),
        "not everything could be measured; the report tells what"
    );
    Ok(())
}

/// Builds what is measured; `$OFFICE_BRIDGE_BIN` is taken instead, as the tests do.
fn programs(workspace: &Workspace) -> Result<Programs> {
    let bridge = if let Some(binary) = env::var_os("OFFICE_BRIDGE_BIN") {
        ebpf::build(workspace)?;
        binary.into()
    } else {
        build::run(workspace, true)?
    };
    Ok(Programs {
        bridge,
        traffic: workspace.traffic_object(),
    })
}

fn contestants(only: &[String]) -> Result<Vec<Contestant>> {
    if only.is_empty() {
        return Ok(Contestant::ALL.into());
    }
    only.iter()
        .map(|name| {
            let found = Contestant::ALL.into_iter().find(|one| one.name() == name);
            found.with_context(|| {
                let names = Contestant::ALL.map(Contestant::name).join(", ");
                format!("there is no contestant {name}; there are {names}")
            })
        })
        .collect()
}

fn measure(
    effort: &Effort,
    contestants: &[Contestant],
    programs: &Programs,
    interrupted: &AtomicBool,
) -> Result<(Results, Failures)> {
    let visits = effort.scope.visits(contestants);
    let mut results = Results::default();
    let mut failures = Failures::new();
    for round in 0..effort.rounds {
        step(&format!("Round {} of {}", round + 1, effort.rounds));
        // Nobody always comes first, or after the same one.
        let turn = round * visits.len() / effort.rounds;
        for visit in visits[turn..].iter().chain(&visits[..turn]) {
            let name = visit.name();
            if failures.contains_key(&name) {
                continue;
            }
            let begun = Instant::now();
            let outcome = pay(visit, effort, programs, interrupted, &mut results);
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            say(&format!("{name}: {:.1} s", begun.elapsed().as_secs_f64()));
            if let Err(error) = outcome {
                say(&format!("{name} failed: {error:#}"));
                failures.insert(name, format!("{error:#}"));
            }
        }
    }
    Ok((results, failures))
}

/// Pays a visit: sets the contestant up, measures, and removes everything.
fn pay(
    visit: &Visit,
    effort: &Effort,
    programs: &Programs,
    interrupted: &AtomicBool,
    results: &mut Results,
) -> Result<()> {
    let cluster = cluster::with_services(visit.services)?;
    let topology = Topology::open(visit.network, &cluster.nodes)?;
    let (contestant, capacity) = (visit.contestant, visit.flow_capacity());
    let mut forwarder = forwarder::set_up(contestant, programs, &topology, &cluster, capacity)?;
    let stage = Stage {
        topology: &topology,
        nodes: &cluster.nodes,
        services: visit.services,
        translates: visit.contestant.translates(),
    };
    let nat = stage.nat();
    let mut bench = if visit.cells.iter().any(|cell| cell.needs_sockets()) {
        Bench::Sockets(Sockets::open(&topology, visit.contestant, effort.bulk)?)
    } else {
        Bench::Packets(Range::new(stage, &programs.traffic, effort.window)?)
    };
    machine::settle();
    for &cell in &visit.cells {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let before = in_xdp(visit, cell, &forwarder)?;
        let value = bench
            .measure(cell, visit, &mut forwarder, programs)
            .with_context(|| cell.to_string())?;
        if let Some(((all, xdp), (all_before, xdp_before))) =
            in_xdp(visit, cell, &forwarder)?.zip(before)
        {
            let (all, xdp) = (all - all_before, xdp - xdp_before);
            ensure!(
                xdp * 2 > all,
                "{cell}: of {all} packets that office-bridge has forwarded, XDP has only {xdp}"
            );
        }
        results.add(visit.key(cell), value);
    }
    if let Bench::Sockets(sockets) = &bench
        && visit.contestant.translates()
    {
        sockets.check_source(nat)?;
    }
    drop(bench);
    drop(forwarder);
    drop(topology);
    machine::settle();
    Ok(())
}

/// What the XDP path's bridge has forwarded, where it has to forward in XDP: known flows.
fn in_xdp(visit: &Visit, cell: Cell, forwarder: &Forwarder) -> Result<Option<(u64, u64)>> {
    match (visit.contestant, cell, forwarder) {
        (Contestant::Xdp, Cell::Rate { .. }, Forwarder::Bridge(bridge)) => {
            bridge.forwarded().map(Some)
        }
        _ => Ok(None),
    }
}

/// What stands at the two ends of a contestant.
enum Bench<'a> {
    Packets(Range<'a>),
    Sockets(Sockets),
}

impl Bench<'_> {
    fn measure(
        &mut self,
        cell: Cell,
        visit: &Visit,
        forwarder: &mut Forwarder,
        programs: &Programs,
    ) -> Result<f64> {
        match (self, cell, forwarder) {
            (Self::Packets(range), Cell::Rate { flows, .. }, Forwarder::Ceiling(sink)) => {
                range.ceiling(sink, flows)
            }
            (
                Self::Packets(range),
                Cell::Rate {
                    direction,
                    target,
                    flows,
                },
                _,
            ) => range.rate(direction, target, flows),
            (Self::Packets(range), Cell::NewFlows { target, flows }, _) => {
                range.new_flows(target, flows)
            }
            (Self::Packets(range), Cell::Program(packet), Forwarder::Bridge(bridge)) => {
                let object = &programs.traffic;
                cost::nanoseconds(range, object, bridge, visit.contestant, packet)
            }
            (_, Cell::FlowMemory, Forwarder::Bridge(bridge)) => bridge.flow_memory(),
            (_, Cell::FlowMemory, _) => machine::conntrack_entry_size().map(f64::from),
            (Self::Sockets(sockets), Cell::Bulk(direction), _) => sockets.bulk(direction),
            (Self::Sockets(sockets), Cell::Response, _) => sockets.response(),
            (Self::Sockets(sockets), Cell::Connects, _) => sockets.connects(),
            _ => bail!("{} has no {cell}", visit.contestant),
        }
    }
}

impl Visit {
    /// What tells it from the others of a round.
    pub fn name(&self) -> String {
        let Self {
            network,
            contestant,
            services,
            cells,
        } = self;
        let what = match cells.iter().map(|cell| cell.flows()).max() {
            None | Some(0) => "connections".to_owned(),
            Some(flows) => format!("packets of up to {flows} flows"),
        };
        format!("{network} {contestant}, {services} services, {what}")
    }

    fn key(&self, cell: Cell) -> Key {
        Key {
            network: self.network,
            contestant: self.contestant,
            services: self.services,
            cell,
        }
    }
}
