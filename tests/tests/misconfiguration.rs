//! What a person can get wrong: each ends with a message that says what to do, exit code 2 for wrong
//! usage and 1 otherwise, and nothing attached.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use lab::dns::DnsPlan;
use lab::plan::port;
use lab::{Bridge, Lab, LabOptions, Variant, bridge};

#[test]
fn wrong_usage_is_told_and_exits_with_2() {
    let lab = open();
    for (arguments, words) in [
        (plus(&lab, &["--no-such-flag"]), &["--no-such-flag"][..]),
        (
            with(&lab, "--office-cidr", "the office"),
            &["--office-cidr", "the office"],
        ),
        (
            with(&lab, "--office-cidr", "192.168.0.0/33"),
            &["192.168.0.0/33"],
        ),
        (
            with(&lab, "--office-cidr", "192.168.0.10/22"),
            &["192.168.0.10/22", "192.168.0.0/22"],
        ),
        (
            with(&lab, "--office-cidr", "192.168.0.0"),
            &["192.168.0.0/32"],
        ),
        (with(&lab, "--office-cidr", "fd00::/64"), &["IPv6"]),
        (with(&lab, "--office-cidr", "0.0.0.0/0"), &["0.0.0.0/0"]),
        (
            with(&lab, "--uplink", "a name that is far too long"),
            &["--uplink"],
        ),
        (with(&lab, "--cluster", "manifests"), &["manifests=DIR"]),
        (with(&lab, "--cluster", "swarm"), &["swarm"]),
        (
            with(&lab, "--dns-listen", "10.60.20.30"),
            &["--dns-listen", "port"],
        ),
        (
            with(&lab, "--dns-upstream", "10.60.20.30:53"),
            &["--dns-upstream"],
        ),
        (
            plus(&lab, &["--pod-cidr", "192.168.2.0/24"]),
            &["192.168.0.0/22", "192.168.2.0/24"],
        ),
        (
            plus(
                &lab,
                &[
                    "--pod-cidr",
                    "10.244.0.0/16",
                    "--service-cidr",
                    "10.244.128.0/17",
                ],
            ),
            &["10.244.0.0/16", "10.244.128.0/17"],
        ),
        (
            plus(&lab, &["--snat-address", "192.168.0.77"]),
            &["192.168.0.77"],
        ),
        (plus(&lab, &["--datapath", "magic"]), &["magic"]),
    ] {
        fails(&lab, Bridge::command(&lab, &arguments).unwrap(), 2, words);
    }
}

#[test]
fn wrong_configuration_files_are_told_and_exit_with_2() {
    let lab = open();
    let file = lab.directory().join("bridge.yaml");
    let arguments = plus(&lab, &["--config", file.to_str().unwrap()]);
    for (text, words) in [
        ("officeCidrs: [192.168.0.0/22]\n", &["officeCidrs"][..]),
        ("officeCidr: {a: b}\n", &["bridge.yaml"]),
        ("podCidr: [10.244.0.0/40]\n", &["10.244.0.0/40"]),
        ("uplink: [eth0\n", &["bridge.yaml"]),
    ] {
        fs::write(&file, text).unwrap();
        fails(&lab, Bridge::command(&lab, &arguments).unwrap(), 2, words);
    }
}

#[test]
fn an_unknown_interface_is_told() {
    let lab = open();
    let arguments = with(&lab, "--uplink", "nosuch0");
    fails(
        &lab,
        Bridge::command(&lab, &arguments).unwrap(),
        1,
        &["nosuch0", "eth0"],
    );
}

#[test]
fn an_office_that_contains_the_nodes_pods_is_told() {
    let lab = open();
    let arguments = with(&lab, "--office-cidr", "10.244.0.0/16");
    let words = ["10.244.0.0/16", "10.244.1.0/24", "worker-1"];
    fails(&lab, Bridge::command(&lab, &arguments).unwrap(), 1, &words);
}

#[test]
fn missing_manifests_are_told() {
    let lab = open();
    let arguments = with(&lab, "--cluster", "manifests=/no/such/directory");
    fails(
        &lab,
        Bridge::command(&lab, &arguments).unwrap(),
        1,
        &["/no/such/directory"],
    );
}

#[test]
fn missing_capabilities_are_told() {
    let lab = open();
    let arguments = Bridge::default_arguments(&lab);
    let bounded = "--bounding-set=-bpf,-net_admin,-perfmon,-sys_admin";
    let mut command = lab.node_30().command("setpriv");
    command
        .args([bounded, "--inh-caps=-all"])
        .arg(bridge::binary().unwrap())
        .arg("run")
        .args(&arguments)
        .arg("--pin-path")
        .arg(lab.pin_path());
    fails(&lab, command, 1, &["CAP_NET_ADMIN", "CAP_BPF"]);
}

#[test]
fn a_kernel_without_btf_is_told() {
    let lab = open();
    let pin_path = lab.pin_path();
    let hidden = with_mounts(
        &lab,
        "mount -t tmpfs none /sys/kernel/btf",
        pin_path.to_str().unwrap(),
    );
    fails(&lab, hidden, 1, &["BTF"]);
}

#[test]
fn a_missing_bpf_filesystem_is_told() {
    let lab = open();
    let pin_path = lab.pin_path();
    let unmounted = with_mounts(
        &lab,
        "mount -t tmpfs none /sys/fs/bpf",
        pin_path.to_str().unwrap(),
    );
    fails(&lab, unmounted, 1, &["mount -t bpf"]);
}

