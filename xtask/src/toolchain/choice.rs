//! Decides which toolchain to use or which step to take next: a pure function of what is installed.

use std::path::PathBuf;

/// The bpf-linker that is built when none is found.
pub const LINKER_VERSION: &str = "0.13.0";
/// The LLVM versions that it can be built for (its features `llvm-*`).
pub const LINKER_LLVM: [u32; 3] = [21, 22, 23];
/// Debian's packages of Rust for building web browsers: newer than the `rustc` of the release, and with its source.
pub const DEBIAN_RUST: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];
/// `rust-version` of the workspace.
const MINIMUM_RUST: (u32, u32) = (1, 95);

/// An installed compiler that has the source of `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Its sysroot, with `bin/rustc` and `bin/cargo`.
    pub root: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
    /// Whether it is a nightly, which allows unstable features.
    pub nightly: bool,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// An installed `bpf-linker` that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    /// Major version of its LLVM; unknown for a statically linked one, such as the published ones.
    pub llvm: Option<u32>,
}

/// Packages that can be installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packages {
    /// Version of `rustc-web`.
    pub rust: Option<(u32, u32)>,
    /// Major versions of `llvm-*-dev`.
    pub llvm: Vec<u32>,
}

/// What is installed, and what can be.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Compilers with the source of `core`.
    pub compilers: Vec<Compiler>,
    /// Linkers, those of the workspace before those of the machine.
    pub linkers: Vec<Linker>,
    /// Major versions of the LLVM development files that are installed.
    pub llvm: Vec<u32>,
    /// What can be installed; `None` where packages can't be installed.
    pub packages: Option<Packages>,
}

/// What eBPF programs are built with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: Linker,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is missing.
    Use(Toolchain),
    /// Build bpf-linker.
    BuildLinker {
        /// Sysroot of the toolchain that builds it.
        toolchain_root: PathBuf,
        /// Major version of the LLVM that it is built with.
        llvm: u32,
    },
    /// Install the development files of this LLVM.
    InstallLlvm(u32),
    /// Install Debian's Rust.
    InstallCompiler,
    /// A person has to install something.
    Ask,
}

/// Decides. It prefers a complete toolchain to one that must be set up, a nightly to a stable compiler, and a quick
/// step to a slow one.
pub fn next_step(facts: &Facts) -> Step {
    let mut compilers: Vec<&Compiler> = facts
        .compilers
        .iter()
        .filter(|compiler| compiler.version >= MINIMUM_RUST)
        .collect();
    compilers.sort_by_key(|compiler| !compiler.nightly);

    for compiler in &compilers {
        if let Some(linker) = facts.linkers.iter().find(|linker| fits(linker, compiler)) {
            let (compiler, linker) = ((*compiler).clone(), linker.clone());
            return Step::Use(Toolchain { compiler, linker });
        }
    }
    for compiler in &compilers {
        if let Some(llvm) = oldest_that_reads(&facts.llvm, compiler) {
            return Step::BuildLinker {
                toolchain_root: compiler.root.clone(),
                llvm,
            };
        }
    }
    let Some(packages) = &facts.packages else {
        return Step::Ask;
    };
    for compiler in &compilers {
        if let Some(llvm) = oldest_that_reads(&packages.llvm, compiler) {
            return Step::InstallLlvm(llvm);
        }
    }
    if packages.rust.is_some_and(|version| version >= MINIMUM_RUST) {
        return Step::InstallCompiler;
    }
    Step::Ask
}

/// LLVM reads bitcode of its own version and of older ones. A linker of unknown LLVM is tried: its error is clear.
fn fits(linker: &Linker, compiler: &Compiler) -> bool {
    linker.llvm.is_none_or(|llvm| llvm >= compiler.llvm)
}

fn oldest_that_reads(available: &[u32], compiler: &Compiler) -> Option<u32> {
    let usable = |llvm: &u32| *llvm >= compiler.llvm && LINKER_LLVM.contains(llvm);
    available.iter().copied().filter(usable).min()
}

