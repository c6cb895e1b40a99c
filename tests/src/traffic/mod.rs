//! Traffic that tests send: what has to get through, whole frames, packets without ports, steady streams.

pub mod frames;
pub mod portless;
pub mod reach;
pub mod stream;
