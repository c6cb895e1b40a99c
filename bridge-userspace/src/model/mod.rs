//! Networks, ports, programs, problems and the error of wrong usage: values without input and output.

pub mod networks;
pub mod ports;
mod problem;
pub mod program;
mod usage_error;

pub use self::problem::{Problem, Subject};
pub use self::usage_error::UsageError;
