//! The DNS relay between real sockets on loopback: a real `unbound` where a good server is wanted,
//! and upstreams made of bare sockets where a bad one is.

use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bridge_userspace::dns::{Config, Relay, RelayHandle, Snapshot};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than the relay may take for anything that it is asked here.
const PATIENCE: Duration = Duration::from_secs(8);

const LOOPBACK: &str = "127.0.0.0/8";

/// A running relay.
struct Running {
    address: SocketAddr,
    handle: RelayHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn start(config: &Config) -> Self {
        let relay = Relay::bind(config).unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            address: relay.addresses()[0],
            handle: relay.handle(),
            stop: Some(stop),
            task: tokio::spawn(relay.run(async {
                let _ = stopped.await;
            })),
        }
    }

    /// On a loopback port of the kernel's choice, for everybody on loopback.
    fn with_upstreams(upstreams: &[SocketAddr]) -> Self {
        Self::start(&config(upstreams))
    }

    fn stats(&self) -> Snapshot {
        self.handle.snapshot()
    }

    fn begin_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn config(upstreams: &[SocketAddr]) -> Config {
    Config::new(
        vec![address("127.0.0.1:0")],
        upstreams.to_vec(),
        vec![LOOPBACK.parse().unwrap()],
    )
}

/// With timeouts short enough for tests of silence.
fn hasty(upstreams: &[SocketAddr]) -> Config {
    let mut config = config(upstreams);
    config.limits.attempt_timeout = Duration::from_millis(500);
    config.limits.total_timeout = Duration::from_millis(1200);
    config
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn query(id: u16, name: &str) -> Vec<u8> {
    query_for(id, name, RecordType::A)
}

fn query_for(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// What a server would say that knows nothing but the question.
fn echo(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply
}

fn is_probe(query: &[u8]) -> bool {
    query[12..].starts_with(b"\x24office-bridge-probe-")
}

fn code(message: &[u8]) -> ResponseCode {
    Message::from_vec(message).unwrap().metadata.response_code
}

fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

/// One question from a connected socket: an answer from another address would not arrive.
async fn ask(relay: SocketAddr, message: &[u8]) -> Vec<u8> {
    let from = match relay {
        SocketAddr::V4(_) => "127.0.0.1:0",
        SocketAddr::V6(_) => "[::1]:0",
    };
    let socket = UdpSocket::bind(from).await.unwrap();
    socket.connect(relay).await.unwrap();
    socket.send(message).await.unwrap();
    receive(&socket).await
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let len = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("no answer")
        .unwrap();
    buffer.truncate(len);
    buffer
}

async fn stays_silent(socket: &UdpSocket) -> bool {
    let mut buffer = [0; 512];
    timeout(Duration::from_millis(300), socket.recv(&mut buffer))
        .await
        .is_err()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    frame
}

async fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let reading = async {
        let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut message).await.unwrap();
        message
    };
    timeout(PATIENCE, reading).await.expect("no answer")
}

async fn ask_tcp(relay: SocketAddr, message: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(relay).await.unwrap();
    stream.write_all(&framed(message)).await.unwrap();
    read_message(&mut stream).await
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await;
    matches!(read.expect("still open"), Ok(0) | Err(_))
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// An upstream over UDP that gives the replies of `answer` to all queries but probes, which it
/// answers if `answer` would say anything at all.
async fn udp_upstream(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bound = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            for reply in answer(&buffer[..len]) {
                socket.send_to(&reply, peer).await.unwrap();
            }
        }
    });
    bound
}

/// An upstream over TCP that serves each connection with `serve`, and how many there have been.
async fn tcp_upstream<F>(
    serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bound = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, counter.fetch_add(1, Ordering::SeqCst)));
        }
    });
    (bound, connections)
}

/// A real server with `cluster.local` as its own.
struct Unbound {
    address: SocketAddr,
    directory: PathBuf,
    process: Child,
}

