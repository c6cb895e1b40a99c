//! Others on node-30's interfaces: they remove or replace what office-bridge has attached, or attach before it. It is put
//! back, or they are named; and a second office-bridge does not start.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::bridge::arguments::plus;
use lab::bridge::refused;
use lab::foreign::{self, Foreign};
use lab::host::exchange;
use lab::plan::{ECHO_SERVICE, HTTP_LISTEN};
use lab::wait::{FOLLOWS, PERIODIC};
use lab::{Bridge, Lab, LabOptions, eventually};
use serde_json::Value;

/// How long a connection is waited for that may not come.
const BRIEFLY: Duration = Duration::from_millis(200);
const CLSACT: [&str; 2] = ["--tc-attach", "clsact"];

#[test]
fn a_clsact_qdisc_that_somebody_deletes_is_put_back() {
    let lab = lab();
    let bridge = start(&lab, &CLSACT);
    for interface in ["eth0", "cni0"] {
        tc(&lab, &format!("qdisc del dev {interface} clsact"));
        // There is a notice of it, so nobody has to wait for the next look.
        eventually(FOLLOWS, interface, || {
            filters(&lab, interface).contains("ingress")
        });
        eventually(FOLLOWS, "ready", || is_ready(&bridge));
        reaches(&lab, interface);
    }
}

#[test]
fn a_filter_that_somebody_deletes_is_put_back() {
    let lab = lab();
    let bridge = start(&lab, &CLSACT);
    tc(&lab, "filter del dev eth0 ingress pref 50");
    eventually(FOLLOWS, "the filter", || {
        filters(&lab, "eth0").contains("uplink_ingress")
    });
    eventually(FOLLOWS, "ready", || is_ready(&bridge));
    reaches(&lab, "with the filter back");
    let log = bridge.log();
    assert!(log.contains("somebody had detached it"), "{log}");
}

#[test]
fn a_filter_that_somebody_replaces_is_put_back_until_that_is_a_fight() {
    let lab = lab();
    let bridge = start(&lab, &CLSACT);
    let mut other = Foreign::load(foreign::OK).unwrap();
    let shown = other.shown().unwrap();
    for _ in 0..3 {
        other.attach_filter(lab.node_30(), "eth0", 50).unwrap();
        assert!(!filters(&lab, "eth0").contains("uplink_ingress"));
        eventually(FOLLOWS, "the filter", || {
            filters(&lab, "eth0").contains("uplink_ingress")
        });
        eventually(FOLLOWS, "ready", || is_ready(&bridge));
        reaches(&lab, "with the filter back");
    }
    other.attach_filter(lab.node_30(), "eth0", 50).unwrap();
    let told = format!("on eth0 (tc-ingress) {shown} is in the place of our uplink_ingress");
    eventually(FOLLOWS, &told, || problems(&bridge).contains(&told));
    let readyz = lab.node_30().http_get(HTTP_LISTEN, "/readyz").unwrap();
    assert_eq!(readyz.status, 503, "{}", readyz.body);
    assert!(readyz.body.contains(&shown), "{}", readyz.body);

    tc(&lab, "filter del dev eth0 ingress pref 50");
    eventually(FOLLOWS, "ready", || is_ready(&bridge));
    eventually(FOLLOWS, "nothing to tell", || problems(&bridge) == "[]");
    reaches(&lab, "after the fight");
}

#[test]
fn a_tcx_link_that_somebody_detaches_is_put_back() {
    let lab = lab();
    let bridge = start(&lab, &[]);
    let places = [("eth0", "uplink_ingress"), ("cni0", "cluster_egress")];
    for (times, (interface, program)) in (1..).zip(places) {
        let pin = pinned_link(&lab, program, interface);
        bpftool(&lab, &format!("link detach pinned {pin}"));
        eventually(PERIODIC, interface, || {
            bridge.log().matches("somebody had detached it").count() == times
        });
        eventually(FOLLOWS, "ready", || is_ready(&bridge));
        reaches(&lab, interface);
    }
}

