//! Privileges, the kernel, and the bpf filesystem.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use procfs::process::Process;
use procfs::{KernelVersion, ProcError};

/// The oldest kernel whose helpers and verifier the programs are written for (first with all of
/// `bpf_redirect_neigh`, `bpf_timer` and enough instructions for the verifier).
const OLDEST_KERNEL: KernelVersion = KernelVersion {
    major: 5,
    minor: 15,
    patch: 0,
};
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Bits of the effective set (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Why this machine or this process cannot run the datapath.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The process may not do what has to be done.
    #[error(
        "missing capability {}: run as root, or give the process CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON", .0.join(", ")
    )]
    Capabilities(Vec<&'static str>),
    /// The kernel lacks what the programs need.
    #[error(
        "kernel {found} is too old: office-bridge needs {}.{} or later",
        OLDEST_KERNEL.major, OLDEST_KERNEL.minor
    )]
    KernelTooOld {
        /// The running kernel.
        found: String,
    },
    /// The kernel doesn't describe its types.
    #[error(
        "the kernel has no type information ({KERNEL_BTF} does not exist): boot a kernel with \
         CONFIG_DEBUG_INFO_BTF=y, as all current distributions ship"
    )]
    NoBtf,
    /// The pin path lies on an ordinary file system or doesn't exist at all.
    #[error(
        "{path} is not on a bpf filesystem, so nothing can be pinned there: \
         `mount -t bpf bpf /sys/fs/bpf`, or choose another --pin-path"
    )]
    NoBpfFs {
        /// The configured directory.
        path: PathBuf,
    },
    /// Nobody can tell.
    #[error("cannot find out {what}: {error}")]
    Unknown {
        /// What was looked for.
        what: String,
        /// What the system says.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Checks privileges, kernel and bpf filesystem.
///
/// # Errors
/// For the first thing that stands in the way.
pub fn check_machine(pin_path: &Path) -> Result<(), MachineError> {
    check_capabilities()?;
    check_kernel()?;
    check_btf(Path::new(KERNEL_BTF))?;
    check_bpffs(pin_path)
}

fn check_capabilities() -> Result<(), MachineError> {
    let effective = Process::myself()
        .and_then(|process| process.status())
        .map_err(|error: ProcError| MachineError::Unknown {
            what: "this process's capabilities".to_owned(),
            error: error.into(),
        })?
        .capeff;
    let missing = missing_capabilities(effective);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(MachineError::Capabilities(missing))
    }
}

/// `CAP_SYS_ADMIN` includes what `CAP_BPF` and `CAP_PERFMON` were split from (`capabilities(7)`).
fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    [
        (CAP_BPF, "CAP_BPF", true),
        (CAP_NET_ADMIN, "CAP_NET_ADMIN", false),
        (CAP_PERFMON, "CAP_PERFMON", true),
    ]
    .into_iter()
    .filter(|&(capability, _, in_sys_admin)| {
        !(has(capability) || (in_sys_admin && has(CAP_SYS_ADMIN)))
    })
    .map(|(_, name, _)| name)
    .collect()
}

fn check_kernel() -> Result<(), MachineError> {
    let found = KernelVersion::current().map_err(|error| MachineError::Unknown {
        what: "the kernel's version".to_owned(),
        error: error.into(),
    })?;
    if new_enough(found) {
        Ok(())
    } else {
        Err(MachineError::KernelTooOld {
            found: format!("{}.{}.{}", found.major, found.minor, found.patch),
        })
    }
}

fn new_enough(kernel: KernelVersion) -> bool {
    (kernel.major, kernel.minor) >= (OLDEST_KERNEL.major, OLDEST_KERNEL.minor)
}

fn check_btf(path: &Path) -> Result<(), MachineError> {
    if path.exists() {
        Ok(())
    } else {
        Err(MachineError::NoBtf)
    }
}

/// Checks that the pin directory lies on a bpf filesystem. It may not exist yet; what counts is where it would be made.
///
/// # Errors
/// If it doesn't.
pub fn check_bpffs(pin_path: &Path) -> Result<(), MachineError> {
    let existing = pin_path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    let filesystem = statfs(existing).map_err(|error| MachineError::Unknown {
        what: format!("which filesystem {} is on", existing.display()),
        error: error.into(),
    })?;
    if filesystem.filesystem_type() == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(MachineError::NoBpfFs {
            path: pin_path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 1 << CAP_BPF | 1 << CAP_NET_ADMIN | 1 << CAP_PERFMON;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(
            missing_capabilities(0),
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
        );
        assert_eq!(
            MachineError::Capabilities(missing_capabilities(ALL & !(1 << CAP_NET_ADMIN)))
                .to_string(),
            "missing capability CAP_NET_ADMIN: run as root, or give the process CAP_BPF, \
             CAP_NET_ADMIN and CAP_PERFMON"
        );
    }

    #[test]
    fn the_reduced_set_of_capabilities_is_enough() {
        assert!(missing_capabilities(ALL).is_empty());
    }

    #[test]
    fn sys_admin_stands_for_bpf_but_not_for_the_network() {
        assert_eq!(missing_capabilities(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn kernels_are_compared_by_number_not_by_text() {
        assert!(!new_enough(KernelVersion::new(5, 9, 200)));
        assert!(!new_enough(KernelVersion::new(5, 10, 0)));
        assert!(new_enough(KernelVersion::new(5, 15, 0)));
        assert!(new_enough(KernelVersion::new(6, 1, 0)));
        assert!(!new_enough(KernelVersion::new(4, 19, 0)));
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins_even_if_it_does_not_exist_yet() {
        let directory = tempfile::tempdir().unwrap();
        let error = check_bpffs(&directory.path().join("a/b")).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"));
    }

    #[test]
    fn a_kernel_without_btf_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let error = check_btf(&directory.path().join("vmlinux")).unwrap_err();
        assert!(matches!(error, MachineError::NoBtf));
    }
}