impl Unbound {
    async fn start() -> Self {
        // An address of its own and a port that is given to nobody: tests run side by side.
        static STARTED: AtomicUsize = AtomicUsize::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let number = u8::try_from(STARTED.fetch_add(1, Ordering::SeqCst)).unwrap();
        let address = SocketAddr::from(([127, high, low, number], 5399));
        let directory = std::env::temp_dir().join(format!("dns-relay-{}", address.ip()));
        std::fs::create_dir_all(&directory).unwrap();
        let big: Vec<String> = (0..40)
            .map(|number| format!("local-data: 'big.cluster.local. 5 IN TXT \"{number:060}\"'\n"))
            .collect();
        let big = big.concat();
        let text = format!(
            "server:\ninterface: {}@{}\ndo-daemonize: no\nusername: \"\"\nchroot: \"\"\n\
             directory: \"{}\"\npidfile: \"\"\nuse-syslog: no\nlogfile: \"log\"\n\
             module-config: \"iterator\"\nrrset-roundrobin: no\n\
             local-zone: \"cluster.local.\" static\n\
             local-data: \"mysql.project-a-dev1.svc.cluster.local. 5 IN A 10.96.0.77\"\n{big}\
             remote-control:\ncontrol-enable: no\n",
            address.ip(),
            address.port(),
            directory.display()
        );
        std::fs::write(directory.join("unbound.conf"), text).unwrap();
        let process = Command::new("unbound")
            .arg("-d")
            .arg("-c")
            .arg(directory.join("unbound.conf"))
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need the unbound package");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "unbound did not start");
            sleep(Duration::from_millis(20)).await;
        }
        Self {
            address,
            directory,
            process,
        }
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// What a client gets from a good server.

#[tokio::test]
async fn a_real_server_is_heard_through_the_relay_word_for_word() {
    let server = Unbound::start().await;
    let relay = Running::with_upstreams(&[server.address]);
    for name in [
        "mysql.project-a-dev1.svc.cluster.local.",
        "nobody.cluster.local.",
    ] {
        let message = query(0x1234, name);
        let expected = ask(server.address, &message).await;
        assert_eq!(
            ask(relay.address, &message).await,
            expected,
            "{name} over UDP"
        );
        assert_eq!(
            ask_tcp(relay.address, &message).await,
            expected,
            "{name} over TCP"
        );
    }
    let stats = relay.stats();
    assert_eq!((stats.queries.udp, stats.queries.tcp), (2, 2));
    assert_eq!(stats.responses["NOERROR"], 2);
    assert_eq!(stats.responses["NXDOMAIN"], 2);
    assert!(stats.upstreams[0].latency_microseconds > 0);
}

#[tokio::test]
async fn a_truncated_answer_stays_truncated_and_tcp_brings_all_of_it() {
    let server = Unbound::start().await;
    let relay = Running::with_upstreams(&[server.address]);
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(
        Name::from_ascii("big.cluster.local.").unwrap(),
        RecordType::TXT,
    ));
    let plain = message.to_vec().unwrap();
    assert!(
        Message::from_vec(&ask(relay.address, &plain).await)
            .unwrap()
            .metadata
            .truncation
    );
    let whole = Message::from_vec(&ask_tcp(relay.address, &plain).await).unwrap();
    assert_eq!(whole.answers.len(), 40);

    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let message = message.to_vec().unwrap();
    let answer = ask(relay.address, &message).await;
    assert_eq!(answer, ask(server.address, &message).await);
    assert!(answer.len() > 512);
}

#[tokio::test]
async fn both_ways_nothing_but_the_id_is_changed() {
    let (heard, mut queries) = mpsc::unbounded_channel();
    let upstream = udp_upstream(move |query| {
        if is_probe(query) {
            return vec![];
        }
        heard.send(query.to_vec()).unwrap();
        // Truncated, an odd code, the name in another case, and bytes that are no record.
        let mut reply = echo(query);
        reply[2] |= 0x02;
        reply[3] = 0xb9;
        reply[12..].make_ascii_lowercase();
        reply.extend(std::iter::repeat_n(0xff, 30_000));
        vec![reply]
    })
    .await;
    let relay = Running::with_upstreams(&[upstream]);
    let mut sent = query(0xbeef, "MySQL.Cluster.LOCAL.");
    sent.extend_from_slice(b"no record either");
    let answer = ask(relay.address, &sent).await;
    let seen = queries.recv().await.unwrap();
    assert_eq!(seen[2..], sent[2..]);

    let mut expected = echo(&sent);
    expected[2] |= 0x02;
    expected[3] = 0xb9;
    expected[12..].make_ascii_lowercase();
    expected.extend(std::iter::repeat_n(0xff, 30_000));
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_client_that_reuses_id_and_port_is_given_fresh_ones_upstream() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay = Running::with_upstreams(&[socket.local_addr().unwrap()]);
    let client = client().await;
    client.connect(relay.address).await.unwrap();
    let (mut ids, mut ports) = (HashSet::new(), HashSet::new());
    let mut buffer = [0; 512];
    let mut seen = 0;
    while seen < 200 {
        client.send(&query(1, "a.cluster.local.")).await.unwrap();
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&echo(&buffer[..len]), peer).await.unwrap();
            if !is_probe(&buffer[..len]) {
                ids.insert(id(&buffer));
                ports.insert(peer.port());
                break;
            }
        }
        assert_eq!(id(&receive(&client).await), 1);
        seen += 1;
    }
    // 200 draws out of 65,536 ids and some 28,000 ports meet now and then.
    assert!(ids.len() > 190, "{} ids", ids.len());
    assert!(ports.len() > 190, "{} ports", ports.len());
}

