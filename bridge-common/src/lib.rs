//! Table layouts and packet engine of office-bridge: the same code in the kernel and on the host.
//!
//! A packet's journey, in the order of the modules. Each imports only from those named in points above it, but for
//! `path`, which comes first to the packet and last in the imports:
//!
//! 1. [`path`] lists, for each hook, the stages that a packet goes through: [`path::xdp`] takes frames that need nothing
//!    but translation, [`path::tc`] all others that the bridge forwards, [`path::stack`] what the kernel routes itself,
//!    around netfilter. `handle` of each is the list.
//! 2. [`abi`] has the tables that the kernel, this engine and `bpftool map dump` share. A new table is an entry in
//!    `abi/list.rs`.
//! 3. [`packet`] reads the headers, and later writes addresses, ports, checksums, MSS and the tunnel's headers. A second
//!    address family starts here, in [`packet::parse`] and [`packet::rewrite`], and in the keys of [`abi`].
//! 4. [`drops`] has every reason for which a packet goes no further, with what its sender gets, its meaning and its
//!    remedy: a new reason goes at its end. [`counters`] has what is counted, [`verdict`] what can become of a packet.
//! 5. [`tables`] is how the engine reaches the tables.
//! 6. [`load_balancing`] chooses a backend for a new flow to a service.
//! 7. [`conntrack`] finds the flow of a packet, opens one, and says how long it lives.
//! 8. Back in [`path`], [`path::forward`] sends the translated packet on, and [`path::local_reply`] turns one that goes no
//!    further into the ICMP error, TCP reset or echo reply that its sender gets.
//!
//! Nothing here knows of BPF: `bridge-ebpf` binds the traits [`packet::Packet`], [`packet::frame::Frame`] and
//! [`tables::Tables`] to hooks and maps, and `sim` (feature `sim`) binds them to byte vectors and ordinary maps.

#![no_std]
#![allow(
    clippy::cast_possible_truncation,
    reason = "header sizes, ports and bytes of packed words, bounded where they come from; a checked conversion \
              would leave a panic that the kernel can't link"
)]
#![allow(
    clippy::inline_always,
    reason = "in the kernel a call costs stack, and what is not a call of its own must be inlined"
)]

#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod abi;
pub mod conntrack;
pub mod counters;
pub mod drops;
pub mod load_balancing;
pub mod other_sources;
pub mod packet;
pub mod path;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod tables;
pub mod verdict;
