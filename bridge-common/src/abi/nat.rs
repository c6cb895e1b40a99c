//! `fragments` and `nat_ports`: what a NAT needs beside its flows.

use super::types::{Ipv4, Seconds};

/// Key of `fragments`: what makes the fragments of one datagram one (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address as it arrived.
    pub source: Ipv4,
    /// Destination address as it arrived.
    pub destination: Ipv4,
    /// IPv4 identification.
    pub identification: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `fragments`: what only the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Source port, or ICMP identifier.
    pub source_port: u16,
    /// Destination port; 0 with ICMP.
    pub destination_port: u16,
    /// When the first fragment came by.
    pub seen: Seconds,
}

/// Value of `nat_ports` at index n.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatPort {
    /// The n-th port that may be chosen, for n below [`Settings::nat_port_count`](super::Settings::nat_port_count).
    pub candidate: u16,
    /// 1 where port n itself is used by the node and must not be chosen.
    pub reserved: u8,
    /// Always 0.
    pub pad: u8,
}