// Where the answer leaves from.

#[tokio::test]
async fn a_wildcard_answers_from_the_address_that_was_asked() {
    let upstream = udp_upstream(|query| vec![echo(query)]).await;
    for (listen, asked) in [
        ("0.0.0.0:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.9.8.7"),
        ("[::]:0", "::1"),
    ] {
        let mut config = config(&[upstream]);
        config.listen = vec![address(listen)];
        config.allow.push("::1/128".parse().unwrap());
        let relay = Running::start(&config);
        let asked = SocketAddr::new(asked.parse::<IpAddr>().unwrap(), relay.address.port());
        let message = query(3, "a.cluster.local.");
        assert_eq!(ask(asked, &message).await, echo(&message), "{asked}");
    }
}

#[tokio::test]
async fn every_listening_address_answers_over_both_transports() {
    let server = Unbound::start().await;
    let mut config = config(&[server.address]);
    config.listen = vec![address("127.0.0.2:0"), address("127.0.0.3:0")];
    let relay = Relay::bind(&config).unwrap();
    let addresses = relay.addresses().to_vec();
    tokio::spawn(relay.run(std::future::pending()));
    for listening in addresses {
        let message = query(3, "mysql.project-a-dev1.svc.cluster.local.");
        assert_eq!(code(&ask(listening, &message).await), ResponseCode::NoError);
        assert_eq!(
            code(&ask_tcp(listening, &message).await),
            ResponseCode::NoError
        );
    }
}

// Replies that must not be believed.

#[tokio::test]
async fn forged_replies_are_passed_over_until_the_true_one_comes() {
    let upstream = udp_upstream(|query| {
        let good = echo(query);
        let mut wrong_id = good.clone();
        wrong_id[1] ^= 1;
        let mut wrong_name = good.clone();
        wrong_name[13] ^= 1;
        let mut wrong_type = good.clone();
        let at = wrong_type.len() - 3;
        wrong_type[at] ^= 1;
        let no_question = echo(&query[..12]);
        if is_probe(query) {
            return vec![good];
        }
        vec![
            wrong_id,
            wrong_name,
            wrong_type,
            no_question,
            query.to_vec(),
            vec![0; 3],
            good,
        ]
    })
    .await;
    let relay = Running::with_upstreams(&[upstream]);
    let message = query(5, "a.cluster.local.");
    assert_eq!(ask(relay.address, &message).await, echo(&message));
    assert_eq!(relay.stats().mismatched_replies, 6);
}

#[tokio::test]
async fn a_reply_from_another_address_does_not_count() {
    let elsewhere = Arc::new(UdpSocket::bind("127.0.0.2:0").await.unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay = Running::start(&hasty(&[socket.local_addr().unwrap()]));
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            elsewhere
                .send_to(&echo(&buffer[..len]), peer)
                .await
                .unwrap();
        }
    });
    let answer = ask(relay.address, &query(5, "a.cluster.local.")).await;
    assert_eq!(code(&answer), ResponseCode::ServFail);
}

