//! The HTTP endpoints: `/healthz`, `/readyz`, which looks at the attachments in the kernel, and `/metrics`.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::bridge::arguments::with;
use lab::dns::DnsPlan;
use lab::plan::{self, HTTP_LISTEN, MYSQL_NAME, port};
use lab::serve::http::Response;
use lab::{Bridge, Lab, LabOptions, eventually};

/// How long a bridge may take until it serves HTTP, on a busy machine.
const STARTS: Duration = Duration::from_secs(30);
/// How long `/readyz` may take to follow a change.
const FOLLOWS: Duration = Duration::from_secs(10);

#[test]
fn readyz_tells_that_a_link_is_gone_and_healthz_stays_well() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    assert_eq!(get(&lab, "/readyz"), Response::ok("ready\n"));
    assert_eq!(get(&lab, "/healthz"), Response::ok("ok\n"));

    let detached = r#"office_bridge_interface_mode{iface="eth0",side="uplink",hook="tc-ingress",mode="detached"}"#;
    // The next periodic check attaches the program again, and may do so before the requests below: one of three tries
    // has time for them.
    let is_told = (0..3).any(|_| {
        // The pin is all that holds the link.
        fs::remove_file(uplink_pin(&lab)).unwrap();
        let probe = get(&lab, "/readyz");
        let is_told = probe.status == 503
            && probe.body.contains("eth0")
            && bridge.status().unwrap()["ready"] == false
            && (metric(&lab, detached) - 1.0).abs() < f64::EPSILON;
        assert_eq!(get(&lab, "/healthz").status, 200);
        let start = Instant::now();
        while get(&lab, "/readyz").status != 200 {
            assert!(start.elapsed() < Duration::from_secs(15), "never put back");
            std::thread::sleep(Duration::from_millis(200));
        }
        is_told
    });
    assert!(is_told, "{}", bridge.log());
}

#[test]
fn metrics_count_packets_flows_and_drops() {
    const TO_BACKEND: &str = r#"office_bridge_forwarded_packets_total{direction="to-backend"}"#;
    const TO_CLIENT: &str = r#"office_bridge_forwarded_packets_total{direction="to-client"}"#;
    const BYTES: &str = r#"office_bridge_forwarded_bytes_total{direction="to-client"}"#;
    const NO_SERVICE: &str = r#"office_bridge_dropped_packets_total{reason="no-service"}"#;

    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for series in [TO_BACKEND, TO_CLIENT, BYTES, NO_SERVICE] {
        assert!(metric(&lab, series).abs() < f64::EPSILON, "{series}");
    }
    let pc = lab.office_pc();
    let payload = [7; 900];
    pc.tcp_echo(lab.at("echo-1", port::ECHO), &payload).unwrap();
    pc.ping(lab.pod("echo-1").address()).unwrap();
    // What no service serves; on the stack path that is kube-proxy's.
    let refuses = !lab.options().datapath.is_stack();
    if refuses {
        let nobody = SocketAddrV4::new(plan::MYSQL, 9999);
        pc.tcp_refusal(nobody).unwrap();
    }

    // SYN and SYN-ACK, the payload and its echo, and the ping.
    assert!(metric(&lab, TO_BACKEND) >= 3.0);
    assert!(metric(&lab, TO_CLIENT) >= 3.0);
    assert!(metric(&lab, BYTES) >= 900.0);
    assert_eq!(metric(&lab, NO_SERVICE) >= 1.0, refuses);
    for (series, value) in [
        (r#"office_bridge_conntrack_entries{proto="tcp"}"#, 1.0),
        (r#"office_bridge_conntrack_entries{proto="icmp"}"#, 1.0),
        ("office_bridge_conntrack_max_entries", 262_144.0),
        ("office_bridge_flows_opened_total", 2.0),
        (
            r#"office_bridge_interface_mode{iface="eth0",side="uplink",hook="tc-ingress",mode="tcx"}"#,
            1.0,
        ),
    ] {
        let told = metric(&lab, series);
        assert!((told - value).abs() < f64::EPSILON, "{series} {told}");
    }
    assert!(metric(&lab, "office_bridge_services") >= 1.0);
    assert!(metric(&lab, "office_bridge_gc_duration_seconds_count") >= 1.0);
}

#[test]
fn readyz_needs_a_dns_upstream_that_answers() {
    let lab = LabOptions {
        dns: DnsPlan::Relay,
        ..LabOptions::default()
    }
    .open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    assert_eq!(get(&lab, "/readyz"), Response::ok("ready\n"));
    let name = MYSQL_NAME;
    lab.office_pc().resolve(plan::NODE_30, name).unwrap();
    assert!(metric(&lab, r#"office_bridge_dns_requests_total{proto="udp"}"#) >= 1.0);
    bridge.uninstall().unwrap();

    // Nobody listens there.
    let nobody = "127.0.0.1:5399";
    let arguments = with(&Bridge::default_arguments(&lab), "--dns-upstream", nobody);
    // It never becomes ready, which `Bridge::start` would wait for.
    let bridge = Bridge::spawn(&lab, &arguments).unwrap();
    eventually(STARTS, "/healthz is served", || {
        let health = lab.node_30().http_get(HTTP_LISTEN, "/healthz");
        health.is_ok_and(|health| health.status == 200)
    });
    not_ready_because(&lab, "no DNS upstream answers");
    assert_eq!(bridge.status().unwrap()["ready"], false);
    assert_eq!(get(&lab, "/healthz").status, 200);
}

#[test]
fn a_taken_port_is_told_with_the_process_that_has_it() {
    let lab = LabOptions::default().open();
    let _other = lab
        .node_30()
        .run_in(|| Ok(std::net::TcpListener::bind(HTTP_LISTEN)?))
        .unwrap();
    let mut bridge = Bridge::spawn(&lab, &Bridge::default_arguments(&lab)).unwrap();
    bridge.leave_installed();
    let status = bridge.wait(Duration::from_secs(20)).unwrap();
    let log = bridge.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let pid = format!("(pid {})", std::process::id());
    for word in ["--http-listen 127.0.0.1:9530", &pid, "--no-http"] {
        assert!(log.contains(word), "no `{word}` in: {log}");
    }
    assert!(!lab.pin_path().join("links").exists(), "{log}");
}

#[test]
fn no_http_serves_nothing() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&["--no-http"]).unwrap();
    let (kind, _) = lab.node_30().tcp_refusal(HTTP_LISTEN).unwrap();
    assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
}

fn get(lab: &Lab, path: &str) -> Response {
    lab.node_30().http_get(HTTP_LISTEN, path).unwrap()
}

/// The value of one series; 0 where there is none yet.
fn metric(lab: &Lab, series: &str) -> f64 {
    let metrics = get(lab, "/metrics");
    assert_eq!(metrics.status, 200, "{}", metrics.body);
    assert!(metrics.body.ends_with("# EOF\n"), "{}", metrics.body);
    let line = metrics.body.lines().find_map(|line| {
        line.strip_prefix(series)?
            .strip_prefix(' ')?
            .parse::<f64>()
            .ok()
    });
    line.unwrap_or_default()
}

#[track_caller]
fn not_ready_because(lab: &Lab, reason: &str) {
    let deadline = Instant::now() + FOLLOWS;
    loop {
        let ready = get(lab, "/readyz");
        if ready.status == 503 && ready.body.contains(reason) {
            return;
        }
        assert!(Instant::now() < deadline, "{}", ready.body);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn uplink_pin(lab: &Lab) -> PathBuf {
    fs::read_dir(lab.pin_path().join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("uplink_ingress"))
        .unwrap()
}
