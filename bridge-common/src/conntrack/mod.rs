//! Connection tracking: the two entries of each flow, from the first packet to the timeout.

pub mod clients;
pub mod flow;
pub mod fragment_parts;
pub mod fragments;
pub mod kernel_owned;
pub mod lifetime;
pub mod nat_ports;
pub mod note;
pub mod open;
pub mod sequence;
pub mod tcp_state;
