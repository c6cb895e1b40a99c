//! What the pods serve.

use anyhow::Result;

use crate::hosts::host::Host;
use crate::plan::port;
use crate::serve::http::{self, Response};
use crate::serve::{self, mysql, registry};

/// Starts what a pod of this host's name serves.
pub fn serve(host: &Host) -> Result<()> {
    match host.name() {
        "mysql-0" => drop(host.serve_tcp(port::MYSQL, mysql::handler())?),
        "web-0" => {
            let greet = |_, peer| Response::ok(format!("web-0 greets {peer}\n"));
            host.serve_tcp(port::HTTP, http::handler(greet))?;
        }
        "registry-0" => {
            let handler = registry::handler(host.namespace().clone());
            host.serve_tcp(port::REGISTRY, handler)?;
        }
        name if name.starts_with("echo") => {
            host.serve_tcp(port::ECHO, serve::echo())?;
            host.serve_udp_echo(port::ECHO)?;
            host.serve_tcp(port::BULK, serve::bulk())?;
        }
        _ => {}
    }
    Ok(())
}
