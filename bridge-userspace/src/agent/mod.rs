//! `office-bridge run`.

pub mod listeners;
pub mod run;
pub mod supervisor;
