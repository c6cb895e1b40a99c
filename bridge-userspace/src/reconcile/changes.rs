//! What a reconciliation changed.

use bridge_common::abi::FastPath;

use super::image::Image;
use super::write::Write;

/// What a reconciliation changed. A service counts as one with all of its backends, and to renew the lease of next hops
/// or to clear retired ones is no change of what is forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries added or changed.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
}

impl Changes {
    /// Whether nothing was to be done.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Counts a write to tables that held `before`.
    pub(super) fn count(&mut self, write: &Write, before: &Image) {
        match write {
            Write::Settings(_)
            | Write::NatPort { .. }
            | Write::Vtep { .. }
            | Write::NextHop { .. }
            | Write::Route { .. }
            | Write::Service { .. }
            | Write::ClusterCidr { .. }
            | Write::OfficeCidr { .. }
            | Write::LinkAddress { .. } => self.written += 1,
            Write::FastPath(fast_path) => {
                let renewed = FastPath {
                    valid_until: fast_path.valid_until,
                    ..before.fast_path
                };
                self.written += usize::from(**fast_path != renewed);
            }
            Write::RemoveRoute(_)
            | Write::RemoveService(_)
            | Write::RemoveAffinity(_)
            | Write::RemoveClusterCidr(_)
            | Write::RemoveOfficeCidr(_)
            | Write::RemoveLinkAddress(_) => self.removed += 1,
            Write::ClearVtep(_)
            | Write::ClearNextHop(_)
            | Write::Backend { .. }
            | Write::RemoveBackend(_) => {}
        }
    }
}
