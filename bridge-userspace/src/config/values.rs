//! Checks of values that several settings share.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::setting::Setting;
use super::settings::Settings;
use crate::model::Findings;
use crate::model::networks::{Labelled, parse_cidr};

/// One of the texts that a setting knows; the default where it is not given.
pub(super) fn choice<T: Copy>(
    settings: &Settings,
    setting: &Setting<String>,
    what: &str,
    choices: &[(&str, T)],
    default: T,
    findings: &mut Findings,
) -> T {
    let Some(text) = settings.get(setting) else {
        return default;
    };
    if let Some((_, value)) = choices.iter().find(|(name, _)| name == text) {
        return *value;
    }
    let names: Vec<String> = choices
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let names = match &names[..] {
        [names @ .., last] if !names.is_empty() => format!("{} or {last}", names.join(", ")),
        names => names.join(", "),
    };
    findings.push(settings.wrong(
        setting,
        &format!(": `{text}` is no {what}"),
        format!("write {names}"),
    ));
    default
}

/// The networks that a setting lists, without those that are none.
pub(super) fn cidrs(
    settings: &Settings,
    setting: &Setting<Vec<String>>,
    role: &'static str,
    findings: &mut Findings,
) -> Vec<Labelled> {
    let source = settings.source(setting);
    let mut networks = Vec::new();
    for text in settings.list(setting) {
        match parse_cidr(text) {
            Ok(network) => networks.push(Labelled {
                network,
                role,
                source: source.clone(),
            }),
            Err(error) => findings.push(settings.wrong(
                setting,
                &format!(" ({source}): {}", error.cause()),
                error.remedy(),
            )),
        }
    }
    networks
}

/// An IPv4 address and port.
pub(super) fn socket<V>(
    settings: &Settings,
    setting: &Setting<V>,
    text: &str,
    findings: &mut Findings,
) -> Option<SocketAddrV4> {
    let (cause, remedy) = match text.parse() {
        Ok(SocketAddr::V4(socket)) if socket.port() == 0 => (
            "port 0 cannot be used",
            "write a port from 1 to 65535".to_owned(),
        ),
        Ok(SocketAddr::V4(socket)) => return Some(socket),
        Ok(SocketAddr::V6(_)) => (
            "this is IPv6",
            "write an IPv4 address and a port".to_owned(),
        ),
        Err(_) => match text.parse::<Ipv4Addr>() {
            Ok(address) => (
                "the port is missing",
                format!("write it as in {address}:53"),
            ),
            Err(_) => (
                "this is not ADDR:PORT",
                "write it as in 10.60.20.30:53".to_owned(),
            ),
        },
    };
    findings.push(settings.wrong(setting, &format!(" {text}: {cause}"), remedy));
    None
}

/// The addresses and ports that a setting lists, each once, without those that are none.
pub(super) fn sockets(
    settings: &Settings,
    setting: &Setting<Vec<String>>,
    findings: &mut Findings,
) -> Vec<SocketAddrV4> {
    let mut sockets = Vec::new();
    for text in settings.list(setting) {
        let Some(socket) = socket(settings, setting, text, findings) else {
            continue;
        };
        if sockets.contains(&socket) {
            let twice = format!(" {socket} is given twice");
            findings.push(settings.wrong(setting, &twice, "remove one"));
        } else {
            sockets.push(socket);
        }
    }
    sockets
}

/// A domain name by RFC 1035 section 2.3.4, in lower case and without the last dot; `None` if the text is none.
pub(super) fn domain_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    is_name.then(|| name.to_ascii_lowercase())
}
