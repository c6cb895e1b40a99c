//! `cargo xtask test`: builds and runs the tests.
//!
//! Host tests are those of all crates but `tests`; any user can run them. The end-to-end tests are in the
//! crate `tests`: they open labs, which needs root. Those in files `kube_*` also need a Kubernetes API
//! server. [`crate::variants`] says which of them run in which variant of the lab.

use std::ffi::OsString;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use lab::Variant;

use crate::control_plane::{self, Missing};
use crate::process::{cargo, find, is_ci, probe, run as run_command, say, step};
use crate::variants::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, host, image};

/// Which tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All tests that can run on this machine.
    All,
    /// The host tests.
    Host,
    /// The end-to-end tests.
    EndToEnd,
}

/// The variants that the end-to-end tests run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variants {
    /// All tests in the default variant.
    Default,
    /// The tests that depend on the variant, in this one.
    One(Variant),
    /// The tests that depend on the variant in each of them, and the others once.
    All,
}

/// Variable with the path of the program under test.
const BINARY_VARIABLE: &str = "OFFICE_BRIDGE_BIN";
/// Variable with the path of its image.
const IMAGE_VARIABLE: &str = "OFFICE_BRIDGE_IMAGE";
/// The test file that needs the image.
const OF_THE_IMAGE: &str = "kube_deploy";

/// Prepares the machine, builds and runs the tests.
pub fn run(
    workspace: &Workspace,
    selection: Selection,
    variants: Variants,
    filter: Option<&str>,
) -> Result<()> {
    let possible = possible(selection, host::missing_requirement().as_deref(), is_ci())?;
    let rounds = rounds(possible, variants);
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
        let is_left_out = missing.is_some_and(|missing| OF_THE_IMAGE.starts_with(missing.files()));
        if rounds.iter().any(|(_, scope)| scope.has(OF_THE_IMAGE))
            && !is_left_out
            && needs_image(workspace, filter)?
        {
            variables.push((IMAGE_VARIABLE, image::under_test(workspace)?.into()));
        }
    }
    variables.push((BINARY_VARIABLE, build::run(workspace, false)?.into()));
    let runner = if find("cargo-nextest").is_some() {
        Runner::Nextest
    } else {
        Runner::Cargo
    };
    let test_files = test_files(workspace)?;
    let mut results = Vec::new();
    for &(selection, scope) in &rounds {
        let is_left_out = |file: &String| {
            !scope.has(file) || missing.is_some_and(|missing| file.starts_with(missing.files()))
        };
        let plan = Plan {
            selection,
            filter: filter.map(str::to_owned),
            left_out: test_files
                .iter()
                .filter(|f| is_left_out(f))
                .cloned()
                .collect(),
            test_files: test_files.clone(),
            may_be_empty: rounds.len() > 1,
        };
        announce(runner, &plan, scope);
        let begun = Instant::now();
        let passed = execute(workspace, runner, &plan, &in_variant(&variables, scope));
        results.push((title(selection, scope), begun.elapsed(), passed));
    }
    if results.len() > 1 {
        say_results(&results);
    }
    if let Some(missing) = missing {
        say_left_out(workspace, missing, filter)?;
    }
    if possible != selection {
        say("end-to-end tests were NOT run: they need root, for network namespaces and eBPF:");
        say(&format!("{} test --e2e", host::AS_ROOT));
    }
    ensure!(
        results.iter().all(|&(_, _, passed)| passed),
        "not every test passed, see above; `cargo xtask test NAME` runs one again"
    );
    Ok(())
}

/// The test runs, in their order. Host tests do not depend on the variant.
fn rounds(selection: Selection, variants: Variants) -> Vec<(Selection, Scope)> {
    match variants {
        _ if selection == Selection::Host => vec![(selection, Scope::Everything)],
        Variants::Default => vec![(selection, Scope::Everything)],
        Variants::One(variant) => vec![(Selection::EndToEnd, Scope::Only(variant))],
        Variants::All => {
            let each = variants::all().map(|variant| (Selection::EndToEnd, Scope::Only(variant)));
            [(selection, Scope::Independent)]
                .into_iter()
                .chain(each)
                .collect()
        }
    }
}

