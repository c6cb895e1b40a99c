//! Attachment of XDP to node-30's interfaces: in the driver, adopted by a restart, repaired, removed, and reported where it
//! is not possible. The interfaces are veths, whose driver has native XDP.

use lab::bridge::arguments::with;
use lab::bridge::refused;
use lab::plan::{ECHO_SERVICE, port};
use lab::wait::PERIODIC;
use lab::{Bridge, Lab, LabOptions, Overlay, eventually};
use serde_json::Value;

#[test]
fn a_start_that_is_refused_changes_nothing_of_what_an_earlier_one_has_left() {
    let lab = LabOptions::default_variant().open();
    for datapath in ["tc", "xdp"] {
        let arguments = Bridge::manifests_arguments(&lab, datapath);
        let mut bridge = Bridge::start(&lab, &arguments).unwrap();
        bridge.stop().unwrap();
        let before = bridge.status().unwrap()["datapath"].clone();
        let error = refused_on(&lab, "cni0");
        assert!(error.contains("cni0 has no native XDP"), "{error}");
        assert_eq!(bridge.status().unwrap()["datapath"], before);
        lab.office_pc().tcp_echo(ECHO_SERVICE, b"goes on").unwrap();
        bridge.uninstall().unwrap();
    }
}

#[test]
fn xdp_outlives_the_process_is_taken_over_and_uninstalled() {
    let lab = LabOptions::default_variant().open();
    let mut bridge = start(&lab);
    assert_eq!(xdp(&bridge), native(&["eth0"]));
    let (first, id) = (program(&lab, "eth0"), link_id(&lab, "eth0"));
    assert!(first.is_some());
    reaches(&lab, "while it runs");

    bridge.stop().unwrap();
    assert_eq!(program(&lab, "eth0"), first);
    reaches(&lab, "after SIGTERM");

    bridge.leave_installed();
    let mut bridge = start(&lab);
    assert_eq!(xdp(&bridge), native(&["eth0"]));
    assert_eq!(link_id(&lab, "eth0"), id);
    assert_ne!(program(&lab, "eth0"), first, "the new process's own");
    reaches(&lab, "after a restart");

    bridge.uninstall().unwrap();
    assert_eq!(program(&lab, "eth0"), None);
}

#[test]
fn a_restart_without_xdp_takes_it_off() {
    let lab = LabOptions::default_variant().open();
    let mut bridge = start(&lab);
    bridge.stop().unwrap();
    bridge.leave_installed();
    let arguments = Bridge::manifests_arguments(&lab, "tc");
    let bridge = Bridge::start(&lab, &arguments).unwrap();
    assert_eq!(xdp(&bridge), []);
    assert_eq!(program(&lab, "eth0"), None);
    reaches(&lab, "without XDP");
}

#[test]
fn both_cards_get_xdp_where_the_nodes_have_a_network_of_their_own() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let lab = LabOptions {
            overlay,
            second_nic: true,
            ..LabOptions::default_variant()
        }
        .open();
        let bridge = start(&lab);
        assert_eq!(xdp(&bridge), native(&["eth0", "eth1"]), "{overlay:?}");
        assert!(program(&lab, "eth1").is_some(), "{overlay:?}");
        reaches(&lab, "with two cards");
    }
}

#[test]
fn auto_leaves_a_veth_to_the_tc_path_and_says_so() {
    let lab = LabOptions::default_variant().open();
    let arguments = Bridge::manifests_arguments(&lab, "auto");
    let bridge = Bridge::start(&lab, &arguments).unwrap();
    assert_eq!(xdp(&bridge), []);
    assert_eq!(program(&lab, "eth0"), None);
    let log = bridge.log();
    assert!(log.contains("the uplink is a veth"), "{log}");
    reaches(&lab, "with auto");
}

