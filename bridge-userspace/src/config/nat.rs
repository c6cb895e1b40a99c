//! The addresses that clients are translated to.

use std::net::{IpAddr, Ipv4Addr};

use bridge_common::abi::capacity;

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use crate::model::Findings;
use crate::model::networks::Labelled;

pub(super) const SETTINGS: &[SettingFacts] = &[SNAT_ADDRESS.facts];

const SNAT_ADDRESS: Setting<Vec<String>> = Setting::new(
    "snatAddress",
    "snat-address",
    "IP",
    DefaultValue::None,
    "Address to translate clients to, instead of the preferred source of the kernel's route to the pod (repeatable)",
);

/// The addresses to translate to. `foreign` are networks of the office and of services, where no reply from a pod
/// comes back from.
pub(super) fn check<'a>(
    settings: &Settings,
    foreign: &(impl Iterator<Item = &'a Labelled> + Clone),
    findings: &mut Findings,
) -> Vec<Ipv4Addr> {
    let texts = settings.list(&SNAT_ADDRESS);
    if texts.len() > capacity::SNAT_ADDRESSES {
        findings.push(settings.wrong(
            &SNAT_ADDRESS,
            &format!(": {} addresses are given", texts.len()),
            format!("there is room for {}", capacity::SNAT_ADDRESSES),
        ));
    }
    let mut addresses = Vec::new();
    for text in texts {
        match address(text, foreign.clone(), &addresses) {
            Ok(address) => addresses.push(address),
            Err((cause, remedy)) => {
                let problem = format!(" {text}: {cause}");
                findings.push(settings.wrong(&SNAT_ADDRESS, &problem, remedy));
            }
        }
    }
    addresses
}

/// Reads an address, or says why it can't be one, and what to do.
fn address<'a>(
    text: &str,
    mut foreign: impl Iterator<Item = &'a Labelled>,
    known: &[Ipv4Addr],
) -> Result<Ipv4Addr, (String, &'static str)> {
    const OWN: &str = "give an address of this node that pods reach";
    let address: Ipv4Addr = match text.parse() {
        Ok(IpAddr::V4(address)) => address,
        Ok(IpAddr::V6(_)) => return Err(("this is IPv6".to_owned(), "only IPv4 is translated")),
        Err(_) => return Err(("this is no IPv4 address".to_owned(), OWN)),
    };
    if address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_link_local()
    {
        return Err(("no reply can come back to this address".to_owned(), OWN));
    }
    if let Some(network) = foreign.find(|labelled| labelled.network.contains(&address)) {
        let cause = format!("it lies in {network}, where replies from pods don't come back from");
        return Err((cause, OWN));
    }
    if known.contains(&address) {
        return Err(("it is given twice".to_owned(), "remove one"));
    }
    Ok(address)
}
