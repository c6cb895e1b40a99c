//! Starts that must fail.

use std::process::Command;
use std::time::Duration;

use crate::lab::Lab;
use crate::plan::port;

/// Runs `office-bridge` as a command that has to end by itself with this exit code, and gives what it says.
///
/// # Panics
///
/// If it ends otherwise, or says that it has panicked.
#[must_use]
#[track_caller]
pub fn refused(command: &Command, code: i32) -> String {
    /// A bridge that wrongly goes on must not hold the test up: `timeout` ends it with 124.
    const LIMIT: Duration = Duration::from_secs(20);
    let mut timed = Command::new("timeout");
    timed
        .arg(LIMIT.as_secs().to_string())
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        timed.env(key, value.unwrap_or_default());
    }
    let output = timed
        .output()
        .unwrap_or_else(|error| panic!("run timeout: {error}"));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// Asserts that no bridge of this lab has left anything in the kernel, and that no office traffic gets through.
#[track_caller]
pub fn nothing_attached(lab: &Lab) {
    nothing_pinned(lab);
    let qdiscs = lab.node_30().run("tc", &["qdisc", "show"]);
    let qdiscs = qdiscs.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    let answer = lab
        .office_pc()
        .tcp_within(Duration::from_millis(200), lab.at("echo-1", port::ECHO));
    assert!(answer.is_err(), "office traffic gets through");
}

/// Asserts that nothing is left below the pin path of this lab.
#[track_caller]
pub fn nothing_pinned(lab: &Lab) {
    let entries = lab.pin_path().read_dir().into_iter().flatten().flatten();
    let left: Vec<_> = entries.collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refused_start_says_is_given() {
        assert_eq!(
            refused(&shell("echo no uplink >&2; exit 1"), 1),
            "no uplink\n"
        );
    }

    #[test]
    #[should_panic(expected = "left: Some(0)")]
    fn a_start_that_succeeds_fails_the_test() {
        let _ = refused(&shell("exit 0"), 1);
    }

    #[test]
    #[should_panic(expected = "thread 'main' panicked")]
    fn a_start_that_panics_fails_the_test() {
        let _ = refused(&shell("echo \"thread 'main' panicked\" >&2; exit 1"), 1);
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }
}
