//! Tables and programs in the kernel as bpftool shows them, and as `status`, `flows` and `services` do.

use std::net::SocketAddrV4;
use std::path::Path;

use lab::host::exchange;
use lab::plan::{self, WEB_SERVICE, port};
use lab::{Datapath, Host, LabOptions, Overlay};
use serde_json::{Value, json};

#[test]
fn bpftool_prints_flows_by_field_names() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let web = WEB_SERVICE;
    let _session = lab.office_pc().tcp_from(20_007, web).unwrap();

    let pod = lab.pod("web-0").address();
    let nat = json!(lab.nat_address(pod).octets());
    // On the stack path the flow is to the pod, and a second entry has the service.
    let is_stack = lab.options().datapath.is_stack();
    let (destination, destination_port) = if is_stack {
        (pod, port::HTTP)
    } else {
        (plan::WEB, port::HTTP_SERVICE)
    };
    let destination = json!(destination.octets());

    let flows = bridge.client().entries("flows").unwrap();
    assert_eq!(flows.len(), if is_stack { 2 } else { 1 }, "{flows:?}");
    let flow = flows
        .iter()
        .find(|(key, _)| key["destination"] == destination);
    let (key, value) = flow.unwrap_or_else(|| panic!("{flows:?}"));
    assert_eq!(key["client"], json!([192, 168, 0, 10]), "{key}");
    assert_eq!(key["client_port"], 20_007, "{key}");
    assert_eq!(key["destination_port"], destination_port, "{key}");
    assert_eq!(key["protocol"], 6, "{key}");
    assert_eq!(value["backend"], json!([10, 244, 2, 5]), "{value}");
    assert_eq!(value["backend_port"], 8080, "{value}");
    assert_eq!(value["nat"], nat, "{value}");
    assert_eq!(value["nat_port"], 20_007, "{value}");

    let replies = bridge.client().entries("replies").unwrap();
    assert_eq!(replies.len(), 1, "{replies:?}");
    let (key, value) = &replies[0];
    assert_eq!(key["backend"], json!([10, 244, 2, 5]), "{key}");
    assert_eq!(key["nat"], nat, "{key}");
    assert_eq!(value["client"], json!([192, 168, 0, 10]), "{value}");
    assert_eq!(value["destination"], destination, "{value}");
}

#[test]
fn bpftool_prints_networks_and_services() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let text = |entries: Vec<(Value, Value)>| {
        entries
            .iter()
            .map(|(key, value)| format!("{key} {value}\n"))
            .collect::<Vec<_>>()
            .concat()
    };
    let office = text(bridge.client().entries("office_cidrs").unwrap());
    assert!(
        office.contains("[192,168,0,0]") && office.contains("22"),
        "{office}"
    );
    let cluster = text(bridge.client().entries("cluster_cidrs").unwrap());
    for network in [
        "[10,244,1,0]",
        "[10,244,2,0]",
        "[10,244,30,0]",
        "[10,96,0,0]",
    ] {
        assert!(cluster.contains(network), "no {network} in {cluster}");
    }
    let services = bridge.client().entries("services").unwrap();
    let mysql = services
        .iter()
        .find(|(key, _)| key["vip"] == json!([10, 96, 20, 15]) && key["port"] == 3306);
    let (_, mysql) = mysql.unwrap_or_else(|| panic!("no mysql in {services:?}"));
    assert_eq!(mysql["backend_count"], 1);
    let backends = bridge.client().entries("backends").unwrap();
    assert!(
        backends
            .iter()
            .any(|(key, value)| key["service_id"] == mysql["id"]
                && value["address"] == json!([10, 244, 1, 3])
                && value["port"] == 3306),
        "{backends:?}"
    );
}

#[test]
fn every_table_has_the_name_that_the_design_gives_it() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    for name in [
        "office_cidrs",
        "cluster_cidrs",
        "services",
        "backends",
        "flows",
        "replies",
        "fragments",
        "counters",
        "events",
    ] {
        let path = bridge.client().table(name).unwrap();
        let shown = bpftool(
            lab.node_30(),
            &["map", "show", "pinned", path.to_str().unwrap()],
        );
        assert_eq!(shown["name"], name);
        assert!(path.starts_with(lab.pin_path()), "{}", path.display());
    }
}

