//! office-bridge.
fn main() {}
