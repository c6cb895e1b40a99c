use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::conntrack::gc::Plan;
use crate::dns::{self, ByTransport, Config, Relay, UpstreamSnapshot};
use crate::observe::report::ClusterState;

struct Running {
    address: SocketAddr,
    report: watch::Sender<Option<Report>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

/// Serves a bridge that has no tables.
fn serve() -> Running {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address().unwrap();
    let pins = Pins::new(Path::new("/nonexistent/office-bridge"));
    let (report, receiver) = watch::channel(None);
    let sources = Sources::new(pins, receiver, None);
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(server.run(sources, async {
        let _ = stopped.await;
    }));
    Running {
        address,
        report,
        stop,
        serving,
    }
}

/// What a process reports whose cluster source stands like this.
fn report_of(pid: u32, synced: bool, last_error: Option<&str>) -> Report {
    Report {
        cluster_state: Some(ClusterState {
            source: "kube".to_owned(),
            synced,
            connected: synced,
            last_contact: 0,
            last_error: last_error.map(ToOwned::to_owned),
        }),
        ..Report::example(pid)
    }
}

/// The whole response.
async fn request(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn a_process_without_tables_lives_but_is_not_ready() {
    let running = serve();
    let health = request(running.address, "GET", "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    assert!(health.ends_with("\r\n\r\nok\n"), "{health}");

    let starting = request(running.address, "GET", "/readyz").await;
    assert!(starting.starts_with("HTTP/1.1 503 "), "{starting}");
    assert!(starting.contains("starting"), "{starting}");

    let own = report_of(std::process::id(), true, None);
    running.report.send_replace(Some(own));
    let empty = request(running.address, "GET", "/readyz").await;
    assert!(empty.starts_with("HTTP/1.1 503 "), "{empty}");
    assert!(!empty.contains("starting"), "{empty}");
    assert!(empty.contains("no tables are pinned"), "{empty}");
}

#[tokio::test]
async fn a_process_that_has_not_seen_the_cluster_lives_but_is_not_ready() {
    let running = serve();
    let pid = std::process::id();
    let unknown = report_of(pid, false, Some("connection refused"));
    running.report.send_replace(Some(unknown));
    let health = request(running.address, "GET", "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    let waiting = request(running.address, "GET", "/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
    assert!(
        waiting.contains("no cluster state yet: connection refused"),
        "{waiting}"
    );
    // Once known, a cluster that is away is no reason.
    let known = report_of(pid, true, Some("connection refused"));
    running.report.send_replace(Some(known));
    let away = request(running.address, "GET", "/readyz").await;
    assert!(!away.contains("connection refused"), "{away}");
}

#[tokio::test]
async fn metrics_that_cannot_be_read_are_an_error_that_says_why() {
    let running = serve();
    let response = request(running.address, "GET", "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 500 "), "{response}");
    assert!(response.contains("no tables are pinned"), "{response}");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let running = serve();
    let unknown = request(running.address, "GET", "/").await;
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    let post = request(running.address, "POST", "/metrics").await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
}

#[tokio::test]
async fn half_a_request_does_not_hold_up_the_shutdown() {
    let running = serve();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /healthz HT").await.unwrap();
    // The server has taken the first connection when it answers a second one.
    request(running.address, "GET", "/healthz").await;
    let begun = Instant::now();
    running.stop.send(()).unwrap();
    running.serving.await.unwrap().unwrap();
    assert!(begun.elapsed() < 2 * DRAIN, "{:?}", begun.elapsed());
}

fn snapshot() -> dns::Snapshot {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let config = Config::new(
        vec![address("127.0.0.1:0")],
        vec![address("127.0.0.1:1")],
        vec![],
    );
    let mut snapshot = Relay::bind(&config).unwrap().handle().snapshot();
    snapshot.queries = ByTransport { udp: 7, tcp: 2 };
    snapshot.responses = [("NOERROR", 5), ("NXDOMAIN", 3)].into();
    let upstream = |text: &str, udp, looping| UpstreamSnapshot {
        address: address(text),
        healthy: ByTransport { udp, tcp: true },
        looping,
        queries: 9,
        failures: 4,
        latency_microseconds: 1_500,
    };
    snapshot.upstreams = vec![
        upstream("10.96.0.10:53", true, false),
        upstream("10.96.0.11:53", true, true),
    ];
    snapshot
}

#[test]
fn the_relay_is_told_by_transport_code_and_upstream() {
    let text = metrics::text(snapshot());
    for line in [
        r#"office_bridge_dns_requests_total{proto="udp"} 7"#,
        r#"office_bridge_dns_requests_total{proto="tcp"} 2"#,
        r#"office_bridge_dns_responses_total{rcode="NOERROR"} 5"#,
        r#"office_bridge_dns_responses_total{rcode="NXDOMAIN"} 3"#,
        "office_bridge_dns_refused_requests_total 0",
        r#"office_bridge_dns_upstream_requests_total{upstream="10.96.0.10:53"} 9"#,
        r#"office_bridge_dns_upstream_failures_total{upstream="10.96.0.10:53"} 4"#,
        r#"office_bridge_dns_upstream_healthy{upstream="10.96.0.10:53",proto="udp"} 1.0"#,
        r#"office_bridge_dns_upstream_healthy{upstream="10.96.0.10:53",proto="tcp"} 1.0"#,
        r#"office_bridge_dns_upstream_healthy{upstream="10.96.0.11:53",proto="udp"} 0.0"#,
        r#"office_bridge_dns_upstream_latency_seconds{upstream="10.96.0.10:53"} 0.0015"#,
    ] {
        assert!(
            metrics::lines(&text).contains(&line),
            "no `{line}` in:\n{text}"
        );
    }
}

#[test]
fn sweeps_are_counted_by_reason_from_0_on() {
    let gc_counts = GcCounts::default();
    let text = || {
        let mut registry = prometheus_client::registry::Registry::with_prefix("office_bridge");
        gc_counts.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    for reason in ["expired", "foreign", "evicted"] {
        let line = format!(r#"office_bridge_gc_deleted_total{{reason="{reason}"}} 0"#);
        assert!(text().contains(&line), "no `{line}` in:\n{}", text());
    }
    let plan = Plan {
        expired: 3,
        foreign: 2,
        evicted: 1,
        ..Plan::default()
    };
    gc_counts.record(&plan, Duration::from_millis(20));
    for line in [
        r#"office_bridge_gc_deleted_total{reason="expired"} 3"#,
        r#"office_bridge_gc_deleted_total{reason="foreign"} 2"#,
        r#"office_bridge_gc_deleted_total{reason="evicted"} 1"#,
        "office_bridge_gc_duration_seconds_count 1",
        r#"office_bridge_gc_duration_seconds_bucket{le="0.016"} 0"#,
        r#"office_bridge_gc_duration_seconds_bucket{le="0.064"} 1"#,
    ] {
        assert!(text().contains(line), "no `{line}` in:\n{}", text());
    }
}
