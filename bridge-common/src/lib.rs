//! Table layouts and packet engine of office-bridge: the same code in the kernel and on the host.
//!
//! A packet's journey, in the order of the modules:
//!
//! 1. [`packet`] reads the headers, and later writes the translation, the checksums, the MSS and the tunnel's headers;
//! 2. [`path`] lists what happens at each hook: [`path::tc`] is the main path, [`path::xdp`] takes what needs nothing but
//!    translation, [`path::stack`] what the kernel routes itself, around netfilter; [`path::icmp_error`] is for ICMP errors;
//! 3. [`conntrack`] finds the packet's flow or opens one, with a backend from [`load_balancing`] and a NAT port;
//! 4. [`verdict`] says what becomes of the packet. One that goes no further has a reason in [`drops`], and
//!    [`path::local_reply`] tells its sender; [`counters`] count both.
//!
//! [`abi`] holds the tables that the kernel, this engine and `bpftool map dump` share; [`tables::Tables`] is the engine's
//! way to them.
//!
//! Nothing here knows of BPF: `bridge-ebpf` binds the two traits to hooks and maps, and
//! [`sim`] (feature `sim`) binds them to byte vectors and ordinary maps.

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
pub mod packet;
pub mod path;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod tables;
pub mod verdict;
