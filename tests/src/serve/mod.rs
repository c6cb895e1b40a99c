//! Servers of the pods and of the developer's own machine: echo, bulk transfer, HTTP, the registry and
//! something that speaks enough of `MySQL`. They run on threads of this process, over sockets made in
//! the host's namespace, and remember which address each peer came from.

pub mod http;
pub mod mysql;
pub mod registry;

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::Protocol;
use crate::machine::netns::Namespace;

/// Serves one TCP connection to its end.
pub type Handler = Arc<dyn Fn(TcpStream, SocketAddrV4) -> io::Result<()> + Send + Sync>;

/// Who has come to a server, in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<Vec<SocketAddrV4>>>);

impl Peers {
    /// All of them so far.
    #[must_use]
    pub fn all(&self) -> Vec<SocketAddrV4> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, peer: SocketAddrV4) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.last() != Some(&peer) {
            peers.push(peer);
        }
    }
}

/// A running server; dropping it closes its sockets and with them its connections.
pub struct Server {
    protocol: Protocol,
    port: u16,
    peers: Peers,
    stop: Arc<AtomicBool>,
    listener: Option<TcpListener>,
    connections: Connections,
    thread: Option<JoinHandle<()>>,
}

type Connections = Arc<Mutex<HashMap<u64, TcpStream>>>;

impl Server {
    /// Serves TCP on `port` of every address of `namespace`.
    pub fn tcp(namespace: &Namespace, port: u16, handler: Handler) -> Result<Self> {
        let listener = namespace
            .run_in(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?))
            .with_context(|| format!("listen on TCP port {port} in {}", namespace.name()))?;
        let port = listener.local_addr().context("read the port")?.port();
        let peers = Peers::default();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Connections::default();
        let accepting = listener.try_clone().context("share the listener")?;
        let thread = std::thread::spawn({
            let (peers, stop, connections) = (peers.clone(), stop.clone(), connections.clone());
            move || accept(&accepting, &peers, &stop, &connections, &handler)
        });
        Ok(Self {
            protocol: Protocol::Tcp,
            port,
            peers,
            stop,
            listener: Some(listener),
            connections,
            thread: Some(thread),
        })
    }

    /// Echoes UDP datagrams on `port` of every address of `namespace`.
    pub fn udp_echo(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace
            .run_in(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))
            .with_context(|| format!("listen on UDP port {port} in {}", namespace.name()))?;
        let port = socket.local_addr().context("read the port")?.port();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .context("set a timeout")?;
        let peers = Peers::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (peers, stop) = (peers.clone(), stop.clone());
            move || {
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                        if let SocketAddr::V4(peer) = peer {
                            peers.note(peer);
                        }
                        let _ = socket.send_to(&buffer[..length], peer);
                    }
                }
            }
        });
        Ok(Self {
            protocol: Protocol::Udp,
            port,
            peers,
            stop,
            listener: None,
            connections: Connections::default(),
            thread: Some(thread),
        })
    }

    /// Its protocol and port.
    #[must_use]
    pub fn endpoint(&self) -> (Protocol, u16) {
        (self.protocol, self.port)
    }

    /// Who has come to it.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // Wakes the thread that waits in accept().
            let _ =
                nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        for stream in self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    peers: &Peers,
    stop: &AtomicBool,
    connections: &Connections,
    handler: &Handler,
) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, SocketAddr::V4(peer))) = listener.accept() else {
            continue;
        };
        peers.note(peer);
        let Ok(copy) = stream.try_clone() else {
            continue;
        };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, copy);
        let (connections, handler) = (connections.clone(), handler.clone());
        std::thread::spawn(move || {
            let _ = handler(stream, peer);
            connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
        });
    }
}

/// Sends back what comes, until the peer closes.
#[must_use]
pub fn echo() -> Handler {
    Arc::new(|mut stream, _| {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => stream.write_all(&buffer[..length])?,
            }
        }
    })
}

/// Bulk transfer. The client sends two counts (64 bits, big endian): how many octets it will send, and
/// how many it wants; then its octets. The server sends the wanted ones when it has had them all.
#[must_use]
pub fn bulk() -> Handler {
    Arc::new(|mut stream, _| {
        let mut counts = [0; 16];
        stream.read_exact(&mut counts)?;
        let (up, down) = counts.split_at(8);
        let count = |half: &[u8]| {
            half.iter()
                .fold(0, |sum, &octet| sum << 8 | u64::from(octet))
        };
        swallow(&mut stream, count(up))?;
        pour(&mut stream, count(down))
    })
}

/// Reads `count` octets and forgets them.
pub fn swallow(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let mut left = count;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => left = left.saturating_sub(length as u64),
        }
    }
    Ok(())
}

/// Writes `count` octets.
pub fn pour(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let buffer = vec![0x5a; 1 << 18];
    let mut left = count;
    while left > 0 {
        let length = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        stream.write_all(&buffer[..length])?;
        left -= length as u64;
    }
    Ok(())
}