#[test]
fn a_tcx_program_that_takes_the_packets_first_is_overtaken() {
    let lab = lab();
    let bridge = start(&lab, &[]);
    let mut other = Foreign::load(foreign::OK).unwrap();
    other.attach_first(lab.node_30(), "eth0").unwrap();
    eventually(PERIODIC, "ours at the front", || {
        tcx(&lab, "eth0") == ["uplink_ingress", "foreign"]
    });
    reaches(&lab, "with ours at the front");
    assert!(is_ready(&bridge));
    let moved = format!("{} stood before it", other.shown().unwrap());
    assert!(bridge.log().contains(&moved), "{}", bridge.log());
    // The link is pinned where a successor looks for it.
    let links: Vec<PathBuf> = std::fs::read_dir(lab.pin_path().join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let pin = PathBuf::from(pinned_link(&lab, "uplink_ingress", "eth0"));
    assert!(links.contains(&pin), "{links:?}");
    assert!(
        links
            .iter()
            .all(|link| !link.display().to_string().contains("next_")),
        "{links:?}"
    );
}

#[test]
fn a_transfer_goes_on_while_ours_is_moved_to_the_front() {
    let lab = lab();
    let bridge = start(&lab, &[]);
    let mut other = Foreign::load(foreign::NEXT).unwrap();
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    other.attach_first(lab.node_30(), "eth0").unwrap();
    eventually(PERIODIC, "ours at the front", || {
        exchange(&mut session, b"meanwhile").unwrap();
        tcx(&lab, "eth0") == ["uplink_ingress", "foreign"]
    });
    exchange(&mut session, b"afterwards").unwrap();
    assert!(is_ready(&bridge));
}

#[test]
fn whoever_insists_on_being_first_is_named() {
    let lab = lab();
    let bridge = start(&lab, &[]);
    let mut told = String::new();
    let mut last = None;
    for round in 0..4 {
        let mut other = Foreign::load(foreign::OK).unwrap();
        let shown = other.shown().unwrap();
        told = format!("on eth0 (tc-ingress) {shown} is before our uplink_ingress");
        drop(last.take());
        other.attach_first(lab.node_30(), "eth0").unwrap();
        last = Some(other);
        if round < 3 {
            eventually(PERIODIC, "ours at the front", || {
                tcx(&lab, "eth0")[0] == "uplink_ingress"
            });
        }
    }
    eventually(PERIODIC, &told, || problems(&bridge).contains(&told));
    eventually(2 * PERIODIC, "not ready", || {
        let _ = lab.office_pc().tcp_within(BRIEFLY, ECHO_SERVICE);
        !is_ready(&bridge)
    });
    drop(last);
    eventually(PERIODIC, "nothing to tell", || problems(&bridge) == "[]");
    reaches(&lab, "without the other one");
}

#[test]
fn a_successor_puts_itself_before_who_came_meanwhile() {
    let lab = lab();
    let mut bridge = start(&lab, &[]);
    bridge.stop().unwrap();
    let mut other = Foreign::load(foreign::OK).unwrap();
    other.attach_first(lab.node_30(), "eth0").unwrap();
    bridge.leave_installed();
    let _bridge = start(&lab, &[]);
    assert_eq!(tcx(&lab, "eth0"), ["uplink_ingress", "foreign"]);
    reaches(&lab, "after the restart");
}

#[test]
fn a_filter_with_a_lower_priority_is_named() {
    let lab = lab();
    let bridge = start(&lab, &CLSACT);
    let mut other = Foreign::load(foreign::NEXT).unwrap();
    other.attach_filter(lab.node_30(), "eth0", 10).unwrap();
    let shown = other.shown().unwrap();
    let told = format!("on eth0 (tc-ingress) {shown} is before our uplink_ingress");
    eventually(FOLLOWS, &told, || problems(&bridge).contains(&told));
    // It leaves our packets to us.
    for _ in 0..20 {
        reaches(&lab, "behind the other one");
    }
    std::thread::sleep(PERIODIC);
    assert!(is_ready(&bridge));
    tc(&lab, "filter del dev eth0 ingress pref 10");
    eventually(FOLLOWS, "nothing to tell", || problems(&bridge) == "[]");
}

#[test]
fn a_second_bridge_with_a_pin_path_of_its_own_is_refused_and_the_first_goes_on() {
    let lab = lab();
    for attach in [&CLSACT[..], &[]] {
        let mut first = start(&lab, attach);
        let before = first.status().unwrap()["datapath"].clone();
        let id = program_id(&lab, attach.is_empty());
        for second in [&CLSACT[..], &[]] {
            let message = refused(&elsewhere(&lab, second), 1);
            let named = format!("another office-bridge's `uplink_ingress` (program {id})");
            assert!(message.contains(&named), "{message}");
            assert!(
                message.contains("attached to eth0 (tc-ingress)"),
                "{message}"
            );
            assert!(message.contains("--pin-path"), "{message}");
        }
        let output = uninstall_elsewhere(&lab);
        assert!(output.contains("nothing is pinned"), "{output}");
        assert_eq!(first.status().unwrap()["datapath"], before);
        assert_eq!(program_id(&lab, attach.is_empty()), id);
        assert!(is_ready(&first));
        reaches(&lab, "the first");
        // So it is where the first one has ended.
        first.stop().unwrap();
        let _ = refused(&elsewhere(&lab, &[]), 1);
        reaches(&lab, "the first, which has ended");
        first.uninstall().unwrap();
        first.leave_installed();
    }
}

#[test]
fn a_filter_whose_pins_are_gone_is_taken_over_by_its_own_bridge() {
    let lab = lab();
    for ending in ["run", "uninstall"] {
        let mut bridge = start(&lab, &CLSACT);
        bridge.stop().unwrap();
        bridge.leave_installed();
        std::fs::remove_dir_all(lab.pin_path()).unwrap();
        if ending == "run" {
            let mut bridge = start(&lab, &CLSACT);
            reaches(&lab, "over the old filter");
            bridge.uninstall().unwrap();
            bridge.leave_installed();
        } else {
            bridge.client().uninstall().unwrap();
        }
        let left = filters(&lab, "eth0");
        assert!(left.is_empty(), "{ending}: {left}");
    }
}

#[test]
fn a_filter_that_nobody_looks_after_is_told_with_the_command_that_removes_it() {
    let lab = lab();
    let mut bridge = start(&lab, &CLSACT);
    bridge.stop().unwrap();
    bridge.leave_installed();
    std::fs::remove_dir_all(lab.pin_path()).unwrap();
    let message = refused(&elsewhere(&lab, &[]), 1);
    let commands: Vec<&str> = message
        .split('`')
        .filter(|quoted| quoted.starts_with("tc filter del"))
        .collect();
    assert!(!commands.is_empty(), "{message}");
    for command in commands {
        lab.node_30().run_line(command).unwrap();
    }
    let left = filters(&lab, "eth0");
    assert!(left.is_empty(), "{left}");
    let bridge = start(&lab, &CLSACT);
    assert!(is_ready(&bridge));
    reaches(&lab, "after the removal");
}

#[test]
fn a_filter_that_takes_all_packets_first_makes_it_not_ready() {
    let lab = lab();
    let bridge = start(&lab, &CLSACT);
    let mut other = Foreign::load(foreign::OK).unwrap();
    other.attach_filter(lab.node_30(), "eth0", 10).unwrap();
    let shown = other.shown().unwrap();
    let told = format!("{shown} takes the packets of eth0 before uplink_ingress");
    eventually(2 * PERIODIC, &told, || {
        let _ = lab.office_pc().tcp_within(BRIEFLY, ECHO_SERVICE);
        let status = bridge.status().unwrap();
        status["ready"] == false && status["not_ready"].to_string().contains(&told)
    });
    assert!(
        problems(&bridge).contains("takes all packets"),
        "{}",
        problems(&bridge)
    );
    tc(&lab, "filter del dev eth0 ingress pref 10");
    eventually(FOLLOWS, "ready", || is_ready(&bridge));
    reaches(&lab, "without the other one");
}

fn lab() -> Lab {
    LabOptions::default_variant().open()
}

fn start(lab: &Lab, extra: &[&str]) -> Bridge {
    let arguments = plus(&Bridge::manifests_arguments(lab, "tc"), extra);
    Bridge::start(lab, &arguments).unwrap()
}

/// `run` on a pin path beside the lab's.
fn elsewhere(lab: &Lab, extra: &[&str]) -> Command {
    let arguments = plus(&Bridge::manifests_arguments(lab, "tc"), extra);
    let arguments = plus(&arguments, &["--no-http"]);
    on_another_pin_path(lab, &Bridge::command(lab, &arguments).unwrap())
}

fn on_another_pin_path(lab: &Lab, command: &Command) -> Command {
    let own = lab.pin_path();
    let mut other = own.clone().into_os_string();
    other.push("-second");
    let mut changed = Command::new(command.get_program());
    changed.args(command.get_args().map(|argument| {
        if argument == own.as_os_str() {
            other.as_os_str()
        } else {
            argument
        }
    }));
    changed
}

fn uninstall_elsewhere(lab: &Lab) -> String {
    let mut path = lab.pin_path().into_os_string();
    path.push("-second");
    let binary = lab::bridge::binary().unwrap().display().to_string();
    let path = path.into_string().unwrap();
    lab.node_30()
        .run(&binary, &["uninstall", "--pin-path", &path])
        .unwrap()
}

fn is_ready(bridge: &Bridge) -> bool {
    bridge.status().unwrap()["ready"] == true
}

fn problems(bridge: &Bridge) -> String {
    bridge.status().unwrap()["problems"].to_string()
}

#[track_caller]
fn reaches(lab: &Lab, when: &str) {
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, when.as_bytes())
        .unwrap_or_else(|error| panic!("{when}: {error:#}"));
}

