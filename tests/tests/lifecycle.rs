//! Start, stop, crash, restart and `uninstall`; and changes on the node while the bridge runs.

use std::collections::HashSet;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use lab::bridge::arguments::plus;
use lab::bridge::{nothing_pinned, refused};
use lab::cluster::Protocol;
use lab::eventually;
use lab::host::exchange;
use lab::plan::{self, ECHO_SERVICE, port};
use lab::wait::FOLLOWS;
use lab::{Bridge, Lab, LabOptions};
use serde_json::Value;

#[test]
fn forwarding_goes_on_after_sigterm() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    all_work(&lab, &mut sessions, "while it runs");
    let status = bridge.stop().unwrap();
    assert!(status.success(), "{status}: {}", bridge.log());
    all_work(&lab, &mut sessions, "after SIGTERM");
    // The tables can still be read.
    let flows = bridge.flows().unwrap();
    assert!(translations(&flows).len() >= 3, "{flows:?}");
    let status = bridge.status().unwrap();
    assert_eq!(status["running"], false, "{status}");
}

#[test]
fn forwarding_goes_on_after_a_crash() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    bridge.kill().unwrap();
    all_work(&lab, &mut sessions, "after SIGKILL");
}

#[test]
fn a_start_that_fails_leaves_a_predecessor_of_another_layout_alone() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    bridge.stop().unwrap();
    let is_layout = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with('v')
    };
    let pins = fs::read_dir(lab.pin_path()).unwrap();
    let tables = pins.map(|entry| entry.unwrap().path()).find(is_layout);
    let (tables, others) = (tables.unwrap(), lab.pin_path().join("v0"));
    fs::rename(&tables, &others).unwrap();

    let text = fail_to_start(&lab);
    assert!(others.exists() && !tables.exists(), "{text}");
    all_work(&lab, &mut sessions, "after a start that failed");
    // `uninstall` looks for the tables there.
    fs::rename(&others, &tables).unwrap();
}

#[test]
fn a_new_run_adopts_the_flows_of_the_last_one() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    let before = translations(&bridge.flows().unwrap());
    assert_eq!(before.len(), sessions.len());

    for round in 0..3 {
        if round % 2 == 0 {
            bridge.stop().unwrap();
        } else {
            bridge.kill().unwrap();
        }
        bridge.leave_installed();
        bridge = lab.start_bridge(&[]).unwrap();
        all_work(&lab, &mut sessions, "after a restart");
        let after = translations(&bridge.flows().unwrap());
        assert!(
            after.is_superset(&before),
            "round {round}: {before:?} became {after:?}"
        );
    }
    bridge.uninstall().unwrap();
    assert!(!lab.is_bridged(ECHO_SERVICE));
}

#[test]
fn a_restart_interrupts_no_transfer() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let target = lab.at("echo-1", port::BULK);
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| lab.office_pc().bulk(target, 1 << 30, 1 << 30));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(100));
            bridge.stop().unwrap();
            bridge.leave_installed();
            bridge = lab.start_bridge(&[]).unwrap();
        }
        transfer.join().unwrap().unwrap();
    });
}

#[test]
fn a_run_after_a_pause_learns_what_has_changed() {
    let mut lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"before").unwrap();
    bridge.stop().unwrap();
    bridge.leave_installed();
    for endpoint in &mut lab.cluster_mut().service_mut("echo").endpoints {
        endpoint.ready = endpoint.pod == "echo-2";
    }
    lab.publish().unwrap();
    drop(bridge);
    let arrivals = || lab.pod("echo-2").peers(Protocol::Tcp, port::ECHO).len();
    let _bridge = lab.start_bridge(&[]).unwrap();
    eventually(FOLLOWS, "only the one backend that is left", || {
        let before = arrivals();
        for _ in 0..20 {
            lab.office_pc().tcp_echo(ECHO_SERVICE, b"after").unwrap();
        }
        arrivals() - before == 20
    });
}

#[test]
fn uninstall_leaves_nothing() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();
    bridge.uninstall().unwrap();
    nothing_pinned(&lab);
    assert!(!lab.is_bridged(ECHO_SERVICE));
    let qdiscs = lab.node_30().run("tc", &["qdisc", "show"]).unwrap();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    // A second `uninstall` finds nothing, and succeeds.
    bridge.client().uninstall().unwrap();
}

#[test]
fn uninstall_works_without_a_running_bridge_and_again_after_a_crash() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    bridge.kill().unwrap();
    bridge.uninstall().unwrap();
    let pod = lab.at("echo-1", port::ECHO);
    assert!(!lab.is_bridged(pod));
    let mut again = lab.start_bridge(&[]).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();
    again.uninstall().unwrap();
    nothing_pinned(&lab);
}

#[test]
fn what_others_have_pinned_in_the_same_directory_stays() {
    let lab = LabOptions::default().open();
    let foreign = lab.pin_path().join("tc/globals/foreign");
    fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    let path = foreign.to_str().unwrap();
    let create =
        format!("bpftool map create {path} type array key 4 value 4 entries 1 name foreign");
    lab.node_30().run_line(&create).unwrap();

    let text = fail_to_start(&lab);
    assert!(foreign.exists(), "{text}");
    let mut bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();
    bridge.uninstall().unwrap();
    assert!(foreign.exists());
    let left = fs::read_dir(lab.pin_path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["tc"]);
}

#[test]
fn uninstall_removes_no_ordinary_files() {
    let lab = LabOptions::default().open();
    let file = lab.directory().join("mine/v5/flows");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "mine").unwrap();
    let binary = lab::bridge::binary().unwrap();
    let mut command = lab.node_30().command(binary.to_str().unwrap());
    command.args(["uninstall", "--pin-path"]);
    command.arg(lab.directory().join("mine"));
    let text = refused(&command, 1);
    assert!(text.contains("not on a bpf filesystem"), "{text}");
    assert!(file.exists());
}

