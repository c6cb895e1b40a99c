//! `settings`: what the operator has configured.

use super::capacity;
use super::clients::ClientLimits;
use super::nat::NatPort;
use super::types::{Ipv4, Seconds};

/// How long idle flows live.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP with both sides established; RFC 5382 REQ-5 asks for 7,440 at least.
    pub tcp_established: Seconds,
    /// TCP opening, closing, or after a reset; RFC 5382 REQ-5 asks for 240 at least.
    pub tcp_transitory: Seconds,
    /// UDP; RFC 4787 REQ-5c recommends 300.
    pub udp: Seconds,
    /// UDP that was never answered; RFC 4787 REQ-5 asks for 120 at least.
    pub udp_unreplied: Seconds,
    /// ICMP echo; RFC 5508 REQ-2 asks for 60 at least.
    pub icmp: Seconds,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: 86_400,
            tcp_transitory: 240,
            udp: 300,
            udp_unreplied: 120,
            icmp: 60,
        }
    }
}

/// The one value of `settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// 1 where the cluster source knows every service: an unknown one is rejected.
    pub authoritative: u8,
    /// 1 where a ping to a service with a ready backend is answered.
    pub answer_ping: u8,
    /// 1 where the TC path opens no flow and leaves them all to the stack path, and services to kube-proxy.
    pub stack_only: u8,
    /// [`Settings::PASS_OTHERS`] and [`Settings::HAS_LOCAL_BACKENDS`].
    pub flags: u8,
    /// How many candidates `nat_ports` holds.
    pub nat_port_count: u32,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// How many of `snat_addresses` are set; with 0 the route's source is used.
    pub snat_address_count: u16,
    /// Bit n: the node itself does not use `snat_addresses[n]`, so that no port of it is reserved.
    pub exclusive: u16,
    /// What one client may take.
    pub clients: ClientLimits,
    /// The configured pool.
    pub snat_addresses: [Ipv4; capacity::SNAT_ADDRESSES],
}

impl Settings {
    /// In [`Settings::flags`]: packets to services whose source is in no office network pass, for something else on this
    /// node to translate.
    pub const PASS_OTHERS: u8 = 1;
    /// In [`Settings::flags`]: what backends on this node itself answer is translated at the uplink's egress.
    pub const HAS_LOCAL_BACKENDS: u8 = 2;

    /// Which of `snat_addresses` a client is translated to: always the same (RFC 4787 REQ-2, paired pooling). `None` without
    /// a pool.
    #[must_use]
    #[inline(always)]
    pub fn pool_index(&self, client: Ipv4) -> Option<usize> {
        let count = u32::from(self.snat_address_count);
        if count == 0 {
            return None;
        }
        Some((u32::from_be_bytes(client) % count) as usize % capacity::SNAT_ADDRESSES)
    }

    /// Whether the address of the pool that a client is translated to has all ports.
    #[must_use]
    #[inline(always)]
    pub fn is_exclusive(&self, client: Ipv4) -> bool {
        self.exclusive != 0
            && self
                .pool_index(client)
                .is_some_and(|index| self.exclusive & 1 << index != 0)
    }

    /// Whether clients are translated to an address that the node itself uses, so that only its `nat_port_count` ports
    /// are theirs.
    #[must_use]
    pub const fn has_shared_nat_address(&self) -> bool {
        self.snat_address_count == 0 || self.exclusive.count_ones() < self.snat_address_count as u32
    }

    /// How many ports a client can be translated to, towards each port of a backend.
    #[must_use]
    pub const fn nat_ports(&self) -> u32 {
        if self.has_shared_nat_address() {
            self.nat_port_count
        } else {
            NatPort::USER
        }
    }

    /// Whether a flag is set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
