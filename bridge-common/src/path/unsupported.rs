//! Packets that the TC path can't translate, and those that are not its own.

use crate::abi::{DestinationKind, Layer};
use crate::drops::DropReason;
use crate::load_balancing;
use crate::other_sources;
use crate::packet::parse::{Datagram, ICMP, SCTP, Transport};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// The verdict on a packet from a client whose flow is not the TC path's: a pod's own connection is none of ours.
#[must_use]
#[inline(always)]
pub fn other_layer_verdict(layer: u8, kind: DestinationKind) -> Verdict {
    if layer == Layer::Kernel as u8 && kind == DestinationKind::Pod {
        Verdict::Pass
    } else {
        Verdict::ToStack
    }
}

/// A packet for the cluster that has no ports to translate. A pod's may pass, as the kernel would forward
/// it anyway; a service's must not, as it would circle between here and the office router.
#[inline(always)]
pub fn unsupported_verdict<T: Tables>(
    tables: &T,
    datagram: &Datagram,
    kind: DestinationKind,
    reason: DropReason,
) -> Verdict {
    let Some(settings) = tables.settings() else {
        return Verdict::Pass;
    };
    let ours = match (reason, kind) {
        (DropReason::FragmentUnknown | DropReason::FragmentTiny, DestinationKind::Pod) => {
            settings.stack_only == 0
        }
        (_, DestinationKind::Service) if settings.authoritative == 0 => false,
        // kube-proxy may translate it, and SCTP to an address that no other service has.
        (_, DestinationKind::Service) if settings.stack_only != 0 => {
            datagram.protocol() != SCTP
                && !load_balancing::is_known(tables, datagram.destination(), 0, ICMP)
        }
        (_, DestinationKind::Service) => true,
        _ => false,
    };
    let is_followed = match reason {
        DropReason::FragmentUnknown | DropReason::FragmentTiny => true,
        DropReason::UnsupportedProtocol => Transport::portless(datagram).is_some(),
        _ => false,
    };
    match (ours, is_followed) {
        (false, false) => Verdict::Pass,
        // Errors come from any router on the way.
        _ if reason != DropReason::IcmpUnmatched && !tables.is_office(datagram.source()) => {
            other_sources::verdict(
                tables,
                datagram.source(),
                (datagram.destination(), 0),
                ICMP,
                kind,
            )
        }
        (true, _) => Verdict::Drop(reason),
        (false, true) => Verdict::ToStack,
    }
}
