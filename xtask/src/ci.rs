//! `cargo xtask ci`: builds, lints, tests and fuzzes a clean workspace, and shows the time of each step.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::process::{say, step};
use crate::test::{Selection, Variants};
use crate::workspace::Workspace;
use crate::{build, fuzz, lint, test};

/// Of each target: enough to run into what the corpora lead to.
const FUZZ_SECONDS: u32 = 60;

/// Builds, lints, tests and fuzzes. A failed step ends it; the times of the steps so far are shown.
pub fn run(workspace: &Workspace, clean: bool, install_deny: bool) -> Result<()> {
    if clean {
        remove_build_results(workspace)?;
    }
    let mut times = Vec::new();
    let result = timed(&mut times, "build", || {
        build::run(workspace, false).map(drop)
    })
    .and_then(|()| timed(&mut times, "lint", || lint::run(workspace, install_deny)))
    .and_then(|()| {
        timed(&mut times, "test", || {
            test::run(workspace, Selection::All, Variants::All, None)
        })
    })
    .and_then(|()| {
        timed(&mut times, "fuzz", || {
            fuzz::run(workspace, None, FUZZ_SECONDS)
        })
    });
    step("Time per step");
    for (name, time) in times {
        say(&format!("{name:<6} {:>6.1} s", time.as_secs_f64()));
    }
    result
}

fn timed(
    times: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    task: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let result = task().with_context(|| format!("ci: {name}"));
    times.push((name, start.elapsed()));
    result
}

/// Removes what was compiled, except the tools in `target/tools`: they are no part of the project, and take
/// minutes to build.
fn remove_build_results(workspace: &Workspace) -> Result<()> {
    step("Removing what has been compiled before (`--no-clean` keeps it)");
    for name in ["debug", "release", "ebpf", "fuzz"] {
        let directory = workspace.target().join(name);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
