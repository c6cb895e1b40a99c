//! Networks, ports, programs and the error of wrong usage: values without input and output.

pub mod networks;
pub mod ports;
pub mod program;
mod usage_error;

pub use self::usage_error::UsageError;