fn tc(lab: &Lab, arguments: &str) {
    lab.node_30().run_line(&format!("tc {arguments}")).unwrap();
}

fn bpftool(lab: &Lab, arguments: &str) -> String {
    let line = format!("bpftool {arguments}");
    lab.node_30().run_line(&line).unwrap()
}

/// The filters at the ingress of an interface; nothing while it has no qdisc for them.
fn filters(lab: &Lab, interface: &str) -> String {
    let line = format!("tc filter show dev {interface} ingress");
    lab.node_30().run_line(&line).unwrap_or_default()
}

/// The programs at the TCX ingress of an interface, in their order.
fn tcx(lab: &Lab, interface: &str) -> Vec<String> {
    lab.node_30()
        .run_in(|| {
            let hook = aya::programs::TcAttachType::Ingress;
            let (_, programs) = aya::programs::SchedClassifier::query_tcx(interface, hook)?;
            let names = programs.iter().filter_map(|program| program.name_as_str());
            Ok(names.map(str::to_owned).collect())
        })
        .unwrap()
}

/// The id of the program on the uplink.
fn program_id(lab: &Lab, is_tcx: bool) -> u32 {
    if is_tcx {
        let pin = pinned_link(lab, "uplink_ingress", "eth0");
        let text = bpftool(lab, &format!("-j link show pinned {pin}"));
        let link: Value = serde_json::from_str(&text).unwrap();
        return link["prog_id"].as_u64().unwrap().try_into().unwrap();
    }
    let text = lab
        .node_30()
        .run_line("tc -j filter show dev eth0 ingress")
        .unwrap();
    let filters: Value = serde_json::from_str(&text).unwrap();
    let ids = filters.as_array().unwrap().iter();
    let mut ids = ids.filter_map(|filter| filter["options"]["prog"]["id"].as_u64());
    ids.next().unwrap().try_into().unwrap()
}

fn pinned_link(lab: &Lab, program: &str, interface: &str) -> String {
    let line = format!("ip -j link show dev {interface}");
    let text = lab.node_30().run_line(&line).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    let pin = format!("links/{program}-{}", links[0]["ifindex"]);
    lab.pin_path().join(pin).display().to_string()
}
