//! `cargo xtask run`: office-bridge in the lab, or on this host.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use lab::demo::{self, Step};

use crate::lab::{Interrupt, open};
use crate::process::{command, is_root, say, step};
use crate::workspace::Workspace;
use crate::{build, host};

/// Plays the office developer in the lab; then `check` tells whether the lab stays.
pub fn in_lab(workspace: &Workspace, check: bool) -> Result<()> {
    host::ready()?;
    build::run(workspace, false)?;

    let interrupt = Interrupt::expect()?;
    let lab = open()?;
    step("Starting office-bridge on node-30");
    let bridge = lab.start_bridge(&[])?;
    step("Playing the office developer");
    let steps = demo::play(&lab, &bridge);
    let flows = bridge.flows().context("list the flows")?;

    println!(
        "\n{}\nThe flow table:\n{}",
        demo::table(&steps),
        demo::flow_table(&flows)
    );
    let passed = steps.iter().all(Step::passed);
    if !passed {
        println!("The log of office-bridge:\n{}", bridge.log());
    }
    if !check {
        println!(
            "{}\n{}",
            demo::addresses(&lab),
            demo::how_to_look(&lab, &bridge)
        );
        println!("{}", demo::how_to_enter(&lab));
        interrupt.wait()?;
    }
    step("Closing the lab");
    drop(bridge);
    drop(lab);
    ensure!(
        passed,
        "not every step succeeded; the table above tells which"
    );
    if check {
        say("every step succeeded");
    }
    Ok(())
}

/// Becomes `office-bridge run` with these arguments, on this host.
pub fn on_host(workspace: &Workspace, release: bool, arguments: &[OsString]) -> Result<()> {
    ensure!(
        is_root(),
        "office-bridge attaches eBPF programs and binds port 53, which needs root: {} run -- ...",
        host::AS_ROOT
    );
    let binary = build::run(workspace, release)?;
    step("Running office-bridge on this host");
    let error = command(&binary).arg("run").args(arguments).exec();
    bail!("cannot start {}: {error}", binary.display())
}
