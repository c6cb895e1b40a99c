//! `cargo xtask fuzz`: runs the fuzz targets for a while.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{command, find, run as run_command, say, step};
use crate::tools::FUZZ;
use crate::workspace::Workspace;

/// The targets in `fuzz/fuzz_targets`.
pub const TARGETS: [&str; 2] = ["frame", "engine"];

/// Runs a target, or each of them, for this many seconds.
pub fn run(workspace: &Workspace, target: Option<&str>, seconds: u32) -> Result<()> {
    if let Some(target) = target {
        ensure!(
            TARGETS.contains(&target),
            "there is no target {target}, but {}",
            TARGETS.join(" and ")
        );
    }
    if find("c++").is_none() {
        bail!("libFuzzer is C++, and there is no `c++`: install a compiler (on Debian: g++)");
    }
    let Some(fuzz) = FUZZ.find(workspace, true)? else {
        bail!("no cargo-fuzz");
    };
    for target in TARGETS
        .iter()
        .filter(|name| target.is_none_or(|only| only == **name))
    {
        step(&format!("Fuzzing {target} for {seconds} s"));
        // libFuzzer writes what it finds interesting into the first directory, and the committed one stays as it is.
        let found = workspace.target().join("fuzz-corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("create {}", found.display()))?;
        let committed = workspace.root().join("fuzz/corpus").join(target);
        // Any toolchain does without a sanitizer, and there is no unsafe code that one would look at.
        let mut command = command(&fuzz);
        command
            .current_dir(workspace.root())
            .args(["fuzz", "run", "--sanitizer=none", "--target-dir"])
            .arg(workspace.target().join("fuzz"))
            .arg(target)
            .args([&found, &committed])
            .args(["--", "-print_final_stats=1"])
            .arg(format!("-max_total_time={seconds}"));
        run_command(&mut command).with_context(|| {
            format!("what {target} fails on is in fuzz/artifacts/{target}: keep it in fuzz/corpus/{target}")
        })?;
        say(&format!("{target}: nothing found"));
    }
    Ok(())
}
