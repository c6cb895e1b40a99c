//! `fast_path`: what XDP needs to know of the node.

use super::capacity;
use super::networks::{ClusterCidr, DestinationKind};
use super::types::{Ipv4, Mac, Seconds};

/// An interface with XDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpPort {
    /// Its index; 0 in an unused entry.
    pub ifindex: u32,
    /// Its Ethernet address: frames for others are left alone.
    pub mac: Mac,
    /// 1 where clients come in.
    pub is_uplink: u8,
    /// Always 0.
    pub pad: u8,
}

/// A VXLAN device of this node whose packets XDP decapsulates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The outer destination address.
    pub local: Ipv4,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port; 0 in an unused entry.
    pub port: u16,
    /// Ethernet address of the device.
    pub mac: Mac,
}

/// A prefix of `cluster_cidrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Its network address.
    pub network: Ipv4,
    /// Its mask.
    pub mask: Ipv4,
    /// A [`DestinationKind`] as a number; 0 in an unused entry, which all others stand before.
    pub kind: u32,
}

impl Destination {
    /// Whether the address lies in the prefix.
    #[must_use]
    #[inline(always)]
    pub const fn contains(&self, address: Ipv4) -> bool {
        u32::from_ne_bytes(address) & u32::from_ne_bytes(self.mask)
            == u32::from_ne_bytes(self.network)
    }
}

/// Value of `fast_path`: what XDP needs to know of the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastPath {
    /// Advances with every change of routes, neighbours or FDB, once `routes` and `next_hops` hold it: a flow's cached
    /// next hop counts in the epoch that it was cached in only. The lower 16 bits count and are never 0, which is a new
    /// flow's epoch.
    pub epoch: u32,
    /// Until when next hops may be believed. The process that mirrors them renews this; without one XDP leaves packets
    /// to TC, whose neighbours the kernel itself keeps up to date.
    pub valid_until: Seconds,
    /// The interfaces.
    pub ports: [XdpPort; capacity::XDP_PORTS],
    /// The VXLAN devices.
    pub tunnels: [Tunnel; capacity::TUNNELS],
    /// What `cluster_cidrs` holds, the longest prefix first: a handful is compared faster than looked up. None where
    /// there are more than fit: they are looked up then.
    pub destinations: [Destination; capacity::DESTINATIONS],
}

impl FastPath {
    /// What an address is to us: `Some` of the answer, `None` where `cluster_cidrs` is to be asked.
    #[must_use]
    #[inline(always)]
    pub fn destination(&self, address: Ipv4) -> Option<Option<DestinationKind>> {
        if self.destinations[0].kind == 0 {
            return None;
        }
        for destination in &self.destinations {
            // An unused entry, all zeros, contains every address, and is of no kind.
            if destination.contains(address) {
                return Some(
                    ClusterCidr {
                        kind: destination.kind,
                    }
                    .kind(),
                );
            }
        }
        Some(None)
    }
}

const _: () = {
    assert!(size_of::<XdpPort>() == 12);
    assert!(size_of::<Tunnel>() == 16);
    assert!(size_of::<Destination>() == 12);
};
