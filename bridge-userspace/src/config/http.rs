//! Health, readiness and metrics over HTTP.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use super::values::socket;
use crate::model::Findings;

pub(super) const SETTINGS: &[SettingFacts] = &[HTTP_LISTEN.facts, NO_HTTP.facts];

const HTTP_LISTEN: Setting<String> = Setting::new(
    "httpListen",
    "http-listen",
    "ADDR:PORT",
    DefaultValue::Socket(DEFAULT_HTTP_LISTEN),
    "Serve `/healthz`, `/readyz` and `/metrics` here",
);
const NO_HTTP: Setting<bool> = Setting::new(
    "noHttp",
    "no-http",
    "BOOL",
    DefaultValue::None,
    "Serve no status and no metrics, whatever the file says",
);

const DEFAULT_HTTP_LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9530);

/// Where to listen, if anywhere.
pub(super) fn check(settings: &Settings, findings: &mut Findings) -> Option<SocketAddrV4> {
    let listen = match settings.get(&HTTP_LISTEN) {
        Some(text) => socket(settings, &HTTP_LISTEN, text, findings),
        None => Some(DEFAULT_HTTP_LISTEN),
    };
    listen.filter(|_| !settings.is_on(&NO_HTTP, false))
}
