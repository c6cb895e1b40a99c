//! Table layouts and packet engine of office-bridge: the same code in the kernel and on the host.
//!
//! A packet's journey, in the order of the modules:
//!
//! 1. [`parse`] reads the IPv4 and transport headers through the [`packet::Packet`] trait;
//! 2. [`engine`] classifies: is the destination a pod, a service, or one of our NAT addresses?
//! 3. [`flow`] finds the flow, or opens one: it chooses a backend and, through [`ports`], a NAT
//!    port, and claims both entries;
//! 4. [`rewrite`] translates addresses, ports and checksums ([`checksum`]), clamps the MSS
//!    ([`mss`]) and counts the TTL down; [`icmp_error`] does the same inside ICMP errors;
//! 5. [`stack`] is the journey of what the kernel routes itself, around netfilter;
//! 6. [`fast`] is the shorter journey of whatever XDP can send on by itself, in [`frame`]s, into and out of [`vxlan`];
//! 7. [`verdict`] says what becomes of the packet, and why; [`answer`] turns a packet that goes no
//!    further into the ICMP error, TCP reset or echo reply that its sender gets.
//!
//! [`tcp`] and [`lifetime`] say in which state a flow is and how long it lives; [`fragment`] remembers
//! which ports the later fragments of a datagram belong to. [`layout`] holds the tables that the
//! kernel, this engine and `bpftool map dump` share; [`tables::Tables`] is the engine's way to them.
//!
//! Nothing here knows of BPF: `bridge-ebpf` binds the two traits to hooks and maps, and
//! [`host`] (feature `host`) binds them to byte vectors and ordinary maps.

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

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod answer;
pub mod checksum;
pub mod engine;
pub mod fast;
pub mod flow;
pub mod fragment;
pub mod frame;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod icmp_error;
pub mod layout;
pub mod lifetime;
pub mod mss;
pub mod packet;
pub mod parse;
pub mod ports;
pub mod rewrite;
pub mod stack;
pub mod tables;
pub mod tcp;
pub mod verdict;
pub mod vxlan;