#[test]
fn flushed_flows_are_gone() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    assert_eq!(bridge.flows().unwrap().len(), 3);
    let client = lab.office_pc().address().to_string();
    let pod = lab.pod("echo-0").address().to_string();
    bridge
        .client()
        .text(&["flows", "flush", "--client", &client, "--destination", &pod])
        .unwrap();
    let flows = bridge.flows().unwrap();
    assert_eq!(flows.len(), 2, "{flows:?}");
    assert!(exchange(&mut sessions[1], b"a flushed flow").is_err());
    bridge.client().text(&["flows", "flush"]).unwrap();
    // That a connection went to a service which kube-proxy translates stays noted.
    let is_translated = |flow: &Value| flow["layer"] != "kernel";
    let left: Vec<_> = bridge.flows().unwrap();
    assert!(!left.iter().any(is_translated), "{left:?}");
    assert!(
        lab.options().datapath.is_stack() || left.is_empty(),
        "{left:?}"
    );
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"a new one")
        .unwrap();
}

#[test]
fn the_first_pod_of_the_node_may_come_late() {
    let mut lab = LabOptions {
        local_pod: false,
        ..LabOptions::default()
    }
    .open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc()
        .tcp_echo(lab.at("echo-1", port::ECHO), b"no cni0 yet")
        .unwrap();
    lab.add_local_pod().unwrap();
    eventually(FOLLOWS, "the pod behind the new cni0", || {
        answers(&lab, "echo-0")
    });
    lab.office_pc()
        .udp_echo(lab.at("echo-0", port::ECHO), b"hello")
        .unwrap();
    lab.office_pc().ping(lab.pod("echo-0").address()).unwrap();
}

#[test]
fn lost_neighbours_are_found_again() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    for round in 0..3 {
        for interface in ["eth0", "cni0"] {
            let flush = format!("ip neigh flush dev {interface}");
            lab.node_30().run_line(&flush).unwrap();
        }
        all_work(&lab, &mut sessions, &format!("after flush {round}"));
    }
}

#[test]
fn a_configuration_file_says_the_same_as_flags() {
    let lab = LabOptions::default().open();
    let file = lab.directory().join("bridge.yaml");
    let text = format!(
        "uplink: eth0\nofficeCidr: [192.168.0.0/22]\ncluster: manifests={}\n\
         dnsListen: 10.60.20.30:53\ndnsUpstream: 10.96.0.10:53\ndnsAllow: 10.60.20.1/32\n\
         datapath: {}\n",
        lab.manifests().display(),
        lab.options().datapath
    );
    fs::write(&file, text).unwrap();
    let arguments = ["--config".to_owned(), file.display().to_string()];
    let bridge = Bridge::start(&lab, &arguments).unwrap();
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"configured by file")
        .unwrap();
    let name = "echo.project-a-dev1.svc.cluster.local";
    assert_eq!(
        lab.office_pc().resolve(plan::ROUTER_LAN, name).unwrap(),
        plan::ECHO
    );
    drop(bridge);

    // A flag wins over the file.
    let bad = plus(&arguments, &["--uplink", "nosuch0"]);
    let message = refused(&Bridge::command(&lab, &bad).unwrap(), 1);
    assert!(message.contains("nosuch0"), "{message}");
}

/// Connections to a pod on another node, to node-30's own, and to a service.
fn sessions(lab: &Lab) -> Vec<TcpStream> {
    [
        lab.at("echo-1", port::ECHO),
        lab.at("echo-0", port::ECHO),
        ECHO_SERVICE,
    ]
    .into_iter()
    .map(|target| lab.office_pc().tcp(target).unwrap())
    .collect()
}

#[track_caller]
fn all_work(lab: &Lab, sessions: &mut [TcpStream], when: &str) {
    for session in sessions {
        exchange(session, when.as_bytes()).unwrap_or_else(|error| panic!("{when}: {error:#}"));
    }
    // And new ones.
    lab.office_pc()
        .tcp_echo(lab.at("echo-2", port::ECHO), when.as_bytes())
        .unwrap();
    lab.office_pc()
        .udp_echo(ECHO_SERVICE, when.as_bytes())
        .unwrap();
    lab.office_pc().ping(lab.pod("echo-0").address()).unwrap();
}

/// The translations of the TCP flows, without what changes with every packet.
fn translations(flows: &[Value]) -> HashSet<String> {
    flows
        .iter()
        .filter(|flow| {
            flow["protocol"]
                .as_str()
                .is_some_and(|name| name.eq_ignore_ascii_case("tcp"))
        })
        .map(|flow| {
            format!(
                "{} {} {} {}",
                flow["client"], flow["destination"], flow["backend"], flow["nat"]
            )
        })
        .collect()
}

fn answers(lab: &Lab, pod: &str) -> bool {
    let limit = Duration::from_millis(500);
    lab.office_pc()
        .tcp_within(limit, lab.at(pod, port::ECHO))
        .is_ok()
}

/// Starts a bridge that can't open as many files as it needs, and gives what it says.
#[track_caller]
fn fail_to_start(lab: &Lab) -> String {
    let arguments = Bridge::default_arguments(lab);
    let limited = Bridge::command_under(lab, &["prlimit", "--nofile=30", "--"], &arguments);
    let text = refused(&limited.unwrap(), 1);
    assert!(text.contains("Too many open files"), "{text}");
    text
}