#[test]
fn status_and_bpftool_tell_the_same_of_what_is_attached() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let status = bridge.status().unwrap();
    let datapath = status["datapath"].as_array().unwrap();
    let at = |hook: &str| {
        let mut interfaces: Vec<&str> = datapath
            .iter()
            .filter(|entry| entry["hook"] == hook)
            .map(|entry| entry["interface"].as_str().unwrap())
            .collect();
        interfaces.sort_unstable();
        interfaces
    };
    // Of cni0 the ports too: there netfilter has not put fragments together yet. What the kernel routes leaves by cni0.
    let (ingress, egress): (&[_], &[_]) = match lab.options().overlay {
        Overlay::Vxlan => (
            &["cni0", "eth0", "flannel.1", "veth4"],
            &["cni0", "flannel.1"],
        ),
        Overlay::HostGw => (&["cni0", "eth0", "veth4"], &["cni0", "eth0"]),
    };
    assert_eq!(at("tc-ingress"), ingress, "{status}");
    assert_eq!(at("tc-egress"), egress, "{status}");
    let option = lab.options().datapath;
    for entry in datapath {
        let layers = match entry["hook"].as_str().unwrap() {
            "tc-ingress" if !option.is_stack() => json!(["tc", "stack"]),
            "tc-ingress" | "tc-egress" => json!(["stack"]),
            _ => continue,
        };
        assert_eq!(entry["mode"], "tcx", "{entry}");
        assert_eq!(entry["layers"], layers, "{entry}");
    }
    let with_xdp: &[_] = match option {
        Datapath::Xdp => &["eth0"],
        _ => &[],
    };
    assert_eq!(at("xdp"), with_xdp, "{status}");

    let mut pins = Vec::new();
    files(&lab.pin_path(), &mut pins);
    let mut programs = Vec::new();
    for pin in &pins {
        let link = ["link", "show", "pinned", pin.to_str().unwrap()];
        let output = lab
            .node_30()
            .command("bpftool")
            .arg("-j")
            .args(link)
            .output()
            .unwrap();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if let Some(program) = shown["prog_id"].as_u64() {
            let shown = bpftool(lab.node_30(), &["prog", "show", "id", &program.to_string()]);
            programs.push(shown["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(
        programs.len(),
        datapath.len(),
        "one link for each program and interface: {pins:?}"
    );
}

#[test]
fn status_tells_networks_with_their_source_and_the_fill_of_the_table() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let mut session = pc.tcp(lab.at("echo-1", port::ECHO)).unwrap();
    exchange(&mut session, b"x").unwrap();
    let nobody = SocketAddrV4::new(plan::MYSQL, 9999);
    pc.tcp_refusal(nobody).unwrap();

    let status = bridge.status().unwrap();
    assert_eq!(status["ready"], true);
    let cidrs = status["cidrs"].as_array().unwrap();
    let find = |cidr: &str| {
        cidrs
            .iter()
            .find(|entry| entry["cidr"] == cidr)
            .unwrap_or_else(|| panic!("no {cidr} in {status}"))
    };
    assert_eq!(find("192.168.0.0/22")["kind"], "office");
    assert_eq!(find("10.244.1.0/24")["kind"], "pod");
    let service = find("10.96.0.0/12");
    assert_eq!(service["kind"], "service");
    for entry in cidrs {
        assert!(
            entry["source"]
                .as_str()
                .is_some_and(|source| !source.is_empty()),
            "{entry}"
        );
    }
    assert_eq!(status["flows"]["used"], 1, "{status}");
    assert!(
        status["flows"]["capacity"].as_u64().unwrap() >= 1024,
        "{status}"
    );
    assert_eq!(status["drops"]["no-service"], 1, "{status}");
}

#[test]
fn services_lists_what_the_datapath_has() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let services = bridge.client().json(&["services"]).unwrap().to_string();
    assert!(
        services.contains("10.96.20.15") && services.contains("10.244.1.3"),
        "{services}"
    );
    let table = bridge.client().text(&["services"]).unwrap();
    assert!(
        table.contains("10.96.20.15") && table.contains("10.244.1.3"),
        "{table}"
    );
    for command in [&["status"][..], &["flows", "list"]] {
        assert!(!bridge.client().text(command).unwrap().is_empty());
    }
}

fn bpftool(host: &Host, arguments: &[&str]) -> Value {
    let text = host.run("bpftool", &[&["-j"], arguments].concat()).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in directory.read_dir().unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}
