//! `routes`, `next_hops` and `vtep_fdb`: the kernel's routes, neighbours and FDB as the bridge mirrors them.

use super::types::{Ipv4, Mac};

/// Value of `routes`: where the kernel would send a packet, and from which address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Egress interface.
    pub ifindex: u32,
    /// The kernel's preferred source towards this prefix: the address to which replies are sent.
    pub source: Ipv4,
    /// Bytes of the largest IPv4 packet that the interface takes.
    pub mtu: u32,
    /// [`Route::TUNNEL`], [`Route::LOCAL`], [`Route::UNREACHABLE`].
    pub flags: u16,
    /// Number of the [`NextHop`] by which XDP sends there; 0 if it can't.
    pub next_hop: u16,
    /// The neighbour that packets are given to; 0.0.0.0 if each destination is a neighbour itself.
    pub gateway: Ipv4,
}

impl Route {
    /// The interface encapsulates; a packet above its MTU is fragmented outside the tunnel.
    pub const TUNNEL: u16 = 1;
    /// The address is the node's own.
    pub const LOCAL: u16 = 2;
    /// There is no way, or only the default route back to where the packet came from.
    pub const UNREACHABLE: u16 = 4;

    /// The neighbour that a packet to `destination` is given to.
    #[must_use]
    #[inline(always)]
    pub const fn neighbour(&self, destination: Ipv4) -> Ipv4 {
        match self.gateway {
            [0, 0, 0, 0] => destination,
            gateway => gateway,
        }
    }

    /// Whether the interface encapsulates.
    #[must_use]
    #[inline]
    pub const fn is_tunnel(&self) -> bool {
        self.flags & Self::TUNNEL != 0
    }

    /// Whether there is no way.
    #[must_use]
    #[inline]
    pub const fn is_unreachable(&self) -> bool {
        self.flags & Self::UNREACHABLE != 0
    }

    /// Whether the address is the node's own.
    #[must_use]
    #[inline]
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }
}

/// Value of `next_hops`: what XDP writes in front of a packet, and where it sends it.
///
/// A number that was given up is not given to another next hop before the epoch has advanced, see
/// [`FastPath::epoch`](super::FastPath::epoch).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Egress interface, of a tunnel the one under it; 0 in an unused entry.
    pub ifindex: u32,
    /// Number of the [`Vtep`] that the packet is sent to in VXLAN; 0 without a tunnel.
    pub vtep: u32,
    /// Bytes of the largest IPv4 packet, before encapsulation.
    pub mtu: u32,
    /// The neighbour's Ethernet address.
    pub destination: Mac,
    /// The interface's own.
    pub source: Mac,
}

/// Value of `vtep_fdb`: a remote tunnel end, as the FDB of a kernel's VXLAN device has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vtep {
    /// Its address.
    pub remote: Ipv4,
    /// Our own address.
    pub local: Ipv4,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// The lowest UDP source port.
    pub source_port_min: u16,
    /// How many source ports there are from that on; at least 1.
    pub source_port_count: u16,
    /// TTL of the outer packet.
    pub ttl: u8,
    /// TOS byte of the outer packet, without its ECN bits.
    pub tos: u8,
    /// Ethernet address of the remote VXLAN device.
    pub inner_destination: Mac,
    /// Ethernet address of our VXLAN device.
    pub inner_source: Mac,
}

/// Value of `hop_cache`: the [`NextHop`] towards an address, as it was looked up in some epoch. One word, so that no CPU
/// sees half of what another writes; 0 in an unused entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedHop(pub u64);

impl CachedHop {
    /// `number` towards `address`, as looked up in an [epoch](super::FastPath::epoch).
    #[must_use]
    #[inline(always)]
    pub const fn new(address: Ipv4, epoch: u16, number: u16) -> Self {
        Self((u32::from_be_bytes(address) as u64) << 32 | (epoch as u64) << 16 | number as u64)
    }

    /// The number, if this is of that address and epoch.
    #[must_use]
    #[inline(always)]
    pub const fn number(self, address: Ipv4, epoch: u16) -> Option<u16> {
        if self.0 >> 16 == Self::new(address, epoch, 0).0 >> 16 {
            Some(self.0 as u16)
        } else {
            None
        }
    }

    /// Which entry of `hop_cache` an address has. Pods of a node differ in the last byte, and nodes in the one before.
    #[must_use]
    #[inline(always)]
    pub const fn index(address: Ipv4) -> u32 {
        let address = u32::from_be_bytes(address);
        (address ^ address >> 10) & (super::capacity::HOP_CACHE as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_of_its_address_and_epoch_only() {
        let cached = CachedHop::new([10, 244, 1, 5], 7, 9);
        assert_eq!(cached.number([10, 244, 1, 5], 7), Some(9));
        assert_eq!(cached.number([10, 244, 1, 5], 8), None);
        assert_eq!(cached.number([10, 244, 1, 6], 7), None);
        assert_eq!(CachedHop::default().number([0; 4], 1), None);
    }
}
