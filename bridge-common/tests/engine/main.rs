//! The packet engine as its users meet it: packets in, packets and verdicts out.
//!
//! [`wire`] builds packets and recomputes every checksum with a library that knows nothing of the engine;
//! [`world`] is a small cluster and office to send them through. The other modules say what must happen.

mod affinity;
mod answers;
mod fast;
mod flows;
mod fragments;
mod icmp_errors;
mod identity;
mod kernel_flows;
mod mss;
mod mtu;
mod ports;
mod races;
mod services;
mod stack;
mod untouched;
mod wire;
mod world;
