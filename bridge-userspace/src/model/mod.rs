//! Networks, ports, programs, problems and findings: values without input and output.

mod finding;
pub mod networks;
pub mod ports;
mod problem;
pub mod program;
mod subject;

pub use self::finding::{Fault, Finding, Findings, Severity};
pub use self::problem::Problem;
pub use self::subject::Subject;
