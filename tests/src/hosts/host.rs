//! What a person or a program does on one of the lab's hosts.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

use super::capture::Capture;
use super::dns;
use crate::cluster::Protocol;
use crate::machine::netns::Namespace;
use crate::serve::http::{self, Request, Response};
use crate::serve::mysql::Session;
use crate::serve::{self, Handler, Server};

/// How long a test waits for an answer that it expects.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// One host of the lab.
pub struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Namespace,
    directory: PathBuf,
    servers: Mutex<Vec<Server>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.address)
    }
}

/// How an echo went.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// The client's own address and port.
    pub local: SocketAddrV4,
    /// From the first packet to the whole answer.
    pub elapsed: Duration,
}

/// What `ping` reports.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: u32,
    /// Echo replies received.
    pub received: u32,
    /// Whole output.
    pub text: String,
}

impl Ping {
    /// Whether every request was answered.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.sent > 0 && self.sent == self.received
    }
}

/// What `dig` reports.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`, `REFUSED`; empty if no server answered.
    pub status: String,
    /// The A records of the answer section.
    pub addresses: Vec<Ipv4Addr>,
    /// Whole output.
    pub text: String,
}

impl Host {
    /// A host in a namespace that exists.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        address: Ipv4Addr,
        namespace: Namespace,
        directory: PathBuf,
    ) -> Self {
        Self {
            name: name.into(),
            address,
            namespace,
            directory,
            servers: Mutex::default(),
        }
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The lab's own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that runs on this host.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.namespace.command(program)
    }

    /// Runs a program on this host to its end; what it prints is the result.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.namespace.output(program, arguments)
    }

    /// Runs a command line whose words have no spaces in them.
    pub fn run_line(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        self.run(words[0], &words[1..])
    }

    /// Runs `work` on a thread in this host's namespace.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace.run_in(work)
    }

    /// Pings once.
    pub fn ping(&self, address: Ipv4Addr) -> Result<()> {
        let ping = self.ping_with(address, &["-c", "1", "-W", "2"])?;
        ensure!(
            ping.complete(),
            "{} has no answer to a ping of {address}:\n{}",
            self.name,
            ping.text
        );
        Ok(())
    }

    /// Pings with arguments of `ping`.
    pub fn ping_with(&self, address: Ipv4Addr, arguments: &[&str]) -> Result<Ping> {
        let output = self
            .command("ping")
            .arg("-n")
            .args(arguments)
            .arg(address.to_string())
            .output()
            .context("run ping")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let number_before = |words: &str| {
            text.lines()
                .flat_map(|line| line.split(", "))
                .find_map(|part| part.strip_suffix(words))
                .and_then(|number| number.trim().parse().ok())
        };
        Ok(Ping {
            sent: number_before(" packets transmitted").unwrap_or(0),
            received: number_before(" received").unwrap_or(0),
            text,
        })
    }

    /// Pings once with an IPv4 packet of `size` octets that may not be fragmented.
    pub fn ping_unfragmented(&self, address: Ipv4Addr, size: u32) -> Result<Ping> {
        // Less the headers of IPv4 and ICMP.
        let payload = (size - 20 - 8).to_string();
        let arguments = ["-M", "do", "-c", "1", "-W", "2", "-s", &payload];
        self.ping_with(address, &arguments)
    }

    /// Opens a TCP connection.
    pub fn tcp(&self, to: impl Into<SocketAddrV4>) -> Result<TcpStream> {
        self.tcp_within(PATIENCE, to)
    }

    /// Opens a TCP connection, with as much patience as `limit`.
    pub fn tcp_within(&self, limit: Duration, to: impl Into<SocketAddrV4>) -> Result<TcpStream> {
        let to = to.into();
        self.run_in(|| {
            let stream = TcpStream::connect_timeout(&to.into(), limit)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
        .with_context(|| format!("TCP from {} to {to}", self.name))
    }

    /// Whether neither a ping nor a connection gets an answer from there within a second: not even
    /// that it is refused.
    #[must_use]
    pub fn is_cut_off_from(&self, to: impl Into<SocketAddrV4>) -> bool {
        let to = to.into();
        let silent = self
            .tcp_within(Duration::from_secs(1), to)
            .is_err_and(|error| {
                let cause = error.downcast_ref::<std::io::Error>();
                cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
            });
        let ping = self.ping_with(*to.ip(), &["-c", "1", "-W", "1"]);
        silent && ping.is_ok_and(|ping| ping.sent == 1 && ping.received == 0)
    }

    /// How a connection there fails: the error that `connect` gives, and after how long.
    pub fn tcp_refusal(
        &self,
        to: impl Into<SocketAddrV4>,
    ) -> Result<(std::io::ErrorKind, Duration)> {
        let to = to.into();
        let started = Instant::now();
        match self.tcp(to) {
            Ok(_) => bail!("{} connects to {to}, which nobody serves", self.name),
            Err(error) => match error.downcast_ref::<std::io::Error>() {
                Some(cause) => Ok((cause.kind(), started.elapsed())),
                None => Err(error),
            },
        }
    }

    /// Opens a TCP connection from a chosen port.
    pub fn tcp_from(&self, port: u16, to: impl Into<SocketAddrV4>) -> Result<TcpStream> {
        let to = to.into();
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        self.run_in(|| tcp_between(from, to))
            .with_context(|| format!("TCP from {} port {port} to {to}", self.name))
    }

    /// Connects, sends `payload`, and expects it back.
    pub fn tcp_echo(&self, to: impl Into<SocketAddrV4>, payload: &[u8]) -> Result<Echo> {
        let started = Instant::now();
        let mut stream = self.tcp(to)?;
        let local = local_v4(stream.local_addr()?)?;
        exchange(&mut stream, payload).with_context(|| format!("TCP echo from {}", self.name))?;
        Ok(Echo {
            local,
            elapsed: started.elapsed(),
        })
    }

    /// A UDP socket on this host, connected to `to`, from `port` (0: any).
    pub fn udp_from(&self, port: u16, to: impl Into<SocketAddrV4>) -> Result<UdpSocket> {
        let to = to.into();
        self.run_in(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            Ok(socket)
        })
        .with_context(|| format!("UDP from {} to {to}", self.name))
    }

    /// Sends one datagram and expects it back.
    pub fn udp_echo(&self, to: impl Into<SocketAddrV4>, payload: &[u8]) -> Result<Echo> {
        let to = to.into();
        let started = Instant::now();
        let socket = self.udp_from(0, to)?;
        let local = local_v4(socket.local_addr()?)?;
        datagram(&socket, payload)
            .with_context(|| format!("UDP echo from {} to {to}", self.name))?;
        Ok(Echo {
            local,
            elapsed: started.elapsed(),
        })
    }

    /// Transfers `up` octets to the bulk server at `to` and `down` octets from it.
    pub fn bulk(&self, to: impl Into<SocketAddrV4>, up: u64, down: u64) -> Result<Duration> {
        let started = Instant::now();
        let mut stream = self.tcp(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let mut counts = Vec::from(up.to_be_bytes());
        counts.extend(down.to_be_bytes());
        stream.write_all(&counts).context("send the counts")?;
        serve::pour(&mut stream, up).context("send")?;
        serve::swallow(&mut stream, down).context("receive")?;
        Ok(started.elapsed())
    }

    /// HTTP GET.
    pub fn http_get(&self, to: impl Into<SocketAddrV4>, path: &str) -> Result<Response> {
        self.http(to, "GET", path, "")
    }

    /// Any HTTP request.
    pub fn http(
        &self,
        to: impl Into<SocketAddrV4>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Response> {
        let stream = self.tcp(to)?;
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            body: body.to_owned(),
        };
        http::exchange(stream, &request).with_context(|| format!("{method} {path}"))
    }

    /// Opens a `MySQL` session.
    pub fn mysql(&self, to: impl Into<SocketAddrV4>) -> Result<Session> {
        Session::start(self.tcp(to)?).context("start a MySQL session")
    }

    /// Runs `dig` against a server; an answer of any status is a result, no answer is an error.
    pub fn dig(&self, server: Ipv4Addr, arguments: &[&str]) -> Result<Answer> {
        let output = self
            .command("dig")
            .arg(format!("@{server}"))
            .args(["+tries=1", "+time=3"])
            .args(arguments)
            .output()
            .context("run dig")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let status = text
            .split_once("status: ")
            .and_then(|(_, rest)| rest.split(',').next())
            .unwrap_or_default()
            .to_owned();
        ensure!(
            !status.is_empty(),
            "{server} does not answer {}:\n{text}",
            self.name
        );
        let addresses = text
            .lines()
            .filter(|line| !line.starts_with(';'))
            .filter_map(
                |line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                    [_name, _ttl, "IN", "A", address] => address.parse().ok(),
                    _ => None,
                },
            )
            .collect();
        Ok(Answer {
            status,
            addresses,
            text,
        })
    }

    /// The one address of `name`, as the office DNS at `server` tells it.
    pub fn resolve(&self, server: Ipv4Addr, name: &str) -> Result<Ipv4Addr> {
        let answer = self.dig(server, &[name, "A"])?;
        match answer.addresses.as_slice() {
            [address] => Ok(*address),
            _ => bail!("{name} has no single address:\n{}", answer.text),
        }
    }

    /// The routers on the way to `address`, and `address` itself; `None` where nobody answered.
    pub fn traceroute(
        &self,
        address: Ipv4Addr,
        arguments: &[&str],
    ) -> Result<Vec<Option<Ipv4Addr>>> {
        let target = address.to_string();
        let mut all = vec!["-n", "-q", "1", "-w", "2", "-m", "8"];
        all.extend(arguments);
        all.push(&target);
        let text = self.run("traceroute", &all)?;
        Ok(text
            .lines()
            .skip(1)
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .and_then(|word| word.parse().ok())
            })
            .collect())
    }

    /// Asks `count` questions in a row over one socket, at most `window` of them unanswered at a
    /// time, and returns how many were answered and in which time.
    pub fn dns_load(
        &self,
        server: Ipv4Addr,
        name: &str,
        count: u16,
        window: u16,
    ) -> Result<(u16, Duration)> {
        let socket = self.udp_from(0, SocketAddrV4::new(server, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buffer = [0; 1500];
        let started = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < count && sent - answered < window {
                socket
                    .send(&dns::question(sent, name))
                    .context("send a question")?;
                sent += 1;
            }
            if socket.recv(&mut buffer).is_err() {
                break;
            }
            answered += 1;
        }
        Ok((answered, started.elapsed()))
    }

    /// A counter of `/proc/net/snmp`, such as `("Tcp", "RetransSegs")`.
    pub fn counter(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.run_in(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
        let mut lines = text
            .lines()
            .filter(|line| line.split(':').next() == Some(group));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
            bail!("/proc/net/snmp has no {group}");
        };
        let position = names
            .split_whitespace()
            .position(|word| word == name)
            .with_context(|| format!("/proc/net/snmp has no {group} {name}"))?;
        let value = values
            .split_whitespace()
            .nth(position)
            .context("a short line")?;
        value.parse().context("parse a counter")
    }

    /// Starts a capture on one of this host's interfaces.
    pub fn capture(&self, interface: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.namespace, &self.directory, interface, filter)
    }

    /// Serves TCP on `port`, for as long as the lab lives.
    pub fn serve_tcp(&self, port: u16, handler: Handler) -> Result<u16> {
        Ok(self.keep(Server::tcp(&self.namespace, port, handler)?))
    }

    /// Echoes UDP on `port`, for as long as the lab lives.
    pub fn serve_udp_echo(&self, port: u16) -> Result<u16> {
        Ok(self.keep(Server::udp_echo(&self.namespace, port)?))
    }

    /// Who has come to the server on this port.
    #[must_use]
    pub fn peers(&self, protocol: Protocol, port: u16) -> Vec<SocketAddrV4> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers
            .iter()
            .find(|server| server.endpoint() == (protocol, port))
            .map(|server| server.peers().all())
            .unwrap_or_default()
    }

    fn keep(&self, server: Server) -> u16 {
        let (_, port) = server.endpoint();
        self.servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(server);
        port
    }

    /// Ends all its servers.
    pub fn close(&self) {
        self.servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Sends `payload` over a stream and expects it back.
pub fn exchange(stream: &mut TcpStream, payload: &[u8]) -> Result<()> {
    let mut answer = vec![0; payload.len()];
    stream.write_all(payload).context("send")?;
    stream.read_exact(&mut answer).context("receive")?;
    ensure!(answer == payload, "the echo differs from what was sent");
    Ok(())
}

/// Sends `payload` over a connected socket and expects it back.
pub fn datagram(socket: &UdpSocket, payload: &[u8]) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    socket.send(payload).context("send")?;
    let length = socket.recv(&mut buffer).context("receive")?;
    ensure!(
        buffer[..length] == *payload,
        "the echo differs from what was sent"
    );
    Ok(())
}

fn local_v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is no IPv4 address"),
    }
}

/// A TCP connection from an address and port, or any port, of the calling thread's namespace.
pub fn tcp_between(from: SocketAddrV4, to: SocketAddrV4) -> Result<TcpStream> {
    let descriptor = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
    // Bounds connect() too.
    let limit = nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&descriptor, sockopt::SendTimeout, &limit)?;
    setsockopt(&descriptor, sockopt::ReceiveTimeout, &limit)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
    bind(raw, &SockaddrIn::from(from))?;
    connect(raw, &SockaddrIn::from(to))?;
    let stream = TcpStream::from(descriptor);
    stream.set_nodelay(true)?;
    Ok(stream)
}
