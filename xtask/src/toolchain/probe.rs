//! Collects what is installed on this machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::choice::{Compiler, DEBIAN_RUST, Facts, LINKER_LLVM, Linker, Packages, llvm_packages};
use crate::apt;
use crate::process::{command, find, probe};
use crate::workspace::Workspace;

/// All facts except [`packages`], which take a second.
pub fn facts(workspace: &Workspace) -> Facts {
    Facts {
        compilers: sysroots()
            .iter()
            .filter_map(|root| compiler(root))
            .collect(),
        linkers: linkers(workspace),
        llvm: installed_llvm(),
        packages: None,
    }
}

/// Packages that can be installed.
pub fn packages() -> Packages {
    Packages {
        rust: apt::candidate("rustc-web")
            .as_deref()
            .and_then(parse_version),
        llvm: LINKER_LLVM
            .into_iter()
            .filter(|llvm| apt::candidate(&format!("llvm-{llvm}-dev")).is_some())
            .collect(),
    }
}

/// Debian's directory of LLVM's headers and libraries.
pub fn llvm_prefix(llvm: u32) -> PathBuf {
    format!("/usr/lib/llvm-{llvm}").into()
}

/// How a person can set up a toolchain.
pub fn advice() -> String {
    let llvm = llvm_packages(22).join(" ");
    let debian = if apt::is_debian_like() {
        format!(
            "\n\nor, on Debian 12, as root (`cargo xtask build` does it by itself when run as root):\n    \
             apt-get update\n    \
             apt-get install --no-install-recommends {} {llvm}\n    cargo xtask build",
            DEBIAN_RUST.join(" ")
        )
    } else {
        String::new()
    };
    format!(
        "no eBPF toolchain: it takes a compiler with the source of `core`, and bpf-linker. Either\n    \
         rustup toolchain install nightly --component rust-src\n    \
         cargo install cargo-binstall && cargo binstall bpf-linker\n    \
         (or put a release from https://github.com/aya-rs/bpf-linker/releases on PATH){debian}"
    )
}

/// The sysroots of rustup's toolchains, of the `rustc` on PATH and of `/usr/bin/rustc`.
fn sysroots() -> BTreeSet<PathBuf> {
    let mut roots = BTreeSet::from([PathBuf::from("/usr")]);
    // Verbose lines are "name (active, default) /path".
    let listed = probe(command("rustup").args(["toolchain", "list", "-v"])).unwrap_or_default();
    roots.extend(
        listed
            .lines()
            .filter_map(|line| line.rsplit(' ').next())
            .map(PathBuf::from),
    );
    if let Some(root) = probe(command("rustc").args(["--print", "sysroot"])) {
        roots.insert(root.trim().into());
    }
    roots
}

fn compiler(root: &Path) -> Option<Compiler> {
    let bin = root.join("bin");
    let source = root.join("lib/rustlib/src/rust/library/core");
    if !source.is_dir() || !bin.join("cargo").is_file() {
        return None;
    }
    parse_compiler(root, &probe(command(bin.join("rustc")).arg("-vV"))?)
}

fn parse_compiler(root: &Path, verbose: &str) -> Option<Compiler> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?;
    Some(Compiler {
        root: root.to_owned(),
        version: parse_version(release)?,
        nightly: release.contains("-nightly") || release.contains("-dev"),
        llvm: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
    })
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn linkers(workspace: &Workspace) -> Vec<Linker> {
    let own = workspace.tools().join("bin/bpf-linker");
    [Some(own), find("bpf-linker")]
        .into_iter()
        .flatten()
        .filter_map(linker)
        .collect()
}

fn linker(path: PathBuf) -> Option<Linker> {
    probe(command(&path).arg("--version"))?;
    let llvm = probe(command("ldd").arg(&path))
        .as_deref()
        .and_then(parse_llvm_library);
    Some(Linker { path, llvm })
}

/// `libLLVM.so.22.1` or, as it was called before, `libLLVM-17.so.1`.
fn parse_llvm_library(libraries: &str) -> Option<u32> {
    let name = libraries
        .lines()
        .find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let digits = name.trim_start_matches(".so.").trim_start_matches('-');
    digits
        .split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn installed_llvm() -> Vec<u32> {
    let directories = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    directories
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("llvm-")?
                .parse()
                .ok()
        })
        .filter(|llvm| {
            let prefix = llvm_prefix(*llvm);
            // The headers are only in the development package; polly is needed at link time.
            prefix.join("include/llvm-c/Core.h").exists() && prefix.join("lib/libPolly.a").exists()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nightly_is_read_from_its_version() {
        let verbose = "rustc 1.97.0-nightly (x)\nbinary: rustc\nrelease: 1.97.0-nightly\n\
                       LLVM version: 22.1.4\n";
        let expected = Compiler {
            root: "/n".into(),
            version: (1, 97),
            nightly: true,
            llvm: 22,
        };
        assert_eq!(parse_compiler(Path::new("/n"), verbose), Some(expected));
    }

    #[test]
    fn debians_compiler_is_read_from_its_version() {
        let verbose = "rustc 1.96.0 (x) (built from a source tarball)\nrelease: 1.96.0\n\
                       LLVM version: 22.1.8\n";
        let expected = Compiler {
            root: "/usr".into(),
            version: (1, 96),
            nightly: false,
            llvm: 22,
        };
        assert_eq!(parse_compiler(Path::new("/usr"), verbose), Some(expected));
    }

    #[test]
    fn a_package_version_is_compared_by_its_numbers() {
        assert_eq!(parse_version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(parse_version("unknown"), None);
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_libraries() {
        let new = "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x0)\n";
        assert_eq!(parse_llvm_library(new), Some(22));
        assert_eq!(
            parse_llvm_library("\tlibLLVM-17.so.1 => /usr/lib/x (0x0)\n"),
            Some(17)
        );
        assert_eq!(parse_llvm_library("\tstatically linked\n"), None);
    }
}
