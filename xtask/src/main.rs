//! `cargo xtask`: builds, tests and demonstrates office-bridge.
//!
//! The modules, in the order in which a command uses them:
//!
//! * [`workspace`] has the paths, [`process`] starts programs and prints what it does;
//! * [`toolchain`] finds a compiler and linker for eBPF, or sets one up with [`apt`];
//! * [`ebpf`] builds the program for the kernel, [`build`] the binary that embeds it;
//! * [`tools`] finds or builds programs from crates.io;
//! * [`packages`] is the table of programs that the lab needs, [`host`] installs them;
//! * [`control_plane`] looks for an API server for the lab, [`variants`] says which tests run in which lab;
//! * [`lint`], [`docs`], [`test`], [`fuzz`], [`vm`], [`ci`], [`lab`], [`run`], [`bench`] and [`image`] are the commands.

mod apt;
mod bench;
mod build;
mod ci;
mod control_plane;
mod docs;
mod ebpf;
mod fuzz;
mod host;
mod image;
mod lab;
mod lint;
mod packages;
mod process;
mod run;
mod test;
mod toolchain;
mod tools;
mod variants;
mod vm;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use ::lab::{Datapath, Overlay, Variant};
use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::test::Variants;
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the eBPF program and the office-bridge binary, setting up an eBPF toolchain if need be
    Build(BuildArgs),
    /// Builds, then runs the host tests and, as root, the end-to-end tests in network namespaces
    Test(TestArgs),
    /// Tests XDP on another kernel, in a virtual machine (needs qemu, not root)
    VmTest(VmTestArgs),
    /// Runs the fuzz targets (needs a C++ compiler; builds cargo-fuzz into target/tools if it is missing)
    Fuzz(FuzzArgs),
    /// Checks formatting, imports, clippy, the generated documents and dependencies
    Lint(LintArgs),
    /// Generates docs/reference from the code, and builds the book if mdbook is installed
    Docs(DocsArgs),
    /// Builds, lints and tests a clean workspace, and shows the time of each step
    Ci(CiArgs),
    /// Opens the lab, without a bridge in it, until Ctrl-C
    Lab,
    /// Makes the container image and saves it as an OCI archive
    Image(ImageArgs),
    /// Compares office-bridge with what it replaces, in namespaces, and writes docs/benchmarks
    Bench(BenchArgs),
    /// Plays the office developer in the lab; with arguments after `--`, runs the bridge on this host
    Run(RunArgs),
}

#[derive(Args)]
struct BuildArgs {
    /// Optimise office-bridge (the eBPF program always is)
    #[arg(long)]
    release: bool,
}

#[derive(Args)]
struct TestArgs {
    /// Only the tests that need neither root nor a lab
    #[arg(long, conflicts_with = "e2e")]
    host: bool,
    /// Only the end-to-end tests
    #[arg(long)]
    e2e: bool,
    /// Only the end-to-end tests that depend on it, with this `--datapath` of the bridge: auto, tc, xdp, stack
    /// [default: auto]
    #[arg(long, conflicts_with = "host")]
    datapath: Option<Datapath>,
    /// Only the end-to-end tests that depend on it, on this overlay: vxlan, host-gw [default: vxlan]
    #[arg(long, conflicts_with = "host")]
    overlay: Option<Overlay>,
    /// The end-to-end tests with stack, tc and xdp, each on vxlan and host-gw, one after the other
    #[arg(long, conflicts_with_all = ["host", "datapath", "overlay"])]
    all_layers: bool,
    /// Only the tests with this in their name
    filter: Option<String>,
}

impl TestArgs {
    fn variants(&self) -> Result<Variants> {
        if self.all_layers {
            return Ok(Variants::All);
        }
        let named = Variant::of_environment()?;
        if self.datapath.is_none() && self.overlay.is_none() && named == Variant::DEFAULT {
            return Ok(Variants::Default);
        }
        Ok(Variants::One(Variant {
            datapath: self.datapath.unwrap_or(named.datapath),
            overlay: self.overlay.unwrap_or(named.overlay),
        }))
    }
}

