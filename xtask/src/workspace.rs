//! Where things are in the workspace.

use std::path::{Path, PathBuf};

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

    /// Target directory of the eBPF build: apart, because another compiler writes it.
    pub fn ebpf_target(&self) -> PathBuf {
        self.target().join("ebpf")
    }

    /// The eBPF object.
    pub fn ebpf_object(&self) -> PathBuf {
        self.ebpf_target()
            .join(EBPF_TARGET)
            .join("release")
            .join("bridge-ebpf")
    }
}
