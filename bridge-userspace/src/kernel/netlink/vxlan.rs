//! VXLAN devices: where and how they send.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::link::{InfoVxlan, VxlanDf};

use crate::kernel::sysctl::{self, SysctlError};

/// Parameters of a VXLAN device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of the tunnel, host order.
    pub port: u16,
    /// The device that it was told to send through, if any.
    pub underlying: Option<u32>,
    /// The outer source that it was told to use; else it is that of the route to the remote end.
    pub local: Option<Ipv4Addr>,
    /// TTL of the outer packets.
    pub ttl: u8,
    /// The lowest UDP source port of the outer packets.
    pub source_port_min: u16,
    /// How many source ports it uses from that on.
    pub source_port_count: u16,
    /// What it does to packets that a plain encapsulation would not, if anything.
    pub special: Option<&'static str>,
}

/// What a VXLAN device takes from the host where it has no setting of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    ttl: u8,
    ports: (u16, u16),
}

impl Defaults {
    /// Reads them in the calling thread's network namespace.
    pub(super) fn read() -> Result<Self, SysctlError> {
        let ports = sysctl::local_port_range()?;
        Ok(Self {
            ttl: sysctl::default_ttl()?,
            ports: (*ports.start(), *ports.end()),
        })
    }
}

impl Vxlan {
    pub(super) fn new(parameters: &[InfoVxlan], defaults: Defaults) -> Self {
        let mut vxlan = Self::default();
        let mut range = (0, 0);
        for parameter in parameters {
            match parameter {
                InfoVxlan::Id(vni) => vxlan.vni = *vni,
                InfoVxlan::Port(port) => vxlan.port = *port,
                InfoVxlan::Link(index) if *index != 0 => vxlan.underlying = Some(*index),
                InfoVxlan::Local(address) if !address.is_unspecified() => {
                    vxlan.local = Some(*address);
                }
                InfoVxlan::Ttl(ttl) => vxlan.ttl = *ttl,
                InfoVxlan::PortRange(ports) => range = *ports,
                _ => {}
            }
            vxlan.special = vxlan.special.or(special(parameter));
        }
        if vxlan.ttl == 0 {
            vxlan.ttl = defaults.ttl;
        }
        // As `udp_flow_src_port` (include/net/udp.h): an empty range is none, and the upper end is never used.
        let (first, end) = if range.0 < range.1 {
            range
        } else {
            defaults.ports
        };
        vxlan.source_port_min = first;
        vxlan.source_port_count = end.saturating_sub(first).max(1);
        vxlan
    }
}

/// What a setting asks for beyond RFC 7348 with a fixed outer header.
fn special(parameter: &InfoVxlan) -> Option<&'static str> {
    match parameter {
        InfoVxlan::CollectMetadata(true) => Some("metadata for each packet (`external`)"),
        InfoVxlan::Vnifilter(true) => Some("a filter of VNIs (`vnifilter`)"),
        InfoVxlan::Gbp => Some("the group policy extension (`gbp`)"),
        InfoVxlan::Gpe => Some("the generic protocol extension (`gpe`)"),
        InfoVxlan::RemCsumTX(true) | InfoVxlan::RemCsumRX(true) => {
            Some("remote checksum offload (`remcsumtx`, `remcsumrx`)")
        }
        InfoVxlan::Rsc(true) => Some("route short circuit (`rsc`)"),
        InfoVxlan::Local6(_) | InfoVxlan::Group6(_) => Some("a tunnel over IPv6"),
        InfoVxlan::Tos(tos) if *tos != 0 => Some("a TOS of its own (`tos`)"),
        InfoVxlan::TtlInherit(inherit) if *inherit != 0 => {
            Some("the inner packet's TTL (`ttl inherit`)")
        }
        InfoVxlan::Df(df) if *df != VxlanDf::Unset => Some("the Don't Fragment bit outside (`df`)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults {
        ttl: 64,
        ports: (32_768, 60_999),
    };

    #[test]
    fn what_is_not_set_comes_from_the_host() {
        let vxlan = Vxlan::new(
            &[
                InfoVxlan::Ttl(0),
                InfoVxlan::PortRange((0, 0)),
                InfoVxlan::Tos(0),
                InfoVxlan::Df(VxlanDf::Unset),
                InfoVxlan::TtlInherit(0),
            ],
            DEFAULTS,
        );
        assert_eq!(vxlan.ttl, 64);
        assert_eq!(
            (vxlan.source_port_min, vxlan.source_port_count),
            (32_768, 28_231)
        );
        assert_eq!(vxlan.special, None);
        let vxlan = Vxlan::new(
            &[
                InfoVxlan::Ttl(9),
                InfoVxlan::PortRange((50_000, 50_010)),
                InfoVxlan::Local([10, 60, 20, 30].into()),
            ],
            DEFAULTS,
        );
        assert_eq!(vxlan.ttl, 9);
        assert_eq!(
            (vxlan.source_port_min, vxlan.source_port_count),
            (50_000, 10)
        );
        assert_eq!(vxlan.local, Some([10, 60, 20, 30].into()));
    }

    #[test]
    fn one_special_setting_among_ordinary_ones_is_told() {
        let vxlan = Vxlan::new(
            &[InfoVxlan::Learning(true), InfoVxlan::Gbp, InfoVxlan::Id(1)],
            DEFAULTS,
        );
        assert_eq!(vxlan.special, Some("the group policy extension (`gbp`)"));
    }
}
