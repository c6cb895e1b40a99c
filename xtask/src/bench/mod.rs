//! `cargo xtask bench`: office-bridge, what it replaces, and the limits of the machine.
//!
//! All contestants are measured in every round, so that other load on the machine affects each of them. The modules, in
//! the order of a run:
//!
//! * [`plan`] says what is measured, [`machine`] on which machine;
//! * [`topology`] builds three namespaces, [`forwarder`] sets a contestant up in the middle one: netfilter's rules, or
//!   [`bridge`] with the services of [`cluster`];
//! * [`traffic`] sends and counts packets, [`program_timer`] measures programs; both use the programs and the tables'
//!   [`layout`] of `bridge-ebpf/src/traffic`; [`workload`] says which packets;
//! * [`packets`], [`sockets`] and [`cost`] measure;
//! * [`results`] keeps the figures, [`goals`] judges them, [`report`] and [`plot`] show them.

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
mod goals;
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
mod program_timer;
mod report;
mod results;
mod sockets;
mod topology;
mod traffic;
mod workload;

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
use self::machine::{ConntrackLimit, Facts};
use self::packets::Range;
use self::plan::{Cell, Contestant, Key, Scope, Session};
use self::results::{Failures, Results};
use self::sockets::Sockets;
use self::topology::Topology;
use self::workload::Setup;

/// The command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Measure what fits three minutes.
    pub quick: bool,
    /// Names of contestants; empty for all.
    pub only: Vec<String>,
    /// Number of rounds.
    pub rounds: Option<usize>,
    /// The report's directory.
    pub output: Option<PathBuf>,
    /// `results.json` of an older run to compare with.
    pub compare: Option<PathBuf>,
}

/// The extent of a run.
struct Parameters {
    scope: Scope,
    rounds: usize,
    window: Duration,
    bulk: u64,
}

impl Parameters {
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

/// Measures, and writes the report.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let contestants = contestants(&options.only)?;
    host::ready()?;
    host::install("the bench", &missing(BENCH_TOOLS, find))?;
    let programs = programs(workspace)?;
    let parameters = Parameters::of(options);
    let interrupted = Interrupt::expect()?.watch()?;
    machine::raise_priority()?;
    let started = Instant::now();
    let (results, failures) = {
        let _limit = ConntrackLimit::make()?;
        measure(&parameters, &contestants, &programs, interrupted)?
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
    let plots = plot::draw(&results, &parameters.scope, &output)?;
    let run = report::Run {
        facts: &facts,
        commit: &commit,
        rounds: parameters.rounds,
        took: started.elapsed(),
        scope: &parameters.scope,
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

/// Builds office-bridge, unless `$OFFICE_BRIDGE_BIN` names one, and the traffic programs.
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
    parameters: &Parameters,
    contestants: &[Contestant],
    programs: &Programs,
    interrupted: &AtomicBool,
) -> Result<(Results, Failures)> {
    let sessions = parameters.scope.sessions(contestants);
    let mut results = Results::default();
    let mut failures = Failures::new();
    for round in 0..parameters.rounds {
        step(&format!("Round {} of {}", round + 1, parameters.rounds));
        // Each round begins with another session, so that none is always first or always after the same one.
        let turn = round * sessions.len() / parameters.rounds;
        for session in sessions[turn..].iter().chain(&sessions[..turn]) {
            let name = session.name();
            if failures.contains_key(&name) {
                continue;
            }
            let begun = Instant::now();
            let outcome = measure_session(session, parameters, programs, interrupted, &mut results);
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

/// Sets the contestant up, measures, and removes everything.
fn measure_session(
    session: &Session,
    parameters: &Parameters,
    programs: &Programs,
    interrupted: &AtomicBool,
    results: &mut Results,
) -> Result<()> {
    let cluster = cluster::with_services(session.services)?;
    let topology = Topology::open(session.network, &cluster.nodes)?;
    let (contestant, capacity) = (session.contestant, session.flow_capacity());
    let mut forwarder = forwarder::set_up(contestant, programs, &topology, &cluster, capacity)?;
    let setup = Setup {
        topology: &topology,
        nodes: &cluster.nodes,
        services: session.services,
        translates: session.contestant.translates(),
    };
    let nat = setup.nat();
    let mut bench = if session.cells.iter().any(|cell| cell.needs_sockets()) {
        Bench::Sockets(Sockets::open(
            &topology,
            session.contestant,
            parameters.bulk,
        )?)
    } else {
        Bench::Packets(Range::new(setup, &programs.traffic, parameters.window)?)
    };
    machine::wait_until_idle();
    for &cell in &session.cells {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let before = in_xdp(session, cell, &forwarder)?;
        let value = bench
            .measure(cell, session, &mut forwarder, programs)
            .with_context(|| cell.to_string())?;
        if let Some(((all, xdp), (all_before, xdp_before))) =
            in_xdp(session, cell, &forwarder)?.zip(before)
        {
            let (all, xdp) = (all - all_before, xdp - xdp_before);
            ensure!(
                xdp * 2 > all,
                "{cell}: of {all} packets that office-bridge has forwarded, XDP has only {xdp}"
            );
        }
        results.add(session.key(cell), value);
    }
    if let Bench::Sockets(sockets) = &bench
        && session.contestant.translates()
    {
        sockets.check_source(nat)?;
    }
    drop(bench);
    drop(forwarder);
    drop(topology);
    machine::wait_until_idle();
    Ok(())
}

/// Packets that the bridge has forwarded, in total and in XDP, if all packets of this cell have to be forwarded in XDP.
fn in_xdp(session: &Session, cell: Cell, forwarder: &Forwarder) -> Result<Option<(u64, u64)>> {
    match (session.contestant, cell, forwarder) {
        (Contestant::Xdp, Cell::Rate { .. }, Forwarder::Bridge(bridge)) => {
            bridge.forwarded().map(Some)
        }
        _ => Ok(None),
    }
}

/// The two ends of a contestant: packet generators and sinks, or hosts with sockets.
enum Bench<'a> {
    Packets(Range<'a>),
    Sockets(Sockets),
}

impl Bench<'_> {
    fn measure(
        &mut self,
        cell: Cell,
        session: &Session,
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
                cost::nanoseconds(range, object, bridge, session.contestant, packet)
            }
            (_, Cell::FlowMemory, Forwarder::Bridge(bridge)) => bridge.flow_memory(),
            (_, Cell::FlowMemory, _) => machine::conntrack_entry_size().map(f64::from),
            (Self::Sockets(sockets), Cell::Bulk(direction), _) => sockets.bulk(direction),
            (Self::Sockets(sockets), Cell::Response, _) => sockets.response(),
            (Self::Sockets(sockets), Cell::Connects, _) => sockets.connects(),
            _ => bail!("{} has no {cell}", session.contestant),
        }
    }
}

impl Session {
    /// A name that no other session of a round has.
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
