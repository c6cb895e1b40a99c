//! The paths of the workspace.

use std::path::{Path, PathBuf};

use crate::process::{command, probe};

/// The target triple of the eBPF program: no operating system, the host's byte order.
pub const EBPF_TARGET: &str = if cfg!(target_endian = "little") {
    "bpfel-unknown-none"
} else {
    "bpfeb-unknown-none"
};

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

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `target`. Tools and the eBPF object are here even if `CARGO_TARGET_DIR` is set: the build script of
    /// bridge-userspace uses this path.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The `--root` of `cargo install` for tools.
    pub fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// The scripts of the tests for virtual machines.
    pub fn vm_tests(&self) -> PathBuf {
        self.root.join("tests/vm")
    }

    /// The directory for container images.
    pub fn image(&self) -> PathBuf {
        self.target().join("image")
    }

    /// The commit that is checked out, with `-dirty` if files differ from it. `None` without git.
    pub fn commit(&self) -> Option<String> {
        self.git(&[
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
            "--abbrev=12",
        ])
    }

    /// Time of the commit, in seconds since 1970.
    pub fn commit_time(&self) -> Option<String> {
        self.git(&["log", "-1", "--format=%ct"])
    }

    fn git(&self, arguments: &[&str]) -> Option<String> {
        let output = probe(command("git").arg("-C").arg(&self.root).args(arguments))?;
        Some(output.trim().to_owned())
    }

    /// Target directory of the eBPF build, which another compiler writes.
    pub fn ebpf_target(&self) -> PathBuf {
        self.target().join("ebpf")
    }

    pub fn ebpf_object(&self) -> PathBuf {
        self.ebpf_output().join("bridge-ebpf")
    }

    /// The eBPF object of the bench: packet generator and sink.
    pub fn traffic_object(&self) -> PathBuf {
        self.ebpf_output().join("traffic")
    }

    fn ebpf_output(&self) -> PathBuf {
        self.ebpf_target().join(EBPF_TARGET).join("release")
    }
}
