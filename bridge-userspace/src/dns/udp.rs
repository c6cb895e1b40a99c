//! The relay's UDP side towards the clients.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::exchange::resolve;
use super::framing::MAX_MESSAGE_LEN;
use super::relay::{Admission, Shared};
use crate::kernel::sockets::Transport;

/// Datagrams taken in a row before other tasks get their turn.
const BATCH: usize = 64;

/// Pause after an error that is not about one datagram, so that it can't spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub struct Front {
    socket: UdpSocket,
    wildcard: bool,
}

/// Who asked, and where.
#[derive(Clone, Copy, Debug)]
struct Peer {
    client: SocketAddr,
    /// The address asked, where the socket is not bound to it anyway.
    asked: Option<IpAddr>,
}

impl Front {
    /// Takes over a bound socket, inside of a runtime.
    ///
    /// # Errors
    /// If the runtime can't watch it.
    pub fn new(socket: StdUdpSocket) -> io::Result<Self> {
        let wildcard = socket.local_addr()?.ip().is_unspecified();
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            wildcard,
        })
    }

    /// Answers queries until `stop` says true. Those in flight then go on by themselves.
    pub async fn serve(self: Arc<Self>, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
        let mut buffer = vec![0; MAX_MESSAGE_LEN];
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = self.socket.readable() => {}
            }
            for _ in 0..BATCH {
                match self.try_receive(&mut buffer, &mut control) {
                    Ok((len, peer)) => self.take(&shared, &buffer[..len], peer),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::warn!(%error, "receiving DNS queries failed");
                        tokio::time::sleep(ERROR_PAUSE).await;
                        break;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn take(self: &Arc<Self>, shared: &Arc<Shared>, message: &[u8], peer: Peer) {
        match shared.admit(peer.client.ip(), Transport::Udp, message) {
            Admission::Ignore => {}
            Admission::Answer(answer) => {
                // An own answer is not worth waiting for room in the socket.
                shared.count_response(&answer);
                if self.try_send(&answer, peer).is_err() {
                    shared.counters.send_failures.increment();
                }
            }
            Admission::Ask(query, permit) => {
                let (front, shared) = (self.clone(), shared.clone());
                tokio::spawn(async move {
                    let answer = resolve(&shared, Transport::Udp, query).await;
                    shared.count_response(&answer);
                    if let Err(error) = front.send(&answer, peer).await {
                        shared.counters.send_failures.increment();
                        tracing::debug!(client = %peer.client, %error, "could not send a DNS answer");
                    }
                    drop(permit);
                });
            }
        }
    }

    fn try_receive(&self, buffer: &mut [u8], control: &mut [u8]) -> io::Result<(usize, Peer)> {
        if !self.wildcard {
            let (len, client) = self.socket.try_recv_from(buffer)?;
            return Ok((
                len,
                Peer {
                    client,
                    asked: None,
                },
            ));
        }
        self.socket.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(buffer)];
            let received = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(control),
                MsgFlags::empty(),
            )?;
            let client = received
                .address
                .as_ref()
                .and_then(to_std)
                .ok_or_else(|| io::Error::other("a datagram without a source address"))?;
            let asked = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    Some(IpAddr::from(info.ipi6_addr.s6_addr))
                }
                _ => None,
            });
            Ok((received.bytes, Peer { client, asked }))
        })
    }

    async fn send(&self, message: &[u8], peer: Peer) -> io::Result<()> {
        loop {
            match self.try_send(message, peer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                }
                result => return result,
            }
        }
    }

    /// Sends from the address asked: a resolver drops an answer from any other.
    fn try_send(&self, message: &[u8], peer: Peer) -> io::Result<()> {
        let Some(asked) = peer.asked else {
            return self.socket.try_send_to(message, peer.client).map(drop);
        };
        let send = |control: ControlMessage<'_>| {
            let to = SockaddrStorage::from(peer.client);
            let parts = [IoSlice::new(message)];
            self.socket.try_io(Interest::WRITABLE, || {
                sendmsg(
                    self.socket.as_raw_fd(),
                    &parts,
                    &[control],
                    MsgFlags::empty(),
                    Some(&to),
                )?;
                Ok(())
            })
        };
        // Interface 0 leaves the choice of the route to the kernel. The client's scope has the
        // interface of a link-local address.
        match asked {
            IpAddr::V4(asked) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(asked.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            })),
            IpAddr::V6(asked) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: asked.octets(),
                },
                ipi6_ifindex: 0,
            })),
        }
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}
