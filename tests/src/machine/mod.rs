//! What a lab takes of this machine, and gives back: namespaces, processes, containers, a directory.

pub(crate) mod containers;
pub mod netns;
pub mod process;
pub mod run_dir;
