//! A service registry as Eureka is one: instances put their own address into it, everybody can list
//! them, and the registry calls them back.
//!
//! * `PUT /apps/<name>` with `address:port` as body registers;
//! * `GET /apps` lists, one `name address:port` a line;
//! * `POST /apps/<name>/check` calls `GET /health` of the registered address and returns its answer.

use std::collections::BTreeMap;
use std::net::{SocketAddrV4, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Handler;
use super::http::{self, Request, Response};
use crate::machine::netns::Namespace;

/// A registry that calls back from `namespace`.
#[must_use]
pub fn handler(namespace: Namespace) -> Handler {
    let instances = Mutex::new(BTreeMap::<String, SocketAddrV4>::new());
    http::handler(move |request, _| {
        let mut instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["apps"]) => {
                let lines: Vec<String> = instances
                    .iter()
                    .map(|(name, at)| format!("{name} {at}"))
                    .collect();
                Response::ok(lines.join(
                    "
",
                ))
            }
            ("PUT", ["apps", name]) => match request.body.trim().parse() {
                Ok(address) => {
                    instances.insert((*name).to_owned(), address);
                    Response::ok("registered\n")
                }
                Err(error) => Response::status(400, format!("{error}\n")),
            },
            ("POST", ["apps", name, "check"]) => match instances.get(*name) {
                Some(&address) => call_back(&namespace, address)
                    .unwrap_or_else(|error| Response::status(502, format!("{error:#}\n"))),
                None => Response::status(404, format!("{name} is not registered\n")),
            },
            _ => Response::status(404, "no such thing here\n"),
        }
    })
}

fn call_back(namespace: &Namespace, address: SocketAddrV4) -> Result<Response> {
    let limit = Duration::from_secs(3);
    let stream = namespace.run_in(|| Ok(TcpStream::connect_timeout(&address.into(), limit)?))?;
    stream
        .set_read_timeout(Some(limit))
        .context("set a timeout")?;
    let health = Request {
        method: "GET".into(),
        path: "/health".into(),
        body: String::new(),
    };
    http::exchange(stream, &health).with_context(|| format!("call {address} back"))
}