fn title(selection: Selection, scope: Scope) -> String {
    match selection {
        Selection::All => format!("host tests and end-to-end tests ({scope})"),
        Selection::Host => "host tests".to_owned(),
        Selection::EndToEnd => format!("end-to-end tests ({scope})"),
    }
}

fn announce(runner: Runner, plan: &Plan, scope: Scope) {
    let runner = match runner {
        Runner::Nextest => "cargo nextest",
        Runner::Cargo => "cargo test (cargo-nextest, if installed, shows more and runs faster)",
    };
    let what = title(plan.selection, scope);
    step(&format!("Running {what} with {runner}"));
    if let Scope::Only(_) = scope {
        let left_out = plan.left_out.join(", ");
        say(&format!(
            "files that don't depend on this variant, or that don't hold in it: {left_out}"
        ));
    }
}

/// The environment variables of a test run.
fn in_variant(
    variables: &[(&'static str, OsString)],
    scope: Scope,
) -> Vec<(&'static str, OsString)> {
    let Variant { datapath, overlay } = scope.variant();
    let mut variables = variables.to_vec();
    variables.push((Variant::DATAPATH_VARIABLE, datapath.name().into()));
    variables.push((Variant::OVERLAY_VARIABLE, overlay.name().into()));
    variables
}

fn say_results(results: &[(String, Duration, bool)]) {
    step("Time per variant");
    for (title, time, passed) in results {
        let outcome = if *passed { "passed" } else { "FAILED" };
        say(&format!(
            "{title:<60} {outcome} {:>6.1} s",
            time.as_secs_f64()
        ));
    }
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

/// Whether a filter selects a test that needs the image.
fn needs_image(workspace: &Workspace, filter: Option<&str>) -> Result<bool> {
    let Some(filter) = filter else {
        return Ok(true);
    };
    let path = workspace
        .root()
        .join("tests/tests")
        .join(OF_THE_IMAGE)
        .with_extension("rs");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(has_function(&text, filter))
}

/// Whether source text has a function with this in its name.
fn has_function(text: &str, part: &str) -> bool {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("fn "))
        .filter_map(|rest| rest.split('(').next())
        .any(|name| name.contains(part))
}

/// Lists the tests that were left out, so that they are not taken for passed.
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

/// The part of a selection that can run here. In continuous integration a smaller part is an error.
fn possible(
    selection: Selection,
    missing_requirement: Option<&str>,
    ci: bool,
) -> Result<Selection> {
    match (selection, missing_requirement) {
        (Selection::Host, _) | (_, None) => Ok(selection),
        (Selection::All, Some(_)) if !ci => Ok(Selection::Host),
        (_, Some(missing_requirement)) => bail!(
            "end-to-end tests can't run: {missing_requirement}; as root: {} test, or without them: \
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

/// The tests of one run.
#[derive(Clone, Debug)]
struct Plan {
    selection: Selection,
    /// Only tests with this in their name.
    filter: Option<String>,
    /// Test files that are left out.
    left_out: Vec<String>,
    /// All files of end-to-end tests.
    test_files: Vec<String>,
    /// Whether a run without any test is a success.
    may_be_empty: bool,
}

/// Whether all tests passed.
fn execute(
    workspace: &Workspace,
    runner: Runner,
    plan: &Plan,
    variables: &[(&str, OsString)],
) -> bool {
    let mut passed = true;
    for arguments in invocations(runner, plan) {
        let mut command: Command = cargo(workspace.root());
        command.args(&arguments).envs(variables.iter().cloned());
        if let Err(error) = run_command(host::with_system_path(&mut command)) {
            say(&format!("{error:#}"));
            passed = false;
        }
    }
    passed
}

/// The arguments of each call of cargo.
fn invocations(runner: Runner, plan: &Plan) -> Vec<Vec<String>> {
    const ALL: &[&str] = &["--workspace", "--exclude=bridge-ebpf"];
    const HOST: &[&str] = &["--workspace", "--exclude=bridge-ebpf", "--exclude=tests"];
    const LABS: &[&str] = &["--package=tests"];
    // As the group `labs` in `.config/nextest.toml`.
    const LABS_AT_A_TIME: &[&str] = &["--", "--test-threads=4"];
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
    let mut filterset = Vec::new();
    if !plan.left_out.is_empty() {
        let files = plan.left_out.join("|");
        filterset.push("--filterset".to_owned());
        filterset.push(format!("not (package(tests) & binary(/^({files})$/))"));
    }
    if plan.may_be_empty {
        filterset.push("--no-tests=pass".to_owned());
    }
    match (runner, plan.selection) {
        (Runner::Nextest, Selection::All) => vec![call(&["nextest", "run"], ALL, &filterset, &[])],
        (Runner::Nextest, Selection::Host) => vec![call(&["nextest", "run"], HOST, &[], &[])],
        (Runner::Nextest, Selection::EndToEnd) => {
            vec![call(&["nextest", "run"], LABS, &filterset, &[])]
        }
        (Runner::Cargo, Selection::Host) => vec![call(&["test"], HOST, &[], &[])],
        (Runner::Cargo, Selection::EndToEnd) => {
            let targets = if plan.left_out.is_empty() {
                Vec::new()
            } else {
                let files = plan.test_files.iter();
                files
                    .filter(|file| !plan.left_out.contains(file))
                    .map(|file| format!("--test={file}"))
                    .chain(["--lib".to_owned()])
                    .collect()
            };
            vec![call(&["test"], LABS, &targets, LABS_AT_A_TIME)]
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
    fn files_are_left_out_with_either_runner() {
        let plan = Plan {
            left_out: ["kube_api", "kube_proxy"].map(str::to_owned).into(),
            ..plan(Selection::EndToEnd)
        };
        let calls = invocations(Runner::Cargo, &plan).concat();
        assert!(calls.contains(&"--test=nat".into()), "{calls:?}");
        assert!(calls.contains(&"--lib".into()), "{calls:?}");
        assert!(
            !calls.iter().any(|word| word.contains("kube_")),
            "{calls:?}"
        );
        let calls = invocations(Runner::Nextest, &plan).concat();
        let filter = "not (package(tests) & binary(/^(kube_api|kube_proxy)$/))";
        assert!(calls.contains(&filter.into()), "{calls:?}");
    }

    #[test]
    fn the_image_is_made_for_the_tests_that_need_it() {
        let text = "#[test]\nfn rolls_out() {\n    apply(\"fn udp\");\n}\n";
        assert!(has_function(text, "roll"));
        assert!(!has_function(text, "udp"));
        assert!(needs_image(&Workspace::here(), None).expect("no file is read"));
        let unknown = needs_image(&Workspace::here(), Some("no such test"));
        assert!(!unknown.expect("the file is there"));
    }

    #[test]
    fn each_variant_is_a_round_and_host_tests_run_once() {
        let all = rounds(Selection::All, Variants::All);
        assert_eq!(all.len(), 7);
        let with_host = all
            .iter()
            .filter(|(selection, _)| *selection == Selection::All);
        assert_eq!(with_host.count(), 1);
        assert_eq!(rounds(Selection::Host, Variants::All).len(), 1);
        assert_eq!(
            rounds(Selection::All, Variants::One(Variant::DEFAULT)),
            [(Selection::EndToEnd, Scope::Only(Variant::DEFAULT))]
        );
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

    fn plan(selection: Selection) -> Plan {
        Plan {
            selection,
            filter: None,
            left_out: Vec::new(),
            test_files: ["kube_api", "kube_proxy", "nat"].map(str::to_owned).into(),
            may_be_empty: false,
        }
    }
}
