//! TCP connections of a client to a pod: throughput, latency and connection rate.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};
use std::{panic, thread};

use anyhow::{Context as _, Result, ensure};
use lab::Host;
use lab::host::exchange;
use lab::plan::port;
use lab::serve;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, socket};

use super::machine::{self, Cpu};
use super::plan::{Contestant, Direction};
use super::topology::{POD, Topology};

/// A client and a server in a pod. With two CPUs each has its own: otherwise the scheduler's placement has more effect on
/// the figures than the forwarder.
pub struct Sockets {
    client: Host,
    server: Host,
    bulk: u64,
}

/// Number of bulk transfers in one measurement, which is their median.
const TRANSFERS: usize = 7;

impl Sockets {
    /// Starts the servers. `bulk` is the size of a bulk transfer in octets.
    pub fn open(topology: &Topology, contestant: Contestant, bulk: u64) -> Result<Self> {
        if contestant == Contestant::Xdp {
            topology.complete_checksums()?;
        }
        let server = topology.server();
        on(Cpu::Last, || {
            server.serve_tcp(port::ECHO, serve::echo())?;
            server.serve_tcp(port::BULK, serve::bulk())
        })?;
        let sockets = Self {
            client: topology.client(),
            server,
            bulk,
        };
        // The first connection discovers the path MTU, and fails if there is no path.
        sockets
            .client
            .bulk(SocketAddrV4::new(POD, port::BULK), 1 << 20, 1 << 20)?;
        Ok(sockets)
    }

    /// Throughput of a bulk transfer in bits a second.
    #[expect(clippy::cast_precision_loss, reason = "gigabytes")]
    pub fn bulk(&self, direction: Direction) -> Result<f64> {
        let (up, down) = match direction {
            Direction::Forward => (self.bulk, 0),
            Direction::Reply => (0, self.bulk),
        };
        let to = SocketAddrV4::new(POD, port::BULK);
        let times = on(Cpu::First, || {
            let transfer = |_| Ok(self.client.bulk(to, up, down)?.as_secs_f64());
            (0..TRANSFERS).map(transfer).collect::<Result<Vec<_>>>()
        })?;
        Ok(self.bulk as f64 * 8.0 / median(times)?)
    }

    /// Median latency of small requests on an open connection, in microseconds.
    pub fn response(&self) -> Result<f64> {
        const EXCHANGES: usize = 4_000;
        let times = on(Cpu::First, || {
            let mut stream = self.client.tcp(SocketAddrV4::new(POD, port::ECHO))?;
            let exchange = |_| {
                let started = Instant::now();
                exchange(&mut stream, b"request")?;
                Ok(started.elapsed().as_secs_f64() * 1e6)
            };
            (0..EXCHANGES).map(exchange).collect::<Result<Vec<_>>>()
        })?;
        median(times)
    }

    /// Connections opened and closed a second, one after the other.
    pub fn connects(&self) -> Result<f64> {
        const CONNECTS: u16 = 1_000;
        // Nobody accepts them: the kernel completes the handshake, and only the client's program runs.
        let _listener = self.server.run_in(|| listen(CONNECTS))?;
        let to = SocketAddr::V4(SocketAddrV4::new(POD, PORT));
        let elapsed = self.client.run_in(|| {
            machine::pin_thread(Cpu::First)?;
            let started = Instant::now();
            for _ in 0..CONNECTS {
                TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            }
            Ok(started.elapsed())
        })?;
        Ok(f64::from(CONNECTS) / elapsed.as_secs_f64())
    }

    /// Checks that the pod has seen the source address that the forwarder has to give.
    pub fn check_source(&self, expected: Ipv4Addr) -> Result<()> {
        let peers = self.server.peers(lab::cluster::Protocol::Tcp, port::ECHO);
        let stranger = peers.iter().find(|peer| *peer.ip() != expected);
        ensure!(
            stranger.is_none(),
            "the pod has seen {stranger:?}, not {expected}"
        );
        Ok(())
    }
}

/// Does `work` in a thread that is pinned to a CPU.
fn on<T: Send>(cpu: Cpu, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            machine::pin_thread(cpu)?;
            work()
        });
        worker
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("no values")
}

/// A port that nothing else in the lab uses.
const PORT: u16 = 5_002;

fn listen(backlog: u16) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    bind(listener.as_raw_fd(), &SockaddrIn::from(any))?;
    nix::sys::socket::listen(&listener, Backlog::new(backlog)?)?;
    Ok(listener)
}
