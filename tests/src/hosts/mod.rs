//! The hosts: what is configured on them, what a test does there, and what it sees.

pub mod capture;
pub mod dns;
pub mod foreign;
pub mod host;
pub mod netfilter;
pub mod node;
