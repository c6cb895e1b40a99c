//! Privileges, the kernel, and the bpf filesystem.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use procfs::process::Process;
use procfs::{KernelVersion, ProcError};

use crate::model::{Finding, Findings, Subject};

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

/// What was read, or why it can't be, as a sentence without its full stop.
pub type Fact<T> = Result<T, String>;

/// What the checks know of the machine and of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// The effective capabilities, one bit each by number.
    pub capabilities: Fact<u64>,
    /// The running kernel.
    pub kernel: Fact<KernelVersion>,
    /// Whether the kernel describes its types in `/sys/kernel/btf/vmlinux`.
    pub has_btf: bool,
    /// The configured directory of the pins.
    pub pin_path: PathBuf,
    /// Whether it lies on a bpf filesystem, or would if it were made.
    pub is_on_bpffs: Fact<bool>,
}

impl MachineFacts {
    /// Those of this machine, this process and this directory.
    #[must_use]
    pub fn read(pin_path: &Path) -> Self {
        Self {
            capabilities: Process::myself()
                .and_then(|process| process.status())
                .map(|status| status.capeff)
                .map_err(cannot_find_out("this process's capabilities")),
            kernel: KernelVersion::current().map_err(cannot_find_out("the kernel's version")),
            has_btf: Path::new(KERNEL_BTF).exists(),
            pin_path: pin_path.to_owned(),
            is_on_bpffs: is_on_bpffs(pin_path),
        }
    }
}

/// Checks privileges, kernel and bpf filesystem.
pub fn check_machine(facts: &MachineFacts, findings: &mut Findings) {
    check_capabilities(&facts.capabilities, findings);
    check_kernel(&facts.kernel, findings);
    if !facts.has_btf {
        findings.push(Finding::failure(
            Subject::Kernel,
            format!("the kernel has no type information ({KERNEL_BTF} does not exist)"),
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as all current distributions ship",
        ));
    }
    check_pin_path(&facts.pin_path, &facts.is_on_bpffs, findings);
}