#[test]
fn a_taken_port_53_is_told_with_the_process_that_has_it() {
    let lab = Lab::open(LabOptions {
        dns: DnsPlan::OnNode,
        ..LabOptions::of(Variant::DEFAULT)
    })
    .unwrap();
    let mut arguments = Bridge::default_arguments(&lab);
    arguments.retain(|argument| argument != "--no-dns");
    for argument in [
        "--dns-listen",
        "10.60.20.30:53",
        "--dns-upstream",
        "10.96.0.10:53",
    ] {
        arguments.push(argument.to_owned());
    }
    fails(
        &lab,
        Bridge::command(&lab, &arguments).unwrap(),
        1,
        &["10.60.20.30:53", "dnsmasq"],
    );
}

#[test]
fn tables_of_another_size_are_told_and_left_alone() {
    let lab = open();
    // Made by a bridge that is gone, then changed by somebody.
    let mut first = lab.start_bridge(&[]).unwrap();
    first.stop().unwrap();
    let table = first.client().table("flows").unwrap();
    first.leave_installed();
    fs::remove_file(&table).unwrap();
    let path = table.to_str().unwrap();
    let create = [
        "map", "create", path, "type", "hash", "key", "4", "value", "8", "entries", "16", "name",
        "flows",
    ];
    lab.node_30().run("bpftool", &create).unwrap();

    let output = run(Bridge::command(&lab, &Bridge::default_arguments(&lab)).unwrap());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("flows") && message.contains("uninstall"),
        "{message}"
    );
    assert!(table.exists());
    first.client().uninstall().unwrap();
    nothing_attached(&lab);
}

#[test]
fn a_second_instance_is_told_and_the_first_goes_on() {
    let lab = open();
    let first = lab.start_bridge(&[]).unwrap();
    let mut arguments = plus(&lab, &["--no-dns", "--http-listen", "127.0.0.1:9531"]);
    while let Some(at) = arguments
        .iter()
        .position(|argument| argument.starts_with("--dns-"))
    {
        arguments.drain(at..at + 2);
    }
    let output = run(Bridge::command(&lab, &arguments).unwrap());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&first.id().to_string()), "{message}");
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"the first")
        .unwrap();
    assert_eq!(first.status().unwrap()["ready"], true);
}

#[test]
fn a_broken_manifest_changes_nothing() {
    let lab = open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    fs::write(
        lab.manifests().join("services.yaml"),
        "kind: Service\nspec: [\n",
    )
    .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let web = std::net::SocketAddrV4::new(lab::plan::WEB, port::HTTP_SERVICE);
    assert_eq!(lab.office_pc().http_get(web, "/").unwrap().status, 200);
    assert!(
        bridge.wait(Duration::from_millis(10)).is_err(),
        "the bridge ended"
    );
    assert!(bridge.log().contains("services.yaml"), "{}", bridge.log());
}

#[test]
fn commands_without_a_bridge_say_so() {
    let lab = open();
    let client = bridge::Client::new(&lab);
    for arguments in [&["status"][..], &["flows", "list"], &["services"]] {
        let output = client.call(arguments).unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!message.contains("panicked"), "{message}");
        let told = format!("{message}{}", String::from_utf8_lossy(&output.stdout));
        assert!(!told.trim().is_empty(), "{arguments:?} says nothing");
    }
}

fn open() -> Lab {
    Lab::open(LabOptions::of(Variant::DEFAULT)).unwrap()
}

/// Runs a command that has to end by itself.
fn run(mut command: Command) -> Output {
    // A bridge that wrongly goes on must not hold the test up.
    let limit = Duration::from_secs(20).as_secs().to_string();
    let mut timed = Command::new("timeout");
    timed
        .arg(limit)
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        timed.env(key, value.unwrap_or_default());
    }
    command = timed;
    command.output().unwrap()
}

#[track_caller]
fn fails(lab: &Lab, command: Command, code: i32, words: &[&str]) {
    let output = run(command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    nothing_attached(lab);
}

#[track_caller]
fn nothing_attached(lab: &Lab) {
    let left: Vec<_> = lab
        .pin_path()
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let qdiscs = lab.node_30().run("tc", &["qdisc", "show"]).unwrap();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    let answer = lab
        .office_pc()
        .tcp_within(Duration::from_millis(200), lab.at("echo-1", port::ECHO));
    assert!(answer.is_err(), "office traffic gets through");
}

/// The default arguments, with the value of `flag` replaced everywhere.
fn with(lab: &Lab, flag: &str, value: &str) -> Vec<String> {
    let mut arguments = Bridge::default_arguments(lab);
    let mut found = false;
    for index in 1..arguments.len() {
        if arguments[index - 1] == flag {
            value.clone_into(&mut arguments[index]);
            found = true;
        }
    }
    assert!(found, "no {flag} in {arguments:?}");
    arguments
}

fn plus(lab: &Lab, extra: &[&str]) -> Vec<String> {
    let extra = extra.iter().map(|&argument| argument.to_owned());
    Bridge::default_arguments(lab)
        .into_iter()
        .chain(extra)
        .collect()
}

/// Runs the bridge in a mount namespace of its own, after `preparation` by a shell there.
fn with_mounts(lab: &Lab, preparation: &str, pin_path: &str) -> Command {
    let mut command = lab.node_30().command("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{preparation} && exec \"$0\" \"$@\""))
        .arg(bridge::binary().unwrap())
        .arg("run")
        .args(Bridge::default_arguments(lab))
        .args(["--pin-path", pin_path]);
    command
}