#[tokio::test]
async fn a_port_that_is_guessed_at_is_given_up() {
    let upstream = udp_upstream(|query| {
        let mut wrong = echo(query);
        wrong[0] ^= 0xff;
        if is_probe(query) {
            vec![echo(query)]
        } else {
            vec![wrong; 40]
        }
    })
    .await;
    let relay = Running::with_upstreams(&[upstream]);
    let began = Instant::now();
    let answer = ask(relay.address, &query(5, "a.cluster.local.")).await;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_secs(1));
}

// Upstreams that fail.

#[tokio::test]
async fn a_silent_upstream_is_left_for_the_next_and_found_again() {
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let quiet = silent.clone();
    let first = udp_upstream(move |query| {
        let mut reply = echo(query);
        reply[3] = 3;
        if quiet.load(Ordering::SeqCst) {
            vec![]
        } else {
            vec![reply]
        }
    })
    .await;
    let second = udp_upstream(|query| vec![echo(query)]).await;
    let relay = Running::start(&hasty(&[first, second]));
    let message = query(5, "a.cluster.local.");
    assert_eq!(
        code(&ask(relay.address, &message).await),
        ResponseCode::NXDomain
    );
    // The probe at the start has been answered by then.
    sleep(Duration::from_millis(200)).await;
    silent.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(
            code(&ask(relay.address, &message).await),
            ResponseCode::NoError
        );
    }
    let stats = relay.stats();
    assert!(!stats.upstreams[0].healthy.udp);
    assert!(stats.upstreams[1].healthy.udp);
    assert!(stats.timeouts >= 2);

    let began = Instant::now();
    for _ in 0..20 {
        ask(relay.address, &message).await;
    }
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "clients wait for an upstream that is down"
    );

    silent.store(false, Ordering::SeqCst);
    eventually("recovery", || relay.stats().upstreams[0].healthy.udp).await;
    assert_eq!(
        code(&ask(relay.address, &message).await),
        ResponseCode::NXDomain
    );
}

#[tokio::test]
async fn an_upstream_that_refuses_is_left_at_once_over_both_transports() {
    // An address of its own, so that no other test is given the port meanwhile.
    let nobody = address("127.53.53.53:53");
    let server = Unbound::start().await;
    let relay = Running::with_upstreams(&[nobody, server.address]);
    let message = query(5, "mysql.project-a-dev1.svc.cluster.local.");
    let began = Instant::now();
    assert_eq!(
        code(&ask(relay.address, &message).await),
        ResponseCode::NoError
    );
    assert_eq!(
        code(&ask_tcp(relay.address, &message).await),
        ResponseCode::NoError
    );
    assert!(began.elapsed() < Duration::from_secs(1));
    let stats = relay.stats();
    assert!(!stats.upstreams[0].healthy.udp && !stats.upstreams[0].healthy.tcp);
    assert!(stats.upstream_failures >= 2);
}

#[tokio::test]
async fn a_lost_query_is_sent_again_within_the_time() {
    let dropped = AtomicUsize::new(0);
    let upstream = udp_upstream(move |query| {
        let first = !is_probe(query) && dropped.fetch_add(1, Ordering::SeqCst) == 0;
        if first { vec![] } else { vec![echo(query)] }
    })
    .await;
    let relay = Running::start(&hasty(&[upstream]));
    let message = query(5, "a.cluster.local.");
    assert_eq!(ask(relay.address, &message).await, echo(&message));
    assert!(
        relay.stats().upstreams[0].healthy.udp,
        "one lost packet is no outage"
    );
}

#[tokio::test]
async fn without_any_answer_the_client_gets_servfail_in_time() {
    let silent = udp_upstream(|_| vec![]).await;
    let (closing, _) = tcp_upstream(|stream, _| async move { drop(stream) }).await;
    let relay = Running::start(&hasty(&[silent]));
    let message = query(0x7777, "a.cluster.local.");
    let began = Instant::now();
    let answer = ask(relay.address, &message).await;
    assert_eq!(
        (id(&answer), code(&answer)),
        (0x7777, ResponseCode::ServFail)
    );
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(1150)..Duration::from_secs(4)).contains(&took),
        "{took:?}"
    );

    let relay = Running::start(&hasty(&[closing]));
    assert_eq!(
        code(&ask_tcp(relay.address, &message).await),
        ResponseCode::ServFail
    );
}

// Who may ask, and what.

