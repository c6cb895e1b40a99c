//! Where things are in the workspace.

use std::path::{Path, PathBuf};

use crate::process::{command, probe};

/// The target triple of the eBPF program: no operating system, the host's byte order.
pub const EBPF_TARGET: &str = if cfg!(target_endian = "little") {
    "bpfel-unknown-none"
} else {
    "bpfeb-unknown-none"
};

/// The workspace on disk.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built from.
    pub fn here() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: manifest.parent().unwrap_or(manifest).to_owned(),
        }
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `target`. Tools and the eBPF object are always here, also with `CARGO_TARGET_DIR` set:
    /// bridge-userspace's build script looks for the object by this path.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Tools that were built for this workspace alone, in `cargo install --root` layout.
    pub fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// The tests for virtual machines.
    pub fn vm_tests(&self) -> PathBuf {
        self.root.join("tests/vm")
    }

    /// Where container images are made.
    pub fn image(&self) -> PathBuf {
        self.target().join("image")
    }

    /// The commit that is checked out, with `-dirty` if files differ from it; none outside of git.
    pub fn commit(&self) -> Option<String> {
        self.git(&[
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
            "--abbrev=12",
        ])
    }

    /// When the commit was made, in seconds since 1970.
    pub fn commit_time(&self) -> Option<String> {
        self.git(&["log", "-1", "--format=%ct"])
    }

    fn git(&self, arguments: &[&str]) -> Option<String> {
        let output = probe(command("git").arg("-C").arg(&self.root).args(arguments))?;
        Some(output.trim().to_owned())
    }

    /// Target directory of the eBPF build: apart, because another compiler writes it.
    pub fn ebpf_target(&self) -> PathBuf {
        self.target().join("ebpf")
    }

    /// The eBPF object.
    pub fn ebpf_object(&self) -> PathBuf {
        self.ebpf_output().join("bridge-ebpf")
    }

    /// The eBPF object of the bench: its generator of packets and its sink.
    pub fn traffic_object(&self) -> PathBuf {
        self.ebpf_output().join("traffic")
    }

    fn ebpf_output(&self) -> PathBuf {
        self.ebpf_target().join(EBPF_TARGET).join("release")
    }
}
