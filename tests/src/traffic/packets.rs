//! Whole IPv4 packets, and a socket that sends them by a host's own routes: what a neighbour with a program of their own
//! sends, under whatever address.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::frames::{checksum, ipv4, udp};
use crate::hosts::host::Host;

/// TCP flags (RFC 9293 section 3.1).
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// Sends whole packets from a host (raw(7), `IPPROTO_RAW`).
#[derive(Debug)]
pub struct PacketSender {
    socket: OwnedFd,
}

impl PacketSender {
    /// Of `host`.
    pub fn new(host: &Host) -> Result<Self> {
        let socket = host.run_in(|| {
            Ok(socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )?)
        })?;
        Ok(Self { socket })
    }

    /// Sends one packet, from its IPv4 header on, to the address in it.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let to = SockaddrIn::new(packet[16], packet[17], packet[18], packet[19], 0);
        sendto(self.socket.as_raw_fd(), packet, &to, MsgFlags::empty()).context("send a packet")?;
        Ok(())
    }
}

/// A TCP segment without payload; `sequence` and `acknowledgement` are its numbers.
#[must_use]
pub fn segment(
    from: SocketAddrV4,
    to: SocketAddrV4,
    flags: u8,
    (sequence, acknowledgement): (u32, u32),
) -> Vec<u8> {
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    let length = u8::try_from(segment.len()).expect("twenty octets");
    let mut summed = [from.ip().octets(), to.ip().octets(), [0, 6, 0, length]].concat();
    summed.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
    ipv4(*from.ip(), *to.ip(), 6, &segment)
}

/// A UDP datagram.
#[must_use]
pub fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    ipv4(
        *from.ip(),
        *to.ip(),
        17,
        &udp(from.port(), to.port(), payload),
    )
}

/// An ICMP echo request without payload.
#[must_use]
pub fn ping(from: Ipv4Addr, to: Ipv4Addr, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    let mut message = vec![8, 0, 0, 0, high, low, 0, 1];
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, to, 1, &message)
}

/// Numbers that nobody could guess, the same in each run (Numerical Recipes' linear congruential generator).
pub fn numbers() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(0x5EED_u32), |number| {
        Some(number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
}
