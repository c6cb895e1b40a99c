//! What the kernel says.

pub mod clock;
