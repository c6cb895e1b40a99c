//! The packet engine as its users meet it: packets in, packets and verdicts out.
//!
//! [`packets`] builds packets and recomputes every checksum with a library that knows nothing of the engine;
//! [`fixture`] is a small cluster and office to send them through. The other modules say what must happen.

mod affinity;
mod fixture;
mod flows;
mod fragments;
mod icmp_errors;
mod identity;
mod kernel_owned;
mod local_backends;
mod local_replies;
mod mss;
mod mtu;
mod nat_ports;
mod other_sources;
mod packets;
mod passthrough;
mod races;
mod sequence;
mod services;
mod stack;
mod xdp;
