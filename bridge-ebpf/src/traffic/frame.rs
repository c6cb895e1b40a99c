//! Writing and reading whole frames, in units that are aligned wherever an Ethernet header puts them.

use crate::flows::Tuple;
use crate::layout::{ENCAPSULATION, FRAME};

const UDP: u16 = 17;
const TTL: u16 = 64;
/// Without options.
const IPV4_LEN: u16 = 20;
const DATAGRAM_LEN: u16 = FRAME as u16 - 14 - IPV4_LEN;

/// A frame with an IPv4 packet without options and a UDP datagram in it; everything in network order.
#[repr(C)]
pub struct Frame {
    pub ethernet: [u16; 7],
    pub ip: [u16; 10],
    pub udp: [u16; 4],
    pub payload: [u16; 11],
}

const _: () = assert!(size_of::<Frame>() == FRAME);

/// A frame within VXLAN.
#[repr(C)]
pub struct Tunnelled {
    pub outer: [u16; ENCAPSULATION / 2],
    pub frame: Frame,
}

const fn halves(value: u32) -> (u16, u16) {
    ((value >> 16) as u16, value as u16)
}

/// The Internet checksum of what adds up to `sum` (RFC 1071).
#[inline(always)]
const fn checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[inline(always)]
fn sum(words: &[u16]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += u32::from(u16::from_be(*word));
    }
    sum
}

impl Frame {
    /// Writes everything: what was here before may be any packet.
    #[inline(always)]
    pub fn write(&mut self, ethernet: &[u16; 7], tuple: &Tuple) {
        let (source_high, source_low) = halves(tuple.source);
        let (destination_high, destination_low) = halves(tuple.destination);
        self.ethernet = *ethernet;
        let addresses = u32::from(source_high)
            + u32::from(source_low)
            + u32::from(destination_high)
            + u32::from(destination_low);
        let ip_sum = 0x4500 + u32::from(FRAME as u16 - 14) + u32::from(TTL << 8 | UDP) + addresses;
        self.ip = [
            0x4500_u16.to_be(),
            (FRAME as u16 - 14).to_be(),
            0,
            0,
            (TTL << 8 | UDP).to_be(),
            checksum(ip_sum).to_be(),
            source_high.to_be(),
            source_low.to_be(),
            destination_high.to_be(),
            destination_low.to_be(),
        ];
        // Pseudo-header and header have the length each; the payload is zeros.
        let udp_sum = addresses
            + u32::from(UDP)
            + 2 * u32::from(DATAGRAM_LEN)
            + tuple.source_port
            + tuple.destination_port;
        // 0 would say that there is none (RFC 768).
        let udp_checksum = match checksum(udp_sum) {
            0 => 0xffff,
            checksum => checksum,
        };
        self.udp = [
            (tuple.source_port as u16).to_be(),
            (tuple.destination_port as u16).to_be(),
            DATAGRAM_LEN.to_be(),
            udp_checksum.to_be(),
        ];
        self.payload = [0; 11];
    }

    /// Whether it is IPv4 at all.
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        self.ethernet[6] == 0x0800_u16.to_be()
    }

    /// Whether it is a UDP datagram in an IPv4 packet without options.
    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        self.is_ipv4()
            && self.ip[0] & 0xff00_u16.to_be() == 0x4500_u16.to_be()
            && self.ip[4] & 0x00ff_u16.to_be() == UDP.to_be()
    }

    /// Source and destination address in host order.
    #[inline(always)]
    pub fn addresses(&self) -> (u32, u32) {
        let address = |high: u16, low: u16| {
            u32::from(u16::from_be(high)) << 16 | u32::from(u16::from_be(low))
        };
        (
            address(self.ip[6], self.ip[7]),
            address(self.ip[8], self.ip[9]),
        )
    }

    /// Whether both checksums are there and right.
    #[inline(always)]
    pub fn is_sound(&self) -> bool {
        let udp = sum(&self.ip[6..]) + u32::from(UDP) + u32::from(u16::from_be(self.udp[2]));
        let udp = udp + sum(&self.udp) + sum(&self.payload);
        self.udp[3] != 0 && checksum(sum(&self.ip)) == 0 && checksum(udp) == 0
    }
}
