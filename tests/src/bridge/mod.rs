//! The program under test, office-bridge: a running one, its commands and tables, and what it has carried.

pub mod arguments;
pub mod carried;
mod client;
mod flows;
mod process;
mod refusal;
mod tables;

pub use client::{Client, binary};
pub use process::Bridge;
pub use refusal::{nothing_attached, nothing_pinned, refused};
