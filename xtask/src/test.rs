//! `cargo xtask test`: every test by its name.
//!
//! Host tests are those of all crates but `tests`; they run for any user. The end-to-end tests are
//! the crate `tests`: they open labs, which takes root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::process::{cargo, find, is_ci, run as run_command, say, step};
use crate::workspace::Workspace;
use crate::{build, host, image};

/// Which tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that can run here.
    All,
    /// Those that need no lab.
    Host,
    /// Those in the lab.
    EndToEnd,
}

/// Where the tests find the program under test.
const BINARY_VARIABLE: &str = "OFFICE_BRIDGE_BIN";
/// Where they find its image.
const IMAGE_VARIABLE: &str = "OFFICE_BRIDGE_IMAGE";

/// Builds, prepares the machine and runs the tests.
pub fn run(workspace: &Workspace, selection: Selection, filter: Option<&str>) -> Result<()> {
    let possible = possible(selection, host::obstacle().as_deref(), is_ci())?;
    let mut variables = Vec::new();
    if possible != Selection::Host {
        host::ready()?;
        variables.push((IMAGE_VARIABLE, image::under_test(workspace)?));
    }
    variables.push((BINARY_VARIABLE, build::run(workspace, false)?));
    let runner = if find("cargo-nextest").is_some() {
        Runner::Nextest
    } else {
        Runner::Cargo
    };
    step(&format!(
        "Running {} with {}",
        match possible {
            Selection::All => "host tests and end-to-end tests",
            Selection::Host => "host tests",
            Selection::EndToEnd => "end-to-end tests",
        },
        match runner {
            Runner::Nextest => "cargo nextest",
            Runner::Cargo => "cargo test (cargo-nextest, if installed, shows more and runs faster)",
        }
    ));
    let result = execute(workspace, runner, possible, filter, &variables);
    if possible != selection {
        say("end-to-end tests were NOT run: they need root, for network namespaces and eBPF:");
        say(&format!("{} test --e2e", host::AS_ROOT));
    }
    result
}

/// What of a selection can run. Where nobody reads what has been left out, that is an error.
fn possible(selection: Selection, obstacle: Option<&str>, ci: bool) -> Result<Selection> {
    match (selection, obstacle) {
        (Selection::Host, _) | (_, None) => Ok(selection),
        (Selection::All, Some(_)) if !ci => Ok(Selection::Host),
        (_, Some(obstacle)) => bail!(
            "end-to-end tests can't run: {obstacle}; as root: {} test, or without them: \
             cargo xtask test --host",
            host::AS_ROOT
        ),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Nextest,
    Cargo,
}

fn execute(
    workspace: &Workspace,
    runner: Runner,
    selection: Selection,
    filter: Option<&str>,
    variables: &[(&str, PathBuf)],
) -> Result<()> {
    let mut failed = 0;
    for arguments in invocations(runner, selection, filter) {
        let mut command: Command = cargo(workspace.root());
        command.args(&arguments).envs(variables.iter().cloned());
        if let Err(error) = run_command(host::with_system_path(&mut command)) {
            say(&format!("{error:#}"));
            failed += 1;
        }
    }
    ensure!(
        failed == 0,
        "not every test passed, see above; `cargo xtask test NAME` runs one again"
    );
    Ok(())
}

/// The arguments of cargo, one list per call.
fn invocations(runner: Runner, selection: Selection, filter: Option<&str>) -> Vec<Vec<String>> {
    const ALL: &[&str] = &["--workspace", "--exclude=bridge-ebpf"];
    const HOST: &[&str] = &["--workspace", "--exclude=bridge-ebpf", "--exclude=tests"];
    const LABS: &[&str] = &["--package=tests"];
    // As in .config/nextest.toml.
    const TWO_LABS: &[&str] = &["--test-threads=2"];
    let call = |command: &[&str], crates: &[&str], arguments: &[&str]| {
        let name: &[&str] = filter.as_slice();
        [command, crates, &["--no-fail-fast"], name, arguments]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    match (runner, selection) {
        (Runner::Nextest, Selection::All) => vec![call(&["nextest", "run"], ALL, &[])],
        (Runner::Nextest, Selection::Host) => vec![call(&["nextest", "run"], HOST, &[])],
        (Runner::Nextest, Selection::EndToEnd) => vec![call(&["nextest", "run"], LABS, &[])],
        (Runner::Cargo, Selection::Host) => vec![call(&["test"], HOST, &[])],
        (Runner::Cargo, Selection::EndToEnd) => {
            vec![call(&["test"], LABS, &[&["--"], TWO_LABS].concat())]
        }
        (Runner::Cargo, Selection::All) => [Selection::Host, Selection::EndToEnd]
            .into_iter()
            .flat_map(|half| invocations(runner, half, filter))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_without_root_gets_the_host_tests() {
        let possible =
            possible(Selection::All, Some("no root"), false).expect("host tests can run");
        assert_eq!(possible, Selection::Host);
    }

    #[test]
    fn in_ci_tests_that_cannot_run_are_a_failure() {
        assert!(possible(Selection::All, Some("no root"), true).is_err());
        assert!(possible(Selection::All, None, true).is_ok());
        assert!(possible(Selection::Host, Some("no root"), true).is_ok());
    }

    #[test]
    fn end_to_end_tests_asked_for_by_name_are_never_left_out_silently() {
        assert!(possible(Selection::EndToEnd, Some("no root"), false).is_err());
    }

    #[test]
    fn one_name_selects_with_either_runner() {
        for runner in [Runner::Nextest, Runner::Cargo] {
            for call in invocations(runner, Selection::All, Some("udp_zero")) {
                assert!(call.iter().any(|word| word == "udp_zero"), "{call:?}");
            }
        }
    }

    #[test]
    fn host_and_end_to_end_tests_are_told_apart_by_the_crate() {
        for runner in [Runner::Nextest, Runner::Cargo] {
            let host = invocations(runner, Selection::Host, None).concat();
            assert!(host.contains(&"--exclude=tests".into()), "{host:?}");
            let labs = invocations(runner, Selection::EndToEnd, None).concat();
            assert!(labs.contains(&"--package=tests".into()), "{labs:?}");
        }
    }
}
