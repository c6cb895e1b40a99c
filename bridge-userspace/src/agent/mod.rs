//! `office-bridge run`.

pub mod supervisor;
