//! Traffic that tests send: assertions that it gets through, whole frames and packets, packets without ports, steady streams.

pub mod frames;
pub mod packets;
pub mod portless;
pub mod reach;
pub mod stream;
