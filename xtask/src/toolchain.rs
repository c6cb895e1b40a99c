//! Finds or sets up a toolchain for eBPF.
//!
//! eBPF needs three things that an ordinary Rust installation does not have: permission to use unstable
//! features, the source of `core` (there is no compiled one for BPF targets), and `bpf-linker` with an LLVM
//! at least as new as the compiler's. [`probe`] collects what is installed, [`choice`] decides on the next
//! step, and [`ready`] takes one step after the other until nothing is missing. The user's rustup is never
//! changed.

mod choice;
mod probe;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

pub use choice::Toolchain;
use choice::{DEBIAN_RUST, LINKER_VERSION, Step};

use crate::apt;
use crate::process::{command, run, say, step};
use crate::workspace::Workspace;

/// Finds a toolchain; installs what is missing, or says what to install.
pub fn ready(workspace: &Workspace) -> Result<Toolchain> {
    let mut facts = probe::facts(workspace);
    let mut next = choice::next_step(&facts);
    if let Step::Use(toolchain) = next {
        return Ok(toolchain);
    }
    step("Setting up an eBPF toolchain");
    if apt::is_usable() {
        apt::update()?;
        facts.packages = Some(probe::packages());
        next = choice::next_step(&facts);
    }
    loop {
        match &next {
            Step::Use(toolchain) => return Ok(toolchain.clone()),
            Step::InstallCompiler => {
                say("no compiler here has the source of `core`: installing Debian's, as packages");
                apt::install(&DEBIAN_RUST, &[])?;
            }
            Step::InstallLlvm(llvm) => {
                say(&format!(
                    "LLVM {llvm}'s development files are needed to build bpf-linker"
                ));
                let packages = choice::llvm_packages(*llvm);
                apt::install(
                    &packages.iter().map(String::as_str).collect::<Vec<_>>(),
                    &[],
                )?;
            }
            Step::BuildLinker {
                toolchain_root,
                llvm,
            } => {
                build_linker(workspace, toolchain_root, *llvm)?;
            }
            Step::Ask => bail!("{}", probe::advice()),
        }
        let packages = facts.packages.take();
        facts = probe::facts(workspace);
        facts.packages = packages;
        let after = choice::next_step(&facts);
        if after == next {
            bail!(
                "this step has been done and its result is not found: {next:?}\n\n{}",
                probe::advice()
            );
        }
        next = after;
    }
}

fn build_linker(workspace: &Workspace, toolchain_root: &Path, llvm: u32) -> Result<()> {
    step(&format!(
        "Building bpf-linker {LINKER_VERSION} for LLVM {llvm} into target/tools (two minutes, once)"
    ));
    run(program(toolchain_root, "cargo")
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
            "--root",
        ])
        .arg(workspace.tools())
        // Outside of the workspace, whose cargo configuration is not meant for the tool.
        .current_dir("/")
        .env("LLVM_PREFIX", probe::llvm_prefix(llvm)))
}

/// A program of the toolchain under `root` (`cargo`, `cargo-clippy`), with that toolchain's compiler
/// and nothing of the one that runs xtask.
pub fn program(root: &Path, name: &str) -> Command {
    let bin = root.join("bin");
    let mut command = command(bin.join(name));
    for variable in [
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
    ] {
        command.env_remove(variable);
    }
    command
        .env("CARGO", bin.join("cargo"))
        .env("RUSTC", bin.join("rustc"))
        .env("PATH", path_with(&bin));
    command
}

fn path_with(first: &Path) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(
        [first.to_owned()]
            .into_iter()
            .chain(env::split_paths(&path)),
    )
    .unwrap_or(path)
}