fn check_capabilities(effective: &Fact<u64>, findings: &mut Findings) {
    match effective {
        Ok(effective) => {
            let missing = missing_capabilities(*effective);
            if !missing.is_empty() {
                findings.push(Finding::failure(
                    Subject::Privileges,
                    format!("missing capability {}", missing.join(", ")),
                    "run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
                ));
            }
        }
        Err(error) => findings.push(unknown(Subject::Privileges, error)),
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

fn check_kernel(kernel: &Fact<KernelVersion>, findings: &mut Findings) {
    match kernel {
        Ok(found) if new_enough(*found) => {}
        Ok(found) => findings.push(Finding::failure(
            Subject::Kernel,
            format!(
                "kernel {}.{}.{} is too old",
                found.major, found.minor, found.patch
            ),
            format!(
                "office-bridge needs {}.{} or later",
                OLDEST_KERNEL.major, OLDEST_KERNEL.minor
            ),
        )),
        Err(error) => findings.push(unknown(Subject::Kernel, error)),
    }
}

fn new_enough(kernel: KernelVersion) -> bool {
    (kernel.major, kernel.minor) >= (OLDEST_KERNEL.major, OLDEST_KERNEL.minor)
}

/// Checks that the pin directory lies on a bpf filesystem. It may not exist yet; what counts is where it would be made.
///
/// # Errors
/// If it doesn't.
pub fn check_bpffs(pin_path: &Path) -> Result<(), Findings> {
    let mut findings = Findings::default();
    check_pin_path(pin_path, &is_on_bpffs(pin_path), &mut findings);
    findings.into_warnings().map(drop)
}

fn check_pin_path(pin_path: &Path, is_on_bpffs: &Fact<bool>, findings: &mut Findings) {
    let subject = Subject::PinPath(pin_path.to_owned());
    match is_on_bpffs {
        Ok(true) => {}
        Ok(false) => findings.push(Finding::failure(
            subject,
            format!(
                "{} is not on a bpf filesystem, so nothing can be pinned there",
                pin_path.display()
            ),
            "`mount -t bpf bpf /sys/fs/bpf`, or choose another --pin-path",
        )),
        Err(error) => findings.push(unknown(subject, error)),
    }
}

fn is_on_bpffs(pin_path: &Path) -> Fact<bool> {
    let existing = pin_path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    match statfs(existing) {
        Ok(filesystem) => Ok(filesystem.filesystem_type() == BPF_FS_MAGIC),
        Err(error) => Err(format!(
            "cannot find out which filesystem {} is on: {error}",
            existing.display()
        )),
    }
}

fn cannot_find_out(what: &str) -> impl Fn(ProcError) -> String {
    move |error| format!("cannot find out {what}: {error}")
}

fn unknown(subject: Subject, error: &str) -> Finding {
    Finding::failure(subject, error, "run as root, with /proc and /sys mounted")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 1 << CAP_BPF | 1 << CAP_NET_ADMIN | 1 << CAP_PERFMON;

    fn good() -> MachineFacts {
        MachineFacts {
            capabilities: Ok(ALL),
            kernel: Ok(KernelVersion::new(6, 1, 0)),
            has_btf: true,
            pin_path: "/sys/fs/bpf/office-bridge".into(),
            is_on_bpffs: Ok(true),
        }
    }

    fn found(facts: &MachineFacts) -> Findings {
        let mut findings = Findings::default();
        check_machine(facts, &mut findings);
        findings
    }

    #[test]
    fn a_machine_with_all_that_is_needed_passes() {
        assert_eq!(found(&good()), Findings::default());
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(
            missing_capabilities(0),
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
        );
        let facts = MachineFacts {
            capabilities: Ok(ALL & !(1 << CAP_NET_ADMIN)),
            ..good()
        };
        assert_eq!(
            found(&facts).to_string(),
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
    fn an_old_kernel_is_told_with_the_one_that_is_needed() {
        let facts = MachineFacts {
            kernel: Ok(KernelVersion::new(5, 4, 17)),
            ..good()
        };
        assert_eq!(
            found(&facts).to_string(),
            "kernel 5.4.17 is too old: office-bridge needs 5.15 or later"
        );
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins_even_if_it_does_not_exist_yet() {
        let directory = tempfile::tempdir().unwrap();
        let error = check_bpffs(&directory.path().join("a/b")).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"));
    }

    #[test]
    fn a_kernel_without_btf_is_told() {
        let facts = MachineFacts {
            has_btf: false,
            ..good()
        };
        assert!(found(&facts).to_string().contains("CONFIG_DEBUG_INFO_BTF"));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let facts = MachineFacts {
            capabilities: Ok(0),
            kernel: Ok(KernelVersion::new(4, 19, 0)),
            has_btf: false,
            is_on_bpffs: Ok(false),
            ..good()
        };
        let findings = found(&facts);
        let subjects: Vec<&Subject> = findings.iter().map(|finding| &finding.subject).collect();
        let pins = Subject::PinPath("/sys/fs/bpf/office-bridge".into());
        assert_eq!(
            subjects,
            [
                &Subject::Privileges,
                &Subject::Kernel,
                &Subject::Kernel,
                &pins
            ]
        );
        assert!(findings.iter().all(Finding::is_error));
        assert!(!findings.is_usage());
    }

    #[test]
    fn what_can_not_be_found_out_is_no_pass() {
        let denied = "cannot find out something: denied".to_owned();
        let facts = MachineFacts {
            capabilities: Err(denied.clone()),
            kernel: Err(denied.clone()),
            has_btf: true,
            is_on_bpffs: Err(denied),
            ..good()
        };
        assert_eq!(
            found(&facts)
                .iter()
                .filter(|finding| finding.is_error())
                .count(),
            3
        );
    }
}
