//! `cargo xtask run`: runs office-bridge in the lab, or on this host.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use lab::demo::{self, Step};
use lab::envtest::HOW_TO_GET;
use lab::{Bridge, LabOptions};

use crate::lab::{Interrupt, open};
use crate::process::{command, is_root, say, step};
use crate::workspace::Workspace;
use crate::{build, control_plane, host};

/// Plays the demonstration in the lab, with an API server if one is found. The lab stays open until Ctrl-C unless
/// `check` is set.
pub fn in_lab(workspace: &Workspace, check: bool) -> Result<()> {
    host::ready()?;
    build::run(workspace, false)?;

    let api_server = control_plane::look()?.0.is_some();
    if api_server {
        say("the lab runs them, and office-bridge follows the API server (--cluster kube)");
    } else {
        say("office-bridge reads manifests instead (--cluster manifests=DIR); for an API server:");
        say(HOW_TO_GET);
    }

    let interrupt = Interrupt::expect()?;
    let mut lab = open(LabOptions {
        api_server,
        ..LabOptions::default()
    })?;
    step("Starting office-bridge on node-30");
    let arguments = Bridge::default_arguments(&lab);
    say(&format!("office-bridge run {}", arguments.join(" ")));
    let bridge = Bridge::start(&lab, &arguments)?;
    step("Playing the office developer");
    let steps = demo::play(&mut lab, &bridge);
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
        let texts = [
            demo::addresses(&lab),
            demo::how_to_look(&lab, &bridge),
            demo::how_to_ask(&lab),
            demo::how_to_enter(&lab),
        ];
        for text in texts.iter().filter(|text| !text.is_empty()) {
            println!("{text}");
        }
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

/// Replaces this process with `office-bridge run` and these arguments.
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