#[test]
fn a_link_that_somebody_has_cut_is_mended() {
    let lab = LabOptions::default_variant().open();
    let bridge = start(&lab);
    let pin = pinned_link(&lab, "eth0");
    lab.node_30()
        .run("bpftool", &["link", "detach", "pinned", &pin])
        .unwrap();
    assert_eq!(program(&lab, "eth0"), None);
    let status = bridge.status().unwrap();
    assert_eq!(status["ready"], false, "{status}");
    eventually(PERIODIC, "attached again", || {
        program(&lab, "eth0").is_some()
    });
    eventually(PERIODIC, "ready", || {
        bridge.status().unwrap()["ready"] == true
    });
    assert_eq!(xdp(&bridge), native(&["eth0"]));
}

#[test]
fn another_program_is_named_and_left_alone() {
    let lab = LabOptions::default_variant().open();
    let node = lab.node_30();
    let mut bridge = start(&lab);
    let id = program(&lab, "eth0").unwrap();
    let pin_text = format!("{}-other", lab.pin_path().display());
    node.run(
        "bpftool",
        &["prog", "pin", "id", &id.to_string(), &pin_text],
    )
    .unwrap();
    bridge.uninstall().unwrap();
    bridge.leave_installed();
    node.run(
        "bpftool",
        &[
            "net", "attach", "xdpdrv", "pinned", &pin_text, "dev", "eth0",
        ],
    )
    .unwrap();
    // The interface holds it by now.
    std::fs::remove_file(&pin_text).unwrap();

    let error = refused_on(&lab, "eth0");
    let named = format!("eth0 has an XDP program already: `xdp_fast` (id {id})");
    assert!(error.contains(&named), "{error}");
    assert!(error.contains("--datapath tc"), "{error}");
    assert_eq!(program(&lab, "eth0"), Some(id));
    assert!(!lab.pin_path().exists(), "something was left behind");

    node.run("bpftool", &["net", "detach", "xdpdrv", "dev", "eth0"])
        .unwrap();
    let bridge = start(&lab);
    assert_eq!(xdp(&bridge), native(&["eth0"]));
}

#[test]
fn jumbo_frames_are_no_reason_to_go_without() {
    let lab = LabOptions::default_variant().open();
    for (namespace, interface) in [
        (&lab.switch(), "lan-node-30"),
        (lab.node_30().namespace(), "eth0"),
    ] {
        namespace
            .output("ip", &["link", "set", "dev", interface, "mtu", "9000"])
            .unwrap();
    }
    let bridge = start(&lab);
    assert_eq!(xdp(&bridge), native(&["eth0"]));
    reaches(&lab, "with jumbo frames");
}

#[test]
fn a_start_that_the_uplinks_driver_refuses_says_why_and_leaves_nothing() {
    let lab = LabOptions::default_variant().open();
    make_unfit(&lab, "lan-node-30");
    let error = refused_on(&lab, "eth0");
    let why = "XDP expects number of rx queues not less than peer tx queues";
    assert!(error.contains("no XDP on eth0"), "{error}");
    assert!(error.contains(why), "{error}");
    assert!(!lab.pin_path().exists(), "something was left behind");
    assert!(lab.office_pc().is_cut_off_from(ECHO_SERVICE));
}

#[test]
fn a_card_towards_the_workers_without_xdp_is_served_by_tc_and_told() {
    let lab = LabOptions {
        overlay: Overlay::HostGw,
        second_nic: true,
        ..LabOptions::default_variant()
    }
    .open();
    make_unfit(&lab, "node-30");
    let bridge = start(&lab);
    assert_eq!(xdp(&bridge), native(&["eth0"]));
    let told = problems(&bridge);
    assert!(told.contains("no XDP on eth1"), "{told}");
    assert!(told.contains("TC path"), "{told}");
    let events = bridge.status().unwrap()["events"].to_string();
    assert!(events.contains("degraded: no XDP on eth1"), "{events}");
    reaches(&lab, "with XDP on one card");

    lab.switch()
        .output("ethtool", &["-L", "node-30", "tx", "1"])
        .unwrap();
    eventually(PERIODIC, "XDP on eth1", || program(&lab, "eth1").is_some());
    eventually(PERIODIC, "told", || {
        xdp(&bridge) == native(&["eth0", "eth1"])
    });
    assert!(
        !problems(&bridge).contains("no XDP"),
        "{}",
        problems(&bridge)
    );
}

