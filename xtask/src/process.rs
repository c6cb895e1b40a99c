//! Starts programs: with a line that says what happens, a clean environment, and errors that quote the
//! command.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Prints the heading of a step.
pub fn step(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("\x1b[1m==> {what}\x1b[0m");
    } else {
        eprintln!("==> {what}");
    }
}

/// Prints a detail of the current step.
pub fn say(what: &str) {
    eprintln!("    {what}");
}

/// A command without the variables that `cargo run` has set for xtask. They would make build scripts run again, or
/// libraries be loaded from the wrong directory.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_xtask) {
            command.env_remove(name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        match without_cargo_directories(&path) {
            Some(path) => command.env("LD_LIBRARY_PATH", path),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

/// The cargo that runs this xtask: that of the user's toolchain for the host crates.
pub fn cargo(directory: &Path) -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(directory);
    command
}

fn describes_xtask(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_")
        || [
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_BIN_NAME",
            "CARGO_CRATE_NAME",
        ]
        .contains(&variable)
}

/// Removes the target directory and the directories of the toolchain, which `cargo run` adds to `LD_LIBRARY_PATH`.
fn without_cargo_directories(path: &OsStr) -> Option<OsString> {
    let kept: Vec<PathBuf> = env::split_paths(path)
        .filter(|entry| {
            let names: Vec<_> = entry.components().map(Component::as_os_str).collect();
            !names
                .iter()
                .any(|name| *name == "rustlib" || *name == "toolchains" || *name == "target")
        })
        .collect();
    if kept.is_empty() {
        None
    } else {
        env::join_paths(kept).ok()
    }
}

/// Runs a command to its end; it uses the terminal directly. An exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!(
            "`{}` failed ({status}); its messages are above",
            line(command)
        );
    }
    Ok(())
}

/// The standard output of a command; `None` if it can't be started, or fails.
pub fn probe(command: &mut Command) -> Option<String> {
    let output = command
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if output.status.success() {
        String::from_utf8(output.stdout).ok()
    } else {
        None
    }
}

/// The path of a program, on PATH or in Debian's `sbin` directories, which not every user has on PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this is continuous integration (`CI` is set): there a test that can't run is a failure.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "0" && value != "false")
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let quote = if argument.contains(' ') || argument.is_empty() {
            "'"
        } else {
            ""
        };
        let _ = write!(line, " {quote}{argument}{quote}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_path_of_the_user_survives_and_that_of_cargo_does_not() {
        let path = "/ws/target/debug/deps:/home/u/.rustup/toolchains/x/lib:/opt/own/lib";
        assert_eq!(
            without_cargo_directories(path.as_ref()),
            Some("/opt/own/lib".into())
        );
        assert_eq!(without_cargo_directories("/ws/target/debug".as_ref()), None);
    }

    #[test]
    fn variables_about_xtask_are_dropped_and_settings_of_the_user_are_kept() {
        assert!(describes_xtask("CARGO_PKG_NAME"));
        assert!(describes_xtask("CARGO_MANIFEST_DIR"));
        assert!(!describes_xtask("CARGO_HOME"));
        assert!(!describes_xtask("CARGO_TARGET_DIR"));
        assert!(!describes_xtask("CARGO_NET_OFFLINE"));
    }

    #[test]
    fn a_command_is_quoted_as_one_would_type_it() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["test", "two words"]);
        assert_eq!(line(&command), "cargo test 'two words'");
    }
}