/// The packages that building bpf-linker with this LLVM needs.
pub fn llvm_packages(llvm: u32) -> [String; 5] {
    [
        format!("llvm-{llvm}-dev"),
        format!("clang-{llvm}"),
        format!("libpolly-{llvm}-dev"),
        "zlib1g-dev".into(),
        "libzstd-dev".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nightly_with_a_linker_is_preferred_to_debians_compiler() {
        let compilers = vec![debian(), nightly(22)];
        let facts = Facts {
            compilers,
            linkers: vec![linker(Some(22))],
            ..Facts::default()
        };
        assert_eq!(used(next_step(&facts)).compiler, nightly(22));
    }

    #[test]
    fn a_complete_stable_toolchain_is_preferred_to_a_nightly_without_linker() {
        let compilers = vec![nightly(23), debian()];
        let facts = Facts {
            compilers,
            linkers: vec![linker(Some(22))],
            ..Facts::default()
        };
        assert_eq!(used(next_step(&facts)).compiler, debian());
    }

    #[test]
    fn a_linker_on_an_older_llvm_is_not_used() {
        let facts = Facts {
            compilers: vec![nightly(22)],
            linkers: vec![linker(Some(21)), linker(Some(23))],
            ..Facts::default()
        };
        assert_eq!(used(next_step(&facts)).linker, linker(Some(23)));
    }

    #[test]
    fn a_statically_linked_linker_is_tried() {
        let facts = Facts {
            compilers: vec![nightly(23)],
            linkers: vec![linker(None)],
            ..Facts::default()
        };
        assert_eq!(used(next_step(&facts)).linker, linker(None));
    }

    #[test]
    fn a_bare_debian_machine_gets_compiler_then_llvm_then_linker() {
        let mut facts = Facts {
            packages: Some(bookworm()),
            ..Facts::default()
        };
        assert_eq!(next_step(&facts), Step::InstallCompiler);
        facts.compilers.push(debian());
        assert_eq!(next_step(&facts), Step::InstallLlvm(22));
        facts.llvm.push(22);
        let build = Step::BuildLinker {
            toolchain_root: "/usr".into(),
            llvm: 22,
        };
        assert_eq!(next_step(&facts), build);
        facts.linkers.push(linker(Some(22)));
        assert_eq!(used(next_step(&facts)).compiler, debian());
    }

    #[test]
    fn a_linker_is_built_on_a_newer_llvm_if_that_is_the_one_installed() {
        let facts = Facts {
            compilers: vec![debian()],
            llvm: vec![19, 23, 24],
            ..Facts::default()
        };
        let build = Step::BuildLinker {
            toolchain_root: "/usr".into(),
            llvm: 23,
        };
        assert_eq!(next_step(&facts), build);
    }

    #[test]
    fn a_compiler_that_is_too_old_is_as_good_as_none() {
        let old = Compiler {
            version: (1, 85),
            ..debian()
        };
        let facts = Facts {
            compilers: vec![old],
            linkers: vec![linker(Some(22))],
            packages: Some(Packages {
                rust: Some((1, 85)),
                llvm: vec![22],
            }),
            ..Facts::default()
        };
        assert_eq!(next_step(&facts), Step::Ask);
    }

    #[test]
    fn without_root_a_person_is_asked() {
        assert_eq!(next_step(&Facts::default()), Step::Ask);
        let facts = Facts {
            compilers: vec![nightly(22)],
            ..Facts::default()
        };
        assert_eq!(next_step(&facts), Step::Ask);
    }

    fn nightly(llvm: u32) -> Compiler {
        let root = "/home/u/.rustup/toolchains/nightly".into();
        Compiler {
            root,
            version: (1, 97),
            nightly: true,
            llvm,
        }
    }

    fn debian() -> Compiler {
        Compiler {
            root: "/usr".into(),
            version: (1, 96),
            nightly: false,
            llvm: 22,
        }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker {
            path: "/usr/local/bin/bpf-linker".into(),
            llvm,
        }
    }

    fn bookworm() -> Packages {
        Packages {
            rust: Some((1, 96)),
            llvm: vec![22],
        }
    }

    fn used(step: Step) -> Toolchain {
        let Step::Use(toolchain) = step else {
            panic!("{step:?}")
        };
        toolchain
    }
}
