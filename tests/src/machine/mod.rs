//! What a lab uses of this machine, and removes: namespaces, processes, containers, a directory.

pub(crate) mod bpf_object;
pub(crate) mod containers;
pub mod netns;
pub mod process;
pub mod run_dir;
