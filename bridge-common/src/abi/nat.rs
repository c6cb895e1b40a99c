//! `nat_ports` and `port_searches`: what a NAT needs beside its flows.

use super::types::{Ipv4, Seconds};

/// Value of `nat_ports` at index n.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatPort {
    /// The n-th port that may be chosen, for n below [`Settings::nat_port_count`](super::Settings::nat_port_count); from
    /// [`Self::PRIVILEGED_AT`] on the privileged ones, again and again, for clients with such a port. Else 0.
    pub candidate: u16,
    /// 1 where port n itself is used by the node and must not be chosen.
    pub reserved: u8,
    /// Always 0.
    pub pad: u8,
}

impl NatPort {
    /// Ports below are privileged (RFC 6335 section 6: system ports); no other client gets one.
    pub const FIRST_USER: u16 = 1_024;
    /// The lowest port that a client with a privileged one gets instead: servers that ask for one (NFS `secure`, rsh, lpd)
    /// look no lower (`IPPORT_RESERVED / 2`, netinet/in.h).
    pub const FIRST_PRIVILEGED: u32 = 512;
    /// How many there are.
    pub const PRIVILEGED: u32 = Self::FIRST_USER as u32 - Self::FIRST_PRIVILEGED;
    /// How many others there are.
    pub const USER: u32 = (1 << 16) - Self::FIRST_USER as u32;
    /// Where the privileged ones stand in the table: after all that other clients may get.
    pub const PRIVILEGED_AT: u32 = Self::USER;

    /// The whole table where these ports are the node's own.
    pub fn table(reserved: &impl Fn(u16) -> bool) -> impl Iterator<Item = Self> {
        let is_free = |port: &u16| !reserved(*port);
        let privileged = Self::FIRST_PRIVILEGED as u16..Self::FIRST_USER;
        let mut privileged = privileged.filter(is_free).cycle();
        let mut others = (Self::FIRST_USER..=u16::MAX).filter(is_free);
        (0..=u16::MAX).map(move |index| {
            let candidate = if u32::from(index) < Self::PRIVILEGED_AT {
                others.next()
            } else {
                privileged.next()
            };
            Self {
                candidate: candidate.unwrap_or_default(),
                reserved: u8::from(index == 0 || reserved(index)),
                pad: 0,
            }
        })
    }
}

/// Key of `port_searches`: what has NAT ports of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPool {
    /// The pod.
    pub backend: Ipv4,
    /// The NAT address.
    pub nat: Ipv4,
    /// The pod's port; 0 with ICMP.
    pub backend_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `port_searches`: how the search for ports goes in a pool that has hardly any free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSearch {
    /// Where the next search for one that may be taken over begins. Ports are taken in this order, so the one that comes
    /// next has been held for longest.
    pub hand: u32,
    /// When the last search was.
    pub second: Seconds,
    /// How many have failed in that second.
    pub failures: u32,
}
