use std::path::Path;
use std::time::Instant;

use socket2::SockRef;
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
    counts: HttpCounts,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

/// Serves a bridge that has no tables.
fn serve() -> Running {
    let config = HttpConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        hosts: vec!["node-30.example".to_owned()],
    };
    let server = Server::bind(&config).unwrap();
    let address = server.address().unwrap();
    let pins = Pins::new(Path::new("/nonexistent/office-bridge"));
    let (report, receiver) = watch::channel(None);
    let sources = Sources::new(pins, receiver, None);
    let counts = sources.counts.clone();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(server.run(sources, async {
        let _ = stopped.await;
    }));
    Running {
        address,
        report,
        counts,
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
    request_as(address, method, path, &address.to_string()).await
}

async fn request_as(address: SocketAddr, method: &str, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// A connection with this much of a request, and nothing after it.
async fn begin(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection, and how long that takes.
async fn rest(mut stream: TcpStream) -> (String, Duration) {
    let begun = Instant::now();
    let mut text = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut text).await;
    (String::from_utf8(text).unwrap(), begun.elapsed())
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

#[tokio::test]
async fn half_a_request_is_given_up_after_five_seconds() {
    let running = serve();
    let half = begin(running.address, "GET /healthz HTTP/1.1\r\nhost: ").await;
    let nothing = begin(running.address, "").await;
    let idle = begin(
        running.address,
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    .await;
    let (half, nothing, idle) = tokio::join!(rest(half), rest(nothing), rest(idle));
    for (_, took) in [&half, &nothing, &idle] {
        let limit = serve::HEAD_TIMEOUT;
        assert!((limit / 2..2 * limit).contains(took), "{took:?}");
    }
    assert!(idle.0.ends_with("\r\n\r\nok\n"), "{}", idle.0);
}

#[tokio::test]
async fn of_one_address_sixteen_connections_are_open_and_the_newest_is_answered() {
    let running = serve();
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(begin(running.address, "GET /healthz HTTP/1.1\r\n").await);
    }
    // Taken in the order in which they came, so when this one is answered the others have had their turn.
    let health = request(running.address, "GET", "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    let mut closed = 0;
    for (index, stream) in open.iter_mut().enumerate() {
        let end = timeout(Duration::from_millis(50), stream.read(&mut [0])).await;
        closed += usize::from(end.is_ok());
        // The oldest go first.
        assert_eq!(end.is_ok(), index < 40 - 15, "{index}");
    }
    assert_eq!(closed, 25);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let running = serve();
    let mut stream = begin(running.address, "GET / HTTP/1.1\r\nhost: localhost\r\n").await;
    let filler = format!("x: {}\r\n", "x".repeat(1000));
    let mut sent = 0;
    while sent < 64 << 10 && stream.write_all(filler.as_bytes()).await.is_ok() {
        sent += filler.len();
        tokio::task::yield_now().await;
    }
    let (response, took) = rest(stream).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let is_told = response.is_empty() || response.starts_with("HTTP/1.1 431 ");
    assert!(is_told, "{response}");
}

#[tokio::test]
async fn a_body_that_never_comes_holds_nothing_up() {
    let running = serve();
    let stream = begin(
        running.address,
        "POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx",
    )
    .await;
    let (response, took) = rest(stream).await;
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_reader_that_takes_no_answers_is_given_up() {
    let running = serve();
    let mut stream = begin(running.address, "").await;
    SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    // Answers to these fill all buffers on the way, after which the server does not read either.
    let requests = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    let blocked = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    let begun = Instant::now();
    let _ = timeout(Duration::from_secs(5), blocked).await;
    assert_eq!(running.counts.connections.get(), 1);
    while running.counts.connections.get() > 0 {
        // Well before the end of every connection.
        assert!(begun.elapsed() < Duration::from_secs(40), "still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_request_for_another_host_is_refused_whatever_its_path() {
    let running = serve();
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        let response = request_as(running.address, "GET", path, "evil.example:9530").await;
        assert!(response.starts_with("HTTP/1.1 421 "), "{path}: {response}");
        assert!(response.contains("add it to httpHost"), "{response}");
    }
    for host in ["localhost", "127.0.0.1:9530", "Node-30.example:80"] {
        let response = request_as(running.address, "GET", "/healthz", host).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{host}: {response}");
    }
    let without = begin(running.address, "GET /healthz HTTP/1.1\r\n\r\n").await;
    let (response, _) = rest(without).await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    let old = begin(running.address, "GET /healthz HTTP/1.0\r\n\r\n").await;
    let (response, _) = rest(old).await;
    assert!(response.starts_with("HTTP/1.0 200 "), "{response}");
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
