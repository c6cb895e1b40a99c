//! What programs notice: TCP connections of a client to a pod.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::Host;
use lab::host::exchange;
use lab::plan::port;
use lab::serve;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, socket};

use super::plan::{Contestant, Direction};
use super::topology::{POD, Topology};

/// A client and a pod that serves.
pub struct Sockets {
    client: Host,
    server: Host,
    bulk: u64,
}

impl Sockets {
    /// Opens the servers; a bulk transfer has this many octets.
    pub fn open(topology: &Topology, contestant: Contestant, bulk: u64) -> Result<Self> {
        if contestant == Contestant::Xdp {
            topology.complete_checksums()?;
        }
        let server = topology.server();
        server.serve_tcp(port::ECHO, serve::echo())?;
        server.serve_tcp(port::BULK, serve::bulk())?;
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
        let elapsed = self
            .client
            .bulk(SocketAddrV4::new(POD, port::BULK), up, down)?;
        Ok(self.bulk as f64 * 8.0 / elapsed.as_secs_f64())
    }

    /// Microseconds, the median of many exchanges of a few octets.
    pub fn response(&self) -> Result<f64> {
        const EXCHANGES: usize = 4_000;
        let mut stream = self.client.tcp(SocketAddrV4::new(POD, port::ECHO))?;
        let mut times = Vec::with_capacity(EXCHANGES);
        for _ in 0..EXCHANGES {
            let started = Instant::now();
            exchange(&mut stream, b"request")?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        times.get(EXCHANGES / 2).copied().context("no exchange")
    }

    /// Connections a second, one after the other.
    pub fn connects(&self) -> Result<f64> {
        const CONNECTS: u16 = 1_000;
        // They wait to be accepted, so that no program but the client's is in the way.
        let _listener = self.server.run_in(|| listen(CONNECTS))?;
        let to = SocketAddr::V4(SocketAddrV4::new(POD, PORT));
        let elapsed = self.client.run_in(|| {
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
