//! `cargo xtask test`: every test by its name.
//!
//! Host tests are those of all crates but `tests`; they run for any user. The end-to-end tests are
//! the crate `tests`: they open labs, which takes root. Those in files `kube_*` also take a Kubernetes
//! API server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::control_plane::{self, Missing};
use crate::process::{cargo, find, is_ci, probe, run as run_command, say, step};
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

/// Prepares the machine, builds and runs the tests.
pub fn run(workspace: &Workspace, selection: Selection, filter: Option<&str>) -> Result<()> {
    let possible = possible(selection, host::obstacle().as_deref(), is_ci())?;
    let mut variables = Vec::new();
    let mut missing = None;
    if possible != Selection::Host {
        host::ready()?;
        (_, missing) = control_plane::look()?;
        if let Some(missing) = missing {
            ensure!(
                !is_ci(),
                "the tests in tests/tests/{}* can't run; {}",
                missing.files(),
                missing.advice()
            );
        }
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
    let plan = Plan {
        selection: possible,
        filter: filter.map(str::to_owned),
        missing,
        test_files: test_files(workspace)?,
    };
    let result = execute(workspace, runner, &plan, &variables);
    if let Some(missing) = missing {
        say_left_out(workspace, missing, filter)?;
    }
    if possible != selection {
        say("end-to-end tests were NOT run: they need root, for network namespaces and eBPF:");
        say(&format!("{} test --e2e", host::AS_ROOT));
    }
    result
}

/// The files of the end-to-end tests, without their extension.
fn test_files(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.root().join("tests/tests");
    let mut files: Vec<String> = fs::read_dir(&directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("list {}", directory.display()))?
        .iter()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    files.sort();
    Ok(files)
}

/// Names the tests that were left out, so that nobody takes them for passed.
fn say_left_out(workspace: &Workspace, missing: Missing, filter: Option<&str>) -> Result<()> {
    let mut command = cargo(workspace.root());
    command.args(["test", "--quiet", "--package=tests"]);
    command.arg(format!("--test={}*", missing.files()));
    command
        .args(filter)
        .args(["--", "--list", "--format=terse"]);
    let listed = probe(host::with_system_path(&mut command)).with_context(|| {
        format!(
            "the tests in tests/tests/{}* can't be listed",
            missing.files()
        )
    })?;
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    if !names.is_empty() {
        say(&format!(
            "{} tests were NOT run; {}",
            names.len(),
            missing.advice()
        ));
        for name in names {
            say(&format!("not run: {name}"));
        }
    }
    Ok(())
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

/// What is to be run.
#[derive(Clone, Debug)]
struct Plan {
    selection: Selection,
    /// Only tests with this in their name.
    filter: Option<String>,
    /// Not the tests that need this.
    missing: Option<Missing>,
    /// All files of end-to-end tests.
    test_files: Vec<String>,
}

fn execute(
    workspace: &Workspace,
    runner: Runner,
    plan: &Plan,
    variables: &[(&str, PathBuf)],
) -> Result<()> {
    let mut failed = 0;
    for arguments in invocations(runner, plan) {
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
fn invocations(runner: Runner, plan: &Plan) -> Vec<Vec<String>> {
    const ALL: &[&str] = &["--workspace", "--exclude=bridge-ebpf"];
    const HOST: &[&str] = &["--workspace", "--exclude=bridge-ebpf", "--exclude=tests"];
    const LABS: &[&str] = &["--package=tests"];
    // As in .config/nextest.toml.
    const TWO_LABS: &[&str] = &["--", "--test-threads=2"];
    let call = |command: &[&str], crates: &[&str], tests: &[String], arguments: &[&str]| {
        let owned = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        let mut call = owned(&[command, crates, &["--no-fail-fast"]].concat());
        call.extend_from_slice(tests);
        call.extend(plan.filter.clone());
        call.extend(owned(arguments));
        call
    };
    let filterset = plan.missing.map_or_else(Vec::new, |missing| {
        vec![
            "--filterset".to_owned(),
            format!("not (package(tests) & binary(/^{}/))", missing.files()),
        ]
    });
    match (runner, plan.selection) {
        (Runner::Nextest, Selection::All) => vec![call(&["nextest", "run"], ALL, &filterset, &[])],
        (Runner::Nextest, Selection::Host) => vec![call(&["nextest", "run"], HOST, &[], &[])],
        (Runner::Nextest, Selection::EndToEnd) => {
            vec![call(&["nextest", "run"], LABS, &filterset, &[])]
        }
        (Runner::Cargo, Selection::Host) => vec![call(&["test"], HOST, &[], &[])],
        (Runner::Cargo, Selection::EndToEnd) => {
            let targets = plan.missing.map_or_else(Vec::new, |missing| {
                let files = plan.test_files.iter();
                files
                    .filter(|file| !file.starts_with(missing.files()))
                    .map(|file| format!("--test={file}"))
                    .chain(["--lib".to_owned()])
                    .collect()
            });
            vec![call(&["test"], LABS, &targets, TWO_LABS)]
        }
        (Runner::Cargo, Selection::All) => [Selection::Host, Selection::EndToEnd]
            .into_iter()
            .flat_map(|selection| {
                let half = Plan {
                    selection,
                    ..plan.clone()
                };
                invocations(runner, &half)
            })
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

    fn plan(selection: Selection) -> Plan {
        Plan {
            selection,
            filter: None,
            missing: None,
            test_files: ["kube_api", "kube_proxy", "nat"].map(str::to_owned).into(),
        }
    }

    #[test]
    fn one_name_selects_with_either_runner() {
        for runner in [Runner::Nextest, Runner::Cargo] {
            let plan = Plan {
                filter: Some("udp_zero".into()),
                ..plan(Selection::All)
            };
            for call in invocations(runner, &plan) {
                assert!(call.iter().any(|word| word == "udp_zero"), "{call:?}");
            }
        }
    }

    #[test]
    fn without_an_api_server_the_files_that_need_it_are_left_out() {
        let plan = |missing| Plan {
            missing: Some(missing),
            ..plan(Selection::EndToEnd)
        };
        let calls = invocations(Runner::Cargo, &plan(Missing::ApiServer)).concat();
        assert!(calls.contains(&"--test=nat".into()), "{calls:?}");
        assert!(calls.contains(&"--lib".into()), "{calls:?}");
        assert!(
            !calls.iter().any(|word| word.contains("kube_")),
            "{calls:?}"
        );
        let calls = invocations(Runner::Cargo, &plan(Missing::KubeProxy)).concat();
        assert!(calls.contains(&"--test=kube_api".into()), "{calls:?}");
        assert!(!calls.contains(&"--test=kube_proxy".into()), "{calls:?}");
        let calls = invocations(Runner::Nextest, &plan(Missing::KubeProxy)).concat();
        let filter = "not (package(tests) & binary(/^kube_proxy/))";
        assert!(calls.contains(&filter.into()), "{calls:?}");
    }

    #[test]
    fn host_and_end_to_end_tests_are_told_apart_by_the_crate() {
        for runner in [Runner::Nextest, Runner::Cargo] {
            let host = invocations(runner, &plan(Selection::Host)).concat();
            assert!(host.contains(&"--exclude=tests".into()), "{host:?}");
            let labs = invocations(runner, &plan(Selection::EndToEnd)).concat();
            assert!(labs.contains(&"--package=tests".into()), "{labs:?}");
        }
    }
}