#[tokio::test]
async fn a_stranger_is_refused_and_its_query_goes_nowhere() {
    let (heard, mut queries) = mpsc::unbounded_channel();
    let upstream = udp_upstream(move |query| {
        if !is_probe(query) {
            heard.send(()).unwrap();
        }
        vec![echo(query)]
    })
    .await;
    let mut config = config(&[upstream]);
    config.allow = vec!["192.168.0.0/22".parse().unwrap()];
    let relay = Running::start(&config);
    let message = query_for(9, "a.cluster.local.", RecordType::TXT);
    for answer in [
        ask(relay.address, &message).await,
        ask_tcp(relay.address, &message).await,
    ] {
        assert_eq!((id(&answer), code(&answer)), (9, ResponseCode::Refused));
        assert!(answer.len() <= message.len());
    }
    assert!(queries.try_recv().is_err());
    assert_eq!(relay.stats().refused, 2);

    // What is wrong besides gets no answer at all.
    let client = client().await;
    client.connect(relay.address).await.unwrap();
    client.send(&message[..14]).await.unwrap();
    assert!(stays_silent(&client).await);
}

#[tokio::test]
async fn settings_change_while_the_relay_runs() {
    let old = udp_upstream(|query| vec![echo(query)]).await;
    let new = udp_upstream(|query| {
        let mut reply = echo(query);
        reply[3] = 3;
        vec![reply]
    })
    .await;
    let relay = Running::with_upstreams(&[old]);
    let message = query(9, "a.cluster.local.");
    assert_eq!(
        code(&ask(relay.address, &message).await),
        ResponseCode::NoError
    );
    relay
        .handle
        .reconfigure(vec![LOOPBACK.parse().unwrap()], &[new])
        .unwrap();
    assert_eq!(
        code(&ask(relay.address, &message).await),
        ResponseCode::NXDomain
    );
    relay.handle.reconfigure(Vec::new(), &[new]).unwrap();
    assert_eq!(
        code(&ask(relay.address, &message).await),
        ResponseCode::Refused
    );
    let loops = relay.handle.reconfigure(Vec::new(), &[relay.address]);
    assert!(loops.unwrap_err().is_usage());
    assert_eq!(relay.stats().upstreams[0].address, new);
}

#[tokio::test]
async fn what_is_no_query_is_dropped_or_a_format_error() {
    let upstream = udp_upstream(|query| vec![echo(query)]).await;
    let relay = Running::with_upstreams(&[upstream]);
    let good = query(9, "a.cluster.local.");
    let client = client().await;
    client.connect(relay.address).await.unwrap();
    client.send(&good[..11]).await.unwrap();
    client.send(&echo(&good)).await.unwrap();
    client.send(&[]).await.unwrap();
    assert!(stays_silent(&client).await);
    client.send(&good[..20]).await.unwrap();
    let answer = receive(&client).await;
    assert_eq!((id(&answer), code(&answer)), (9, ResponseCode::FormErr));
    assert_eq!(relay.stats().malformed, 4);

    let transfer = query_for(10, "cluster.local.", RecordType::AXFR);
    assert_eq!(
        code(&ask(relay.address, &transfer).await),
        ResponseCode::NotImp
    );
    assert_eq!(ask(relay.address, &good).await, echo(&good));
}

#[tokio::test]
async fn too_many_queries_in_flight_are_turned_away_at_once() {
    let silent = udp_upstream(|query| {
        if is_probe(query) {
            vec![echo(query)]
        } else {
            vec![]
        }
    })
    .await;
    let mut config = hasty(&[silent]);
    config.limits.in_flight = 3;
    let relay = Running::start(&config);
    let client = client().await;
    client.connect(relay.address).await.unwrap();
    let began = Instant::now();
    for id in 0..5 {
        client.send(&query(id, "a.cluster.local.")).await.unwrap();
    }
    let mut turned_away = HashSet::new();
    for _ in 0..2 {
        let answer = receive(&client).await;
        assert_eq!(code(&answer), ResponseCode::ServFail);
        turned_away.insert(id(&answer));
    }
    assert!(began.elapsed() < Duration::from_millis(500));
    assert_eq!(turned_away, HashSet::from([3, 4]));
    assert_eq!((relay.stats().overflows, relay.stats().in_flight), (2, 3));
    for _ in 0..3 {
        receive(&client).await;
    }
    eventually("room again", || relay.stats().in_flight == 0).await;
}

