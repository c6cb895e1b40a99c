//! Whole Ethernet frames: what no ordinary program sends, and what a host's IP stack is handed after
//! every hook below it.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::hosts::host::Host;

/// Hardware address of one of a host's interfaces.
pub fn mac(host: &Host, interface: &str) -> Result<[u8; 6]> {
    link(host, interface)?
        .addr()
        .with_context(|| format!("{interface} has no hardware address"))
}

fn link(host: &Host, interface: &str) -> Result<LinkAddr> {
    host.run_in(|| {
        getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("{} has no {interface}", host.name()))
    })
}

/// Sends whole frames out of one of a host's interfaces.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    link: LinkAddr,
}

impl Sender {
    /// For `interface` of `host`.
    pub fn new(host: &Host, interface: &str) -> Result<Self> {
        let link = link(host, interface)?;
        let socket = host.run_in(|| {
            Ok(socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?)
        })?;
        Ok(Self { socket, link })
    }

    /// Sends one frame, from its destination address on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let parts = [IoSlice::new(frame)];
        let flags = MsgFlags::empty();
        sendmsg(
            self.socket.as_raw_fd(),
            &parts,
            &[],
            flags,
            Some(&self.link),
        )
        .context("send a frame")?;
        Ok(())
    }
}

/// Receives what the kernel hands to a host's network layer. Unlike a capture, a socket for one
/// protocol is served after XDP and TC ingress (`__netif_receive_skb_core` in net/core/dev.c).
#[derive(Debug)]
pub struct Receiver {
    socket: OwnedFd,
}

impl Receiver {
    /// For one network protocol on all interfaces of `host`.
    pub fn new(host: &Host, protocol: SockProtocol) -> Result<Self> {
        let socket = host.run_in(|| {
            let kind = SockType::Raw;
            Ok(socket(
                AddressFamily::Packet,
                kind,
                SockFlag::SOCK_CLOEXEC,
                protocol,
            )?)
        })?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 22))?;
        Ok(Self { socket })
    }

    /// Everything that arrives within `limit`.
    #[must_use]
    pub fn drain(&self, limit: Duration) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < deadline {
            if let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                frames.push(buffer[..length].to_vec());
            }
        }
        frames
    }
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(to: [u8; 6], from: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ether_type.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a right header checksum, without options and with TTL 64.
#[must_use]
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("an IPv4 packet");
    let [high, low] = length.to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// Recomputes the header checksum of an IPv4 packet.
pub fn fix_checksum(packet: &mut [u8]) {
    let length = (usize::from(packet[0] & 15) * 4).min(packet.len());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..length]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A UDP datagram without a checksum (RFC 768 allows that over IPv4).
#[must_use]
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a UDP datagram");
    [
        &from.to_be_bytes()[..],
        &to.to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat()
}

/// The internet checksum (RFC 1071).
#[must_use]
pub fn checksum(octets: &[u8]) -> u16 {
    let sum = octets.chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (sum + (sum >> 16)).to_be_bytes();
    !u16::from_be_bytes([high, low])
}
