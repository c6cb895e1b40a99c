//! Traffic that tests send: assertions that it gets through, whole frames, packets without ports, steady streams.

pub mod frames;
pub mod portless;
pub mod reach;
pub mod stream;
