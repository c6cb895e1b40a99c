//! What a reconciliation changed.

/// What a reconciliation changed.
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
}
