//! How many entries each table holds unless configured otherwise, and how many elements the arrays in values have.

macro_rules! capacities {
    ($($(#[$doc:meta])+ $table:ident = $name:tt: $kind:ident<$($type:ty),*>,
        $key_size:literal => $value_size:literal, $entries:literal, $found:ident;)+) => {$(
        #[doc = concat!("Of `", $name, "`.")]
        pub const $table: usize = $entries;
    )+};
}

crate::for_each_table!(capacities);

/// Interfaces with XDP, in [`super::FastPath`].
pub const XDP_PORTS: usize = 4;
/// VXLAN devices that XDP decapsulates for, in [`super::FastPath`].
pub const TUNNELS: usize = 2;
/// Prefixes of `cluster_cidrs` that are compared one by one, in [`super::FastPath`].
pub const DESTINATIONS: usize = 8;
/// Addresses of a configured SNAT pool, in [`super::Settings`].
pub const SNAT_ADDRESSES: usize = 8;
