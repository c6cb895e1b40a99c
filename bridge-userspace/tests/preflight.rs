//! `run` tells everything that keeps it from starting at once, each with what helps.

use std::process::{Command, Output};

fn run(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_office-bridge"))
        .arg("run")
        .args(arguments.split_whitespace())
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap()
}

#[track_caller]
fn fails(arguments: &str, code: i32, causes: &[&str]) {
    let output = run(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    for cause in causes {
        let cause = format!("\n- {cause}");
        assert!(message.contains(&cause), "no `{cause}` in: {message}");
    }
    let count = |start| {
        message
            .lines()
            .filter(|line| line.starts_with(start))
            .count()
    };
    assert!(count("- ") >= causes.len(), "{message}");
    assert_eq!(count("- "), count("  remedy: "), "{message}");
}

#[test]
fn wrong_settings_are_told_at_once_and_exit_with_2() {
    fails(
        "--uplink a/b --pod-cidr 10.244.0.0 --flow-capacity 1 --http-listen 9530",
        2,
        &[
            "--uplink: `a/b` cannot be the name of an interface",
            "--office-cidr is missing",
            "--pod-cidr (command line): `10.244.0.0` has no prefix length",
            "--http-listen 9530: this is not ADDR:PORT",
            "--flow-capacity 1 is out of range",
        ],
    );
}

/// Settings that no host can fulfil; the addresses are those of RFC 5737. The directory is on no bpf filesystem, so the
/// start ends before anything is changed, whoever runs this.
fn impossible() -> String {
    format!(
        "--uplink no-such-if0 --office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16 --no-http --dns-listen 203.0.113.53:53 \
         --dns-listen 203.0.113.54:53 --dns-upstream 10.96.0.10:53 --pin-path {}/pins",
        env!("CARGO_TARGET_TMPDIR")
    )
}

const CAUSES: [&str; 4] = [
    env!("CARGO_TARGET_TMPDIR"),
    "there is no interface `no-such-if0`",
    "--dns-listen 203.0.113.53:53: this is no address of this node",
    "--dns-listen 203.0.113.54:53: this is no address of this node",
];

#[test]
fn what_the_host_lacks_is_told_at_once_and_exits_with_1() {
    fails(&impossible(), 1, &CAUSES);
}

#[test]
fn one_wrong_setting_among_what_the_host_lacks_exits_with_2() {
    let kube = format!("{} --cluster kube --kubeconfig /no/such/file", impossible());
    let wrong = "--kubeconfig /no/such/file can't be used";
    fails(&kube, 2, &[&CAUSES[..], &[wrong]].concat());
}
