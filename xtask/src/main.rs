//! Builds, tests and demonstrates office-bridge.
fn main() {}
