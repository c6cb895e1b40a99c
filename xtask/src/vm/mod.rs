//! `cargo xtask vm-test`: the tests in `tests/vm`, in a virtual machine with a kernel of the user's choice.

mod initramfs;
mod machine;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::packages::{VM_TOOLS, missing};
use crate::process::{find, say, step};
use crate::workspace::Workspace;
use crate::{build, host};

/// The command line.
pub struct Options {
    /// The kernel image, such as `/boot/vmlinuz-*`.
    pub kernel: PathBuf,
    /// The directory of its modules, such as `/lib/modules/*`.
    pub modules: PathBuf,
    /// Only the tests with this in their name.
    pub filter: Option<String>,
}

/// Boots the kernel with the tests and the bridge; an error if a test fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    ensure!(
        options.kernel.is_file(),
        "{} is no kernel image: give the vmlinuz of the kernel to test on",
        options.kernel.display()
    );
    ensure!(
        options.modules.join("kernel").is_dir(),
        "{} has no modules: give the directory below lib/modules that belongs to the kernel",
        options.modules.display()
    );
    let tests = tests(&workspace.vm_tests(), options.filter.as_deref())?;
    host::install("the virtual machine", &missing(VM_TOOLS, find))?;
    let directory = workspace.target().join("vm");
    std::fs::create_dir_all(&directory)?;
    let bridge = directory.join("office-bridge");
    build::run_static(workspace, false, &bridge)?;
    step("Packing the tests and what they need");
    let initramfs = initramfs::pack(&initramfs::Contents {
        directory: &directory,
        modules: &options.modules,
        bridge: &bridge,
        harness: &workspace.vm_tests().join(HARNESS),
        tests: &tests,
    })?;
    step(&format!("Booting {}", options.kernel.display()));
    machine::boot(&directory, &options.kernel, &initramfs)?;
    say("no test has failed");
    Ok(())
}

/// The script that runs a test and has its shared functions.
const HARNESS: &str = "harness.sh";

fn tests(directory: &Path, filter: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut tests = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_test = path.extension().is_some_and(|extension| extension == "sh");
        if is_test && name != HARNESS && filter.is_none_or(|filter| name.contains(filter)) {
            tests.push(path);
        }
    }
    if tests.is_empty() {
        bail!("no such test in {}", directory.display());
    }
    tests.sort();
    Ok(tests)
}
