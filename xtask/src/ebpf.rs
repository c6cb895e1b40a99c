//! Builds the eBPF program.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::apt;
use crate::process::{run, step};
use crate::toolchain::{self, Toolchain};
use crate::workspace::{EBPF_TARGET, Workspace};

/// The package that has clippy for `rustc-web`.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// Builds the eBPF object; finds or sets up a toolchain first.
pub fn build(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain::ready(workspace)?;
    announce("Building the eBPF program", &toolchain);
    let cargo = toolchain::program(&toolchain.compiler.root, "cargo");
    run(configured(cargo, workspace, &toolchain).arg("build").args(selection(workspace)))
        .with_context(|| format!(
            "the eBPF program does not build; if the linker can't read the compiler's bitcode, {} is \
             older than LLVM {}: remove it, and `cargo xtask build` makes a fitting one",
            toolchain.linker.path.display(),
            toolchain.compiler.llvm,
        ))?;
    let object = workspace.ebpf_object();
    ensure!(
        object.is_file(),
        "the eBPF build has left no {}",
        object.display()
    );
    Ok(())
}

/// Runs clippy on the eBPF crate, with the clippy of the toolchain that builds it.
pub fn clippy(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain::ready(workspace)?;
    let root = &toolchain.compiler.root;
    let program = root.join("bin/cargo-clippy");
    let is_debians = root == Path::new("/usr");
    if !program.is_file() && is_debians && apt::is_usable() {
        step("Installing clippy for the eBPF program's compiler");
        apt::update()?;
        apt::install(&[DEBIAN_CLIPPY], &[])?;
    }
    ensure!(
        program.is_file(),
        "the eBPF program's compiler in {} has no clippy: {}",
        root.display(),
        if is_debians {
            format!("as root, {}", apt::command_line(&[DEBIAN_CLIPPY]))
        } else {
            "rustup component add clippy --toolchain NAME, with its name there".to_owned()
        }
    );
    announce("Clippy on the eBPF program", &toolchain);
    // Called directly: `cargo clippy` would start that of rustup, of another toolchain.
    let command = toolchain::program(&toolchain.compiler.root, "cargo-clippy");
    run(configured(command, workspace, &toolchain)
        .arg("clippy")
        .args(selection(workspace))
        .args(["--", "-D", "warnings"]))
}

fn announce(what: &str, toolchain: &Toolchain) {
    let compiler = &toolchain.compiler;
    let (major, minor) = compiler.version;
    step(&format!(
        "{what}: rustc {major}.{minor}{} in {}, {}",
        if compiler.nightly { "-nightly" } else { "" },
        compiler.root.display(),
        toolchain.linker.path.display(),
    ));
}

fn selection(workspace: &Workspace) -> Vec<String> {
    let target = workspace.ebpf_target();
    [
        "--release",
        "-Zbuild-std=core",
        "--package=bridge-ebpf",
        "--target",
        EBPF_TARGET,
        "--target-dir",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([target.to_string_lossy().into_owned()])
    .collect()
}

fn configured(mut command: Command, workspace: &Workspace, toolchain: &Toolchain) -> Command {
    let flags = [
        // aya-ebpf chooses the layout of `pt_regs` by it.
        &format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        // BTF is made from the debug information; without it `bpftool map dump` prints bytes.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Cpanic=abort",
    ];
    let linker = format!(
        "CARGO_TARGET_{}_LINKER",
        EBPF_TARGET.to_uppercase().replace('-', "_")
    );
    command
        .current_dir(workspace.root())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(linker, &toolchain.linker.path);
    if !toolchain.compiler.nightly {
        // Allows `-Zbuild-std` with a stable compiler.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command
}
