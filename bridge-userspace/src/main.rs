//! The command `office-bridge`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use bridge_userspace::agent;
use bridge_userspace::checks::judged_pins;
use bridge_userspace::commands::cli::{Cli, Command, FlowsCommand, ListArgs};
use bridge_userspace::commands::uninstall::uninstall;
use bridge_userspace::commands::{exit, flows, services, status};
use bridge_userspace::maps::Tables;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. Errors of the way to the API server are told once by the
/// cluster source; the client tells each attempt.
const LOG: &str = "info,kube_client=off,kube_runtime=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    exit::report(execute(cli.command))
}

fn execute(command: Command) -> anyhow::Result<()> {
    let open = |list: &ListArgs| -> anyhow::Result<Tables> {
        Ok(Tables::open(&judged_pins(&list.pin.pin_path)?)?)
    };
    match command {
        Command::Run(args) => agent::run(*args),
        Command::Status(list) => {
            block_on(status::show(&judged_pins(&list.pin.pin_path)?, list.output))
        }
        Command::Flows(FlowsCommand::List { filter, list }) => {
            flows::list(&open(&list)?, &filter, list.output)
        }
        Command::Flows(FlowsCommand::Flush { filter, list }) => {
            flows::flush(&open(&list)?, &filter, list.output)
        }
        Command::Services(list) => services::list(&open(&list)?, list.output),
        Command::Uninstall(pin) => block_on(uninstall(&judged_pins(&pin.pin_path)?)),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?
        .block_on(command)
}