#[test]
fn a_card_that_can_not_send_by_xdp_is_told_until_it_can() {
    let lab = LabOptions::default_variant().open();
    let bridge = start(&lab);
    let told = problems(&bridge);
    assert!(
        told.contains("eth0 receives by XDP and can't send"),
        "{told}"
    );
    lab.switch()
        .output("ethtool", &["-K", "lan-node-30", "gro", "on"])
        .unwrap();
    eventually(PERIODIC, "nothing to tell", || {
        !problems(&bridge).contains("eth0 receives")
    });
}

/// Starts a bridge that asks for XDP.
fn start(lab: &Lab) -> Bridge {
    Bridge::start(lab, &Bridge::manifests_arguments(lab, "xdp")).unwrap()
}

/// What a bridge with `--datapath xdp` says that does not start.
#[track_caller]
fn refused_on(lab: &Lab, uplink: &str) -> String {
    let arguments = with(&Bridge::manifests_arguments(lab, "xdp"), "--uplink", uplink);
    refused(&Bridge::command(lab, &arguments).unwrap(), 1)
}

/// Interface and mode of the XDP programs that `status` shows.
fn xdp(bridge: &Bridge) -> Vec<(String, String)> {
    let status = bridge.status().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    status["datapath"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["hook"] == "xdp")
        .map(|entry| (text(&entry["interface"]), text(&entry["mode"])))
        .collect()
}

fn native(interfaces: &[&str]) -> Vec<(String, String)> {
    let native = |&interface: &&str| (interface.to_owned(), "native".to_owned());
    interfaces.iter().map(native).collect()
}

fn problems(bridge: &Bridge) -> String {
    bridge.status().unwrap()["problems"].to_string()
}

/// What the kernel says of an interface of node-30, as `ip -j -d link show` prints it.
fn link(lab: &Lab, interface: &str) -> Value {
    let text = lab
        .node_30()
        .run("ip", &["-j", "-d", "link", "show", "dev", interface])
        .unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// The XDP program that runs in the driver of an interface of node-30: its id.
fn program(lab: &Lab, interface: &str) -> Option<u64> {
    /// `XDP_ATTACHED_DRV` (`linux/if_link.h`).
    const IN_THE_DRIVER: u64 = 1;
    let xdp = &link(lab, interface)["xdp"];
    let id = xdp["prog"]["id"].as_u64();
    if id.is_some() {
        assert_eq!(xdp["mode"], IN_THE_DRIVER, "{xdp}");
    }
    id
}

fn pinned_link(lab: &Lab, interface: &str) -> String {
    let ifindex = &link(lab, interface)["ifindex"];
    lab.pin_path()
        .join(format!("links/xdp_fast-{ifindex}"))
        .display()
        .to_string()
}

/// The id of the pinned link of an interface of node-30.
fn link_id(lab: &Lab, interface: &str) -> u64 {
    let pin = pinned_link(lab, interface);
    let text = lab
        .node_30()
        .run("bpftool", &["-j", "link", "show", "pinned", &pin])
        .unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["id"]
        .as_u64()
        .unwrap()
}

#[track_caller]
fn reaches(lab: &Lab, when: &str) {
    for target in [lab.at("echo-1", port::ECHO), ECHO_SERVICE] {
        lab.office_pc()
            .tcp_echo(target, when.as_bytes())
            .unwrap_or_else(|error| panic!("{when}: {error:#}"));
    }
}

/// Gives the far end of a cable more queues than a veth with XDP takes packets from.
fn make_unfit(lab: &Lab, far_end: &str) {
    lab.switch()
        .output("ethtool", &["-L", far_end, "tx", "2"])
        .unwrap();
}