#[derive(Args)]
struct VmTestArgs {
    /// The kernel's image, such as /boot/vmlinuz-6.1.0-56-cloud-amd64
    kernel: PathBuf,
    /// Its modules, such as /lib/modules/6.1.0-56-cloud-amd64
    modules: PathBuf,
    /// Only the tests with this in their name
    filter: Option<String>,
}

#[derive(Args)]
struct FuzzArgs {
    /// Only this target: frame, engine
    target: Option<String>,
    /// How long each is run
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

#[derive(Args)]
struct LintArgs {
    /// Install cargo-deny into target/tools if it is missing (takes minutes)
    #[arg(long)]
    deny: bool,
}

#[derive(Args)]
struct DocsArgs {
    /// Generate nothing; fail if a page differs from the code
    #[arg(long)]
    check: bool,
    /// Install mdbook into target/tools if it is missing (takes minutes)
    #[arg(long)]
    mdbook: bool,
}

#[derive(Args)]
struct CiArgs {
    /// Do not remove the results of earlier builds
    #[arg(long)]
    no_clean: bool,
    /// Install cargo-deny into target/tools if it is missing (takes minutes)
    #[arg(long)]
    deny: bool,
}

#[derive(Args)]
struct ImageArgs {
    /// Where to save it [default: target/image/office-bridge.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    /// In the lab: exit after the demonstration, 0 if every step succeeded and 1 if not
    #[arg(long, conflicts_with = "args")]
    check: bool,
    /// On this host: optimise office-bridge
    #[arg(long, requires = "args")]
    release: bool,
    /// Arguments for `office-bridge run` on this host
    #[arg(last = true)]
    args: Vec<OsString>,
}

#[derive(Args)]
struct BenchArgs {
    /// Fewer cells and rounds, in three minutes; the report goes to target/bench
    #[arg(long)]
    quick: bool,
    /// Only this contestant: ceiling, redirect, kernel, iptables, nftables, stack, tc or xdp
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often each cell is measured [default: 5, with --quick 2]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Where the report goes [default: docs/benchmarks]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// results.json of an older run: print the ratio of the medians, cell by cell
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let workspace = Workspace::here();
    let result = match cli.command {
        Task::Build(args) => build::run(&workspace, args.release).map(drop),
        Task::Test(args) => {
            let selection = match (args.host, args.e2e) {
                (true, _) => test::Selection::Host,
                (_, true) => test::Selection::EndToEnd,
                _ => test::Selection::All,
            };
            args.variants().and_then(|variants| {
                test::run(&workspace, selection, variants, args.filter.as_deref())
            })
        }
        Task::VmTest(args) => {
            let options = vm::Options {
                kernel: args.kernel,
                modules: args.modules,
                filter: args.filter,
            };
            vm::run(&workspace, &options)
        }
        Task::Fuzz(args) => fuzz::run(&workspace, args.target.as_deref(), args.seconds),
        Task::Lint(args) => lint::run(&workspace, args.deny),
        Task::Docs(args) => {
            let options = docs::Options {
                check: args.check,
                install_mdbook: args.mdbook,
            };
            docs::run(&workspace, options)
        }
        Task::Ci(args) => ci::run(&workspace, !args.no_clean, args.deny),
        Task::Lab => lab::run(),
        Task::Bench(args) => {
            let options = bench::Options {
                quick: args.quick,
                only: args.only,
                rounds: args.rounds.map(usize::from),
                output: args.output,
                compare: args.compare,
            };
            bench::run(&workspace, &options)
        }
        Task::Image(args) => image::run(&workspace, args.output),
        Task::Run(args) if args.args.is_empty() => run::in_lab(&workspace, args.check),
        Task::Run(args) => run::on_host(&workspace, args.release, &args.args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
