//! VXLAN (RFC 7348): what stands in front of a packet in the tunnel.

use network_types::ip::Ipv4Hdr;
use network_types::udp::UdpHdr;
use network_types::vxlan::{VXLAN_I_FLAG_MASK, VxlanHdr};

use crate::abi::{FlowKey, Mac, NextHop, Tunnel, Vtep};
use crate::packet::OutOfBounds;
use crate::packet::checksum::Sum;
use crate::packet::frame::{ETHERNET, Frame};
use crate::packet::parse::{Datagram, UDP};

/// Bytes that the tunnel adds: outer Ethernet, IPv4, UDP and VXLAN headers.
pub const OVERHEAD: u32 = ETHERNET + (Ipv4Hdr::LEN + UdpHdr::LEN + VxlanHdr::LEN) as u32;

/// Where the inner IPv4 header stands in a frame of the tunnel.
pub const INNER: u32 = OVERHEAD + ETHERNET;

/// `ETH_P_IP` (`linux/if_ether.h`).
pub const ETH_P_IP: [u8; 2] = [0x08, 0x00];

/// ECN field of the TOS byte (RFC 3168 section 5).
const ECN: u8 = 0x03;
const ECN_CE: u8 = 0x03;
const ECN_ECT_0: u8 = 0x02;

const OUTER_UDP: u32 = ETHERNET + Ipv4Hdr::LEN as u32;

/// The Ethernet header in front of an IPv4 packet.
#[must_use]
#[inline(always)]
pub const fn ethernet(destination: Mac, source: Mac) -> [u8; ETHERNET as usize] {
    let [d0, d1, d2, d3, d4, d5] = destination;
    let [s0, s1, s2, s3, s4, s5] = source;
    let [t0, t1] = ETH_P_IP;
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
}

/// What spreads flows over the underlay's paths: the same for all packets of a flow.
#[must_use]
#[inline(always)]
pub const fn flow_hash(key: &FlowKey) -> u32 {
    /// 2^32 divided by the golden ratio (Knuth, TAOCP 6.4).
    const GOLDEN: u32 = 0x9E37_79B1;
    let ports = (key.client_port as u32) << 16 | key.destination_port as u32;
    let addresses =
        u32::from_ne_bytes(key.client) ^ u32::from_ne_bytes(key.destination).rotate_left(13);
    (addresses.wrapping_mul(GOLDEN) ^ ports ^ key.protocol as u32).wrapping_mul(GOLDEN)
}

/// Whether a frame whose outer header is `outer` comes out of this tunnel.
///
/// The outer source is anybody's, as for the kernel, and a UDP checksum may be wrong (RFC 7348 section 5: "MAY choose to
/// verify"): whether the packet is ours is told by the inner one.
#[inline(always)]
pub fn belongs<F: Frame>(frame: &F, outer: &Datagram, tunnel: &Tunnel) -> bool {
    if tunnel.port == 0 || outer.destination() != tunnel.local || outer.protocol() != UDP {
        return false;
    }
    // All in one, from the destination port to the inner type: the kernel's verifier follows one check with ease.
    let Ok(headers) = frame.load::<{ (INNER - OUTER_UDP) as usize }>(OUTER_UDP) else {
        return false;
    };
    let [
        _,
        _,
        p0,
        p1,
        u0,
        u1,
        _,
        _,
        flags,
        r0,
        r1,
        r2,
        v0,
        v1,
        v2,
        r3,
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        ..,
        t0,
        t1,
    ] = headers;
    // As in `udp_rcv` and `vxlan_rcv` of the kernel the length must be right, and nothing may say what we don't know. Few
    // comparisons, of words: each doubles the verifier's work.
    let udp_len = outer.total_len.wrapping_sub(Ipv4Hdr::LEN as u32);
    u32::from_be_bytes([p0, p1, u0, u1]) == u32::from(tunnel.port) << 16 | udp_len
        && [flags, r0, r1, r2] == [VXLAN_I_FLAG_MASK, 0, 0, 0]
        && u32::from_be_bytes([v0, v1, v2, r3]) == tunnel.vni << 8
        && [m0, m1, m2, m3, m4, m5] == tunnel.mac
        && [t0, t1] == ETH_P_IP
        // Congestion that the underlay has met is to be told inside (RFC 6040 section 4.2), which the kernel does.
        && outer.ip.tos & ECN != ECN_CE
}

/// Writes all headers in front of the inner IPv4 packet: [`INNER`] bytes at the start of the frame, that were made room
/// for. `inner` is the packet's header.
///
/// # Errors
/// When the frame is shorter.
#[inline(always)]
pub fn encapsulate<F: Frame>(
    frame: &mut F,
    hop: &NextHop,
    vtep: &Vtep,
    inner: &Datagram,
    hash: u32,
) -> Result<(), OutOfBounds> {
    let udp_len = frame.len().wrapping_sub(OUTER_UDP) as u16;
    let [l0, l1] = udp_len.wrapping_add(Ipv4Hdr::LEN as u16).to_be_bytes();
    let [u0, u1] = udp_len.to_be_bytes();
    // As `INET_ECN_encapsulate` (net/inet_ecn.h) does.
    let ecn = if inner.ip.tos & ECN == ECN_CE {
        ECN_ECT_0
    } else {
        inner.ip.tos & ECN
    };
    // Unlikely to meet another packet's while that is put together, should the underlay fragment.
    let [i0, i1] = (u16::from_be_bytes(inner.ip.id) ^ hash as u16).to_be_bytes();
    let [r0, r1, r2, r3] = vtep.remote;
    let [s0, s1, s2, s3] = vtep.local;
    let (tos, ttl) = (vtep.tos | ecn, vtep.ttl);
    let [c0, c1] = Sum::default()
        .add(&[
            0x45, tos, l0, l1, i0, i1, 0, 0, ttl, UDP, s0, s1, s2, s3, r0, r1, r2, r3,
        ])
        .checksum();
    let port = u32::from(vtep.source_port_min)
        + (((hash >> 16) * u32::from(vtep.source_port_count)) >> 16);
    let [p0, p1] = (port as u16).to_be_bytes();
    let [d0, d1] = vtep.port.to_be_bytes();
    let [_, v0, v1, v2] = vtep.vni.to_be_bytes();
    frame.store(0, &ethernet(hop.destination, hop.source))?;
    frame.store(
        ETHERNET,
        &[
            0x45, tos, l0, l1, i0, i1, 0, 0, ttl, UDP, c0, c1, s0, s1, s2, s3, r0, r1, r2, r3,
        ],
    )?;
    // No checksum: the inner packet has its own (RFC 7348 section 5).
    frame.store(
        OUTER_UDP,
        &[
            p0,
            p1,
            d0,
            d1,
            u0,
            u1,
            0,
            0,
            VXLAN_I_FLAG_MASK,
            0,
            0,
            0,
            v0,
            v1,
            v2,
            0,
        ],
    )?;
    frame.store(
        OVERHEAD,
        &ethernet(vtep.inner_destination, vtep.inner_source),
    )
}
