//! Traffic that tests send: assertions that it gets through, whole frames and packets, fragments, packets without ports, steady streams.

pub mod fragments;
pub mod frames;
pub mod packets;
pub mod portless;
pub mod reach;
pub mod stream;
