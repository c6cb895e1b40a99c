//! Wrong usage, wrong configuration and unfit nodes: `run` ends with a message that says what to do, with exit code 2
//! for wrong usage and 1 otherwise, and leaves nothing attached.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::bridge::arguments::{plus, with, without};
use lab::bridge::{nothing_attached, refused};
use lab::dns::DnsPlan;
use lab::plan::{ECHO_SERVICE, port};
use lab::{Bridge, Lab, LabOptions, bridge};

#[test]
fn wrong_usage_is_told_and_exits_with_2() {
    let lab = LabOptions::default_variant().open();
    let defaults = Bridge::default_arguments(&lab);
    for (arguments, words) in [
        (
            plus(&defaults, &["--no-such-flag"]),
            &["--no-such-flag"][..],
        ),
        (
            with(&defaults, "--office-cidr", "the office"),
            &["--office-cidr", "the office"],
        ),
        (
            with(&defaults, "--office-cidr", "192.168.0.0/33"),
            &["192.168.0.0/33"],
        ),
        (
            with(&defaults, "--office-cidr", "192.168.0.10/22"),
            &["192.168.0.10/22", "192.168.0.0/22"],
        ),
        (
            with(&defaults, "--office-cidr", "192.168.0.0"),
            &["192.168.0.0/32"],
        ),
        (with(&defaults, "--office-cidr", "fd00::/64"), &["IPv6"]),
        (
            with(&defaults, "--office-cidr", "0.0.0.0/0"),
            &["0.0.0.0/0"],
        ),
        (
            with(&defaults, "--uplink", "a name that is far too long"),
            &["--uplink"],
        ),
        (
            with(&defaults, "--cluster", "manifests"),
            &["manifests=DIR"],
        ),
        (with(&defaults, "--cluster", "swarm"), &["swarm"]),
        (
            with(&defaults, "--dns-listen", "10.60.20.30"),
            &["--dns-listen", "port"],
        ),
        (
            with(&defaults, "--dns-upstream", "10.60.20.30:53"),
            &["--dns-upstream"],
        ),
        (
            plus(&defaults, &["--pod-cidr", "192.168.2.0/24"]),
            &["192.168.0.0/22", "192.168.2.0/24"],
        ),
        (
            plus(
                &defaults,
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
            plus(&defaults, &["--snat-address", "192.168.0.77"]),
            &["192.168.0.77"],
        ),
        (plus(&defaults, &["--datapath", "magic"]), &["magic"]),
    ] {
        fails(&lab, &Bridge::command(&lab, &arguments).unwrap(), 2, words);
    }
}

#[test]
fn wrong_configuration_files_are_told_and_exit_with_2() {
    let lab = LabOptions::default_variant().open();
    let defaults = Bridge::default_arguments(&lab);
    let file = lab.directory().join("bridge.yaml");
    let arguments = plus(&defaults, &["--config", file.to_str().unwrap()]);
    for (text, words) in [
        ("officeCidrs: [192.168.0.0/22]\n", &["officeCidrs"][..]),
        ("officeCidr: {a: b}\n", &["bridge.yaml"]),
        ("podCidr: [10.244.0.0/40]\n", &["10.244.0.0/40"]),
        ("uplink: [eth0\n", &["bridge.yaml"]),
    ] {
        fs::write(&file, text).unwrap();
        fails(&lab, &Bridge::command(&lab, &arguments).unwrap(), 2, words);
    }
}

#[test]
fn an_unknown_interface_is_told() {
    let lab = LabOptions::default_variant().open();
    let defaults = Bridge::default_arguments(&lab);
    let arguments = with(&defaults, "--uplink", "nosuch0");
    fails(
        &lab,
        &Bridge::command(&lab, &arguments).unwrap(),
        1,
        &["nosuch0", "eth0"],
    );
}

#[test]
fn an_office_that_contains_the_nodes_pods_is_told() {
    let lab = LabOptions::default_variant().open();
    let defaults = Bridge::default_arguments(&lab);
    let arguments = with(&defaults, "--office-cidr", "10.244.0.0/16");
    let words = ["10.244.0.0/16", "10.244.1.0/24", "worker-1"];
    fails(&lab, &Bridge::command(&lab, &arguments).unwrap(), 1, &words);
}

#[test]
fn other_devices_of_the_node_may_lie_inside_an_office_network() {
    let lab = LabOptions::default_variant().open();
    let node = lab.node_30();
    for line in [
        "ip link add virbr0 type bridge",
        "ip addr add 192.168.122.1/24 dev virbr0",
        "ip link set virbr0 up",
        "ip link add docker0 type bridge",
        "ip addr add 172.17.0.1/16 dev docker0",
        "ip link add vpn0 type vxlan id 77 dstport 4790 dev eth0",
        "ip addr add 192.168.77.1/24 dev vpn0",
        "ip link set vpn0 up",
        "ip link add office2 type veth peer name cable2",
        "ip addr add 192.168.20.30/24 dev office2",
        "ip link set cable2 up",
        "ip link set office2 up",
        "ip addr add 192.168.0.53/32 dev lo",
    ] {
        node.run_line(line).unwrap();
    }
    let defaults = Bridge::default_arguments(&lab);
    let arguments = with(&defaults, "--office-cidr", "192.168.0.0/16");
    let arguments = plus(&arguments, &["--office-cidr", "172.16.0.0/12"]);
    let bridge = Bridge::start(&lab, &arguments).unwrap();
    let pc = lab.office_pc();
    pc.tcp_echo(lab.at("echo-1", port::ECHO), b"a pod").unwrap();
    pc.tcp_echo(ECHO_SERVICE, b"a service").unwrap();
    let status = bridge.status().unwrap();
    let interfaces = status["datapath"].to_string();
    for other in ["virbr0", "docker0", "vpn0", "office2"] {
        assert!(!interfaces.contains(other), "{interfaces}");
    }
}

#[test]
fn missing_manifests_are_told() {
    let lab = LabOptions::default_variant().open();
    let defaults = Bridge::default_arguments(&lab);
    let arguments = with(&defaults, "--cluster", "manifests=/no/such/directory");
    fails(
        &lab,
        &Bridge::command(&lab, &arguments).unwrap(),
        1,
        &["/no/such/directory"],
    );
}

#[test]
fn missing_capabilities_are_told() {
    let lab = LabOptions::default_variant().open();
    let arguments = Bridge::default_arguments(&lab);
    let bounded = "--bounding-set=-bpf,-net_admin,-perfmon,-sys_admin";
    let wrapper = ["setpriv", bounded, "--inh-caps=-all"];
    let command = Bridge::command_under(&lab, &wrapper, &arguments).unwrap();
    fails(&lab, &command, 1, &["CAP_NET_ADMIN", "CAP_BPF"]);
}

#[test]
fn a_kernel_without_btf_is_told() {
    let lab = LabOptions::default_variant().open();
    let hidden = with_mounts(&lab, "mount -t tmpfs none /sys/kernel/btf");
    fails(&lab, &hidden, 1, &["BTF"]);
}

#[test]
fn a_missing_bpf_filesystem_is_told() {
    let lab = LabOptions::default_variant().open();
    let unmounted = with_mounts(&lab, "mount -t tmpfs none /sys/fs/bpf");
    fails(&lab, &unmounted, 1, &["mount -t bpf"]);
}

#[test]
fn a_taken_port_53_is_told_with_the_process_that_has_it() {
    let lab = LabOptions {
        dns: DnsPlan::OnNode,
        ..LabOptions::default_variant()
    }
    .open();
    let mut arguments = Bridge::default_arguments(&lab);
    arguments.retain(|argument| argument != "--no-dns");
    let dns = [
        "--dns-listen",
        "10.60.20.30:53",
        "--dns-upstream",
        "10.96.0.10:53",
    ];
    let arguments = plus(&arguments, &dns);
    fails(
        &lab,
        &Bridge::command(&lab, &arguments).unwrap(),
        1,
        &["10.60.20.30:53", "dnsmasq"],
    );
}

#[test]
fn tables_of_another_size_are_told_and_left_alone() {
    let lab = LabOptions::default_variant().open();
    // Made by a bridge that is gone, then changed by somebody.
    let mut first = lab.start_bridge(&[]).unwrap();
    first.stop().unwrap();
    let table = first.client().table("flows").unwrap();
    first.leave_installed();
    fs::remove_file(&table).unwrap();
    let path = table.to_str().unwrap();
    let create = format!("bpftool map create {path} type hash key 4 value 8 entries 16 name flows");
    lab.node_30().run_line(&create).unwrap();

    let arguments = Bridge::default_arguments(&lab);
    let message = refused(&Bridge::command(&lab, &arguments).unwrap(), 1);
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
    let lab = LabOptions::default_variant().open();
    let defaults = Bridge::default_arguments(&lab);
    let first = lab.start_bridge(&[]).unwrap();
    let other_port = ["--no-dns", "--http-listen", "127.0.0.1:9531"];
    let arguments = plus(&without(&defaults, "--dns-"), &other_port);
    let message = refused(&Bridge::command(&lab, &arguments).unwrap(), 1);
    assert!(message.contains(&first.id().to_string()), "{message}");
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"the first")
        .unwrap();
    assert_eq!(first.status().unwrap()["ready"], true);
}

#[test]
fn a_broken_manifest_changes_nothing() {
    let lab = LabOptions::default_variant().open();
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
    let lab = LabOptions::default_variant().open();
    let client = bridge::Client::new(&lab);
    for arguments in [&["status"][..], &["flows", "list"], &["services"]] {
        let output = client.call(arguments).unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!message.contains("panicked"), "{message}");
        let told = format!("{message}{}", String::from_utf8_lossy(&output.stdout));
        assert!(!told.trim().is_empty(), "{arguments:?} says nothing");
    }
}

/// Runs a command that has to fail with this code, say all of these words, and leave nothing behind.
#[track_caller]
fn fails(lab: &Lab, command: &Command, code: i32, words: &[&str]) {
    let message = refused(command, code);
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    nothing_attached(lab);
}

/// Runs the bridge in a mount namespace of its own, after `preparation` by a shell there.
fn with_mounts(lab: &Lab, preparation: &str) -> Command {
    let script = format!("{preparation} && exec \"$0\" \"$@\"");
    let wrapper = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
    ];
    Bridge::command_under(lab, &wrapper, &Bridge::default_arguments(lab)).unwrap()
}
