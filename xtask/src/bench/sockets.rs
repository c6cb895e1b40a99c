//! What programs notice: TCP connections of a client to a pod.

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

/// A client and a pod that serves, each on a CPU of its own where there are two: where the scheduler puts them by itself
/// decides more than what is between them.
pub struct Sockets {
    client: Host,
    server: Host,
    bulk: u64,
}

/// Bulk transfers of one measurement, of which the median counts.
const TRANSFERS: usize = 7;

impl Sockets {
    /// Opens the servers; a bulk transfer has this many octets.
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
        // The first connection finds the path's MTU, and tells whether there is one.
        sockets
            .client
            .bulk(SocketAddrV4::new(POD, port::BULK), 1 << 20, 1 << 20)?;
        Ok(sockets)
    }

    /// Bits a second.
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

    /// Microseconds, the median of many exchanges of a few octets.
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

    /// Connections a second, one after the other.
    pub fn connects(&self) -> Result<f64> {
        const CONNECTS: u16 = 1_000;
        // They wait to be accepted, so that no program but the client's is in the way.
        let _listener = self.server.run_in(|| listen(CONNECTS))?;
        let to = SocketAddr::V4(SocketAddrV4::new(POD, PORT));
        let elapsed = self.client.run_in(|| {
            machine::stay_on(Cpu::First)?;
            let started = Instant::now();
            for _ in 0..CONNECTS {
                TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            }
            Ok(started.elapsed())
        })?;
        Ok(f64::from(CONNECTS) / elapsed.as_secs_f64())
    }

    /// Checks that the pod have seen the address that the forwarder should give.
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

/// Does `work` on a CPU, together with whatever it starts.
fn on<T: Send>(cpu: Cpu, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            machine::stay_on(cpu)?;
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

/// A port that nothing else of the lab uses.
const PORT: u16 = 5_002;

fn listen(backlog: u16) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    bind(listener.as_raw_fd(), &SockaddrIn::from(any))?;
    nix::sys::socket::listen(&listener, Backlog::new(backlog)?)?;
    Ok(listener)
}
