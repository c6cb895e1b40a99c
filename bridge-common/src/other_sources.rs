//! Packets to a service from a source that is in no office network.

use crate::abi::{DestinationKind, Ipv4, Settings};
use crate::drops::DropReason;
use crate::load_balancing;
use crate::tables::Tables;
use crate::verdict::{LocalReplyKind, Verdict};

/// The verdict on a packet from a source that is in no office network. A pod's may pass, as the kernel would forward it
/// anyway. A service's must not, if nothing on the node translates it: it would circle between here and the office
/// router until its TTL ends. The sender is told, and its network counted.
#[inline(always)]
pub fn verdict<T: Tables>(
    tables: &T,
    source: Ipv4,
    destination: (Ipv4, u16),
    protocol: u8,
    kind: DestinationKind,
) -> Verdict {
    let Some(settings) = tables.settings() else {
        return Verdict::Pass;
    };
    let (address, port) = destination;
    if !matches!(kind, DestinationKind::Service)
        || settings.authoritative == 0
        || settings.has(Settings::PASS_OTHERS)
        // A node or a pod whose packets come by here: whatever sends them here may translate them.
        || tables.destination(source).is_some()
        || (settings.stack_only != 0 && load_balancing::is_known(tables, address, port, protocol))
    {
        return Verdict::Pass;
    }
    tables.count_other_source(source);
    Verdict::Reject(
        DropReason::NotOffice,
        LocalReplyKind::AdministrativelyProhibited.without_mtu(),
    )
}
