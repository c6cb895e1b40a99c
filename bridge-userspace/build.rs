//! Puts the eBPF object where the loader embeds it from, `$OUT_DIR/office-bridge.bpf.o`, and tells what
//! `office-bridge --version` prints.
//!
//! The object comes from `$OFFICE_BRIDGE_EBPF`, or from where `cargo xtask build` leaves it. Without
//! one the file is empty, so that `cargo check` works on any machine; such a binary can't load
//! anything, and its loader says why. `$OFFICE_BRIDGE_COMMIT` is set for release builds.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const VARIABLE: &str = "OFFICE_BRIDGE_EBPF";
const COMMIT: &str = "OFFICE_BRIDGE_COMMIT";

/// Where `cargo xtask build` leaves the object, from this crate's directory.
fn built(endian: &str) -> String {
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    format!("../target/ebpf/{target}-unknown-none/release/bridge-ebpf")
}

fn main() -> Result<(), Box<dyn Error>> {
    tell_version()?;
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let given = env::var_os(VARIABLE).map(PathBuf::from);
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets no manifest dir")?);
    let built = root.join(built(&env::var("CARGO_CFG_TARGET_ENDIAN")?));
    println!(
        "cargo::rerun-if-changed={}",
        given.as_deref().unwrap_or(&built).display()
    );

    let embedded = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?)
        .join("office-bridge.bpf.o");
    match given {
        Some(object) => copy(&object, &embedded),
        None if built.is_file() => copy(&built, &embedded),
        None => {
            println!(
                "cargo::warning=office-bridge is built without its eBPF program and can't run: \
                 use `cargo xtask build`"
            );
            fs::write(&embedded, [])
                .map_err(|error| format!("{}: {error}", embedded.display()).into())
        }
    }
}

/// The version of the package, with the commit if it is known.
fn tell_version() -> Result<(), env::VarError> {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let version = env::var("CARGO_PKG_VERSION")?;
    let commit = env::var(COMMIT).map_or_else(|_| String::new(), |commit| format!(" ({commit})"));
    println!("cargo::rustc-env=OFFICE_BRIDGE_VERSION={version}{commit}");
    Ok(())
}

fn copy(object: &Path, embedded: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(object)
        .map_err(|error| format!("the eBPF object {}: {error}", object.display()))?;
    fs::write(embedded, bytes).map_err(|error| format!("{}: {error}", embedded.display()))?;
    Ok(())
}
