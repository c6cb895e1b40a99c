//! `office_cidrs` and `cluster_cidrs`: which addresses are ours.

/// Value of `office_cidrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfficeCidr {
    /// Which of the configured CIDRs this is, counted from 0.
    pub index: u32,
}

/// Value of `cluster_cidrs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterCidr {
    /// A [`DestinationKind`] as a number.
    pub kind: u32,
}

/// What an address in `cluster_cidrs` is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// A pod network.
    Pod = 1,
    /// A service network.
    Service = 2,
    /// An address that we translate sources to: what arrives for it may be a reply.
    Nat = 3,
}

impl ClusterCidr {
    /// The value for a destination of `kind`.
    #[must_use]
    pub const fn new(kind: DestinationKind) -> Self {
        Self { kind: kind as u32 }
    }

    /// The kind, or `None` for a number that this version does not know.
    #[must_use]
    #[inline]
    pub const fn kind(self) -> Option<DestinationKind> {
        match self.kind {
            1 => Some(DestinationKind::Pod),
            2 => Some(DestinationKind::Service),
            3 => Some(DestinationKind::Nat),
            _ => None,
        }
    }
}