#[tokio::test]
async fn a_loop_through_another_forwarder_is_seen_and_cut() {
    let forwarder = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay = Running::with_upstreams(&[forwarder.local_addr().unwrap()]);
    let back = relay.address;
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let onward = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        loop {
            let (len, _) = forwarder.recv_from(&mut buffer).await.unwrap();
            onward.send_to(&buffer[..len], back).await.unwrap();
        }
    });
    eventually("loop seen", || relay.stats().upstreams[0].looping).await;
    let before = relay.stats().queries.udp;
    let began = Instant::now();
    let answer = ask(relay.address, &query(9, "a.cluster.local.")).await;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(
        relay.stats().queries.udp <= before + 3,
        "the query went round"
    );
}

// TCP.

/// Answers names that begin with "slow" only after the next one.
async fn answer_late(mut stream: TcpStream) {
    let mut late = Vec::new();
    loop {
        let message = read_message(&mut stream).await;
        let reply = framed(&echo(&message));
        if message[13..].starts_with(b"slow") {
            late.push(reply);
            continue;
        }
        stream.write_all(&reply).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        for reply in late.drain(..) {
            stream.write_all(&reply).await.unwrap();
        }
    }
}

#[tokio::test]
async fn pipelined_queries_are_answered_as_their_answers_come() {
    let (upstream, _) = tcp_upstream(|stream, _| async move {
        let mut stream = stream;
        let message = read_message(&mut stream).await;
        if message[13..].starts_with(b"slow") {
            sleep(Duration::from_millis(300)).await;
        }
        stream.write_all(&framed(&echo(&message))).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    let relay = Running::with_upstreams(&[upstream]);
    let (slow, quick) = (
        query(1, "slow.cluster.local."),
        query(2, "quick.cluster.local."),
    );
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream
        .write_all(&[framed(&slow), framed(&quick)].concat())
        .await
        .unwrap();
    assert_eq!(read_message(&mut stream).await, echo(&quick));
    assert_eq!(read_message(&mut stream).await, echo(&slow));
}

#[tokio::test]
async fn answers_out_of_order_on_one_upstream_connection_find_their_queries() {
    let (upstream, connections) = tcp_upstream(|stream, _| answer_late(stream)).await;
    let relay = Running::with_upstreams(&[upstream]);
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    // More than there may be connections, so that they are shared; all with the same id.
    let mut expected = HashSet::new();
    for number in 0..64 {
        let kind = if number < 32 { "slow" } else { "quick" };
        let message = query(1, &format!("{kind}-{number}.cluster.local."));
        stream.write_all(&framed(&message)).await.unwrap();
        expected.insert(echo(&message));
    }
    let mut answers = HashSet::new();
    for _ in 0..64 {
        answers.insert(read_message(&mut stream).await);
    }
    assert_eq!(answers, expected);
    assert!(connections.load(Ordering::SeqCst) <= 8);
}

#[tokio::test]
async fn upstream_connections_are_used_again_and_replaced_when_the_server_closes_them() {
    let (upstream, connections) = tcp_upstream(|mut stream, _| async move {
        for _ in 0..10 {
            let message = read_message(&mut stream).await;
            stream.write_all(&framed(&echo(&message))).await.unwrap();
        }
        // Closed under a query: the relay can't have known.
        read_message(&mut stream).await;
    })
    .await;
    let relay = Running::with_upstreams(&[upstream]);
    for number in 0..100 {
        let message = query(number, "a.cluster.local.");
        assert_eq!(ask_tcp(relay.address, &message).await, echo(&message));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 10);
    assert!(relay.stats().upstreams[0].healthy.tcp);
}

#[tokio::test]
async fn an_upstream_connection_that_went_dead_is_given_up() {
    let (upstream, _) = tcp_upstream(|mut stream, number| async move {
        loop {
            let message = read_message(&mut stream).await;
            if number > 0 || !message[13..].starts_with(b"lost") {
                stream.write_all(&framed(&echo(&message))).await.unwrap();
            }
        }
    })
    .await;
    let relay = Running::start(&hasty(&[upstream]));
    for name in ["a.cluster.local.", "lost.cluster.local."] {
        let message = query(1, name);
        assert_eq!(
            ask_tcp(relay.address, &message).await,
            echo(&message),
            "{name}"
        );
    }
    assert_eq!(relay.stats().timeouts, 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let (upstream, _) = tcp_upstream(|mut stream, _| async move {
        let message = read_message(&mut stream).await;
        sleep(Duration::from_millis(600)).await;
        stream.write_all(&framed(&echo(&message))).await.unwrap();
    })
    .await;
    let mut config = config(&[upstream]);
    config.limits.tcp_idle_timeout = Duration::from_millis(300);
    let relay = Running::start(&config);
    let mut idle = TcpStream::connect(relay.address).await.unwrap();
    idle.write_all(&[0, 40, 1]).await.unwrap();
    let mut busy = TcpStream::connect(relay.address).await.unwrap();
    let message = query(1, "a.cluster.local.");
    busy.write_all(&framed(&message)).await.unwrap();
    assert!(is_closed(&mut idle).await);
    assert_eq!(read_message(&mut busy).await, echo(&message));
    assert!(is_closed(&mut busy).await);
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_its_answers() {
    let server = Unbound::start().await;
    let relay = Running::with_upstreams(&[server.address]);
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let message = framed(&query(1, "mysql.project-a-dev1.svc.cluster.local."));
    stream.write_all(&message).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(
        code(&read_message(&mut stream).await),
        ResponseCode::NoError
    );
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn one_client_can_not_take_all_connections() {
    let server = Unbound::start().await;
    let mut config = config(&[server.address]);
    config.limits.tcp_connections_per_client = 2;
    config.limits.tcp_connections = 3;
    let relay = Running::start(&config);
    let message = query(1, "mysql.project-a-dev1.svc.cluster.local.");
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(&framed(&message)).await.unwrap();
        read_message(&mut stream).await;
        kept.push(stream);
    }
    let mut third = TcpStream::connect(relay.address).await.unwrap();
    assert!(is_closed(&mut third).await);
    assert_eq!(relay.stats().tcp_connections, 2);

    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(address("127.0.0.9:0")).unwrap();
    let mut other = socket.connect(relay.address).await.unwrap();
    other.write_all(&framed(&message)).await.unwrap();
    assert_eq!(code(&read_message(&mut other).await), ResponseCode::NoError);

    drop(kept);
    eventually("places given back", || relay.stats().tcp_connections == 1).await;
    assert_eq!(relay.stats().tcp_connections_rejected, 1);
}

// Stopping.

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_takes_nothing_new() {
    let (heard, mut queries) = mpsc::unbounded_channel();
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream_address = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (len, peer) = upstream.recv_from(&mut buffer).await.unwrap();
            if !is_probe(&buffer[..len]) {
                heard.send(()).unwrap();
                sleep(Duration::from_millis(400)).await;
            }
            upstream.send_to(&echo(&buffer[..len]), peer).await.unwrap();
        }
    });
    let mut relay = Running::with_upstreams(&[upstream_address]);
    let client = client().await;
    client.connect(relay.address).await.unwrap();
    let message = query(1, "a.cluster.local.");
    client.send(&message).await.unwrap();
    queries.recv().await.unwrap();
    let mut idle = TcpStream::connect(relay.address).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    relay.begin_stop();
    assert!(is_closed(&mut idle).await);
    assert!(TcpStream::connect(relay.address).await.is_err());
    timeout(Duration::from_secs(1), relay.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let answer = timeout(Duration::from_millis(100), receive(&client)).await;
    assert_eq!(answer.expect("left unanswered"), echo(&message));
    Relay::bind(&Config {
        listen: vec![relay.address],
        ..config(&[upstream_address])
    })
    .expect("the port is free again");
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let silent = udp_upstream(|_| vec![]).await;
    let mut config = config(&[silent]);
    config.limits.drain_timeout = Duration::from_millis(200);
    let mut relay = Running::start(&config);
    let client = client().await;
    client
        .send_to(&query(1, "a.cluster.local."), relay.address)
        .await
        .unwrap();
    eventually("query in flight", || relay.stats().in_flight == 1).await;
    relay.begin_stop();
    timeout(Duration::from_secs(1), relay.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
