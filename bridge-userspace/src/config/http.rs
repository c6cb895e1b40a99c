//! Health, readiness and metrics over HTTP.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use super::values::{domain_name, socket};
use crate::model::Findings;

pub(super) const SETTINGS: &[SettingFacts] = &[HTTP_LISTEN.facts, HTTP_HOST.facts, NO_HTTP.facts];

const HTTP_LISTEN: Setting<String> = Setting::new(
    "httpListen",
    "http-listen",
    "ADDR:PORT",
    DefaultValue::Socket(DEFAULT_HTTP_LISTEN),
    "Serve `/healthz`, `/readyz` and `/metrics` here",
);
const HTTP_HOST: Setting<Vec<String>> = Setting::new(
    "httpHost",
    "http-host",
    "NAME",
    DefaultValue::None,
    "Name or address that HTTP clients may ask for (`Host`), besides `localhost`, loopback and the address that they connect to (repeatable)",
);
const NO_HTTP: Setting<bool> = Setting::new(
    "noHttp",
    "no-http",
    "BOOL",
    DefaultValue::None,
    "Serve no status and no metrics, whatever the file says",
);

const DEFAULT_HTTP_LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9530);

/// How status and metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where.
    pub listen: SocketAddrV4,
    /// Names and addresses that clients may ask for besides those that they connect to; in lower case, without the last dot.
    pub hosts: Vec<String>,
}

/// Where to listen, if anywhere, and under which names.
pub(super) fn check(settings: &Settings, findings: &mut Findings) -> Option<HttpConfig> {
    let mut hosts = Vec::new();
    for text in settings.list(&HTTP_HOST) {
        if let Some(name) = domain_name(text) {
            hosts.push(name);
        } else {
            findings.push(settings.wrong(
                &HTTP_HOST,
                &format!(": `{text}` is no name and no IPv4 address"),
                "write it without a port, as in node-30.example.com",
            ));
        }
    }
    let listen = match settings.get(&HTTP_LISTEN) {
        Some(text) => socket(settings, &HTTP_LISTEN, text, findings),
        None => Some(DEFAULT_HTTP_LISTEN),
    };
    let listen = listen.filter(|_| !settings.is_on(&NO_HTTP, false))?;
    Some(HttpConfig { listen, hosts })
}
