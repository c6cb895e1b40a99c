//! What the bridge may use and change on the host.

use std::path::PathBuf;

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use crate::model::Findings;

pub(super) const SETTINGS: &[SettingFacts] = &[PIN_PATH.facts, MANAGE_SYSCTLS.facts];

const PIN_PATH: Setting<PathBuf> = Setting::new(
    "pinPath",
    "pin-path",
    "DIR",
    DefaultValue::Text(DEFAULT_PIN_PATH),
    "Directory of the pinned tables, on a bpf filesystem",
);
const MANAGE_SYSCTLS: Setting<bool> = Setting::new(
    "manageSysctls",
    "manage-sysctls",
    "BOOL",
    DefaultValue::None,
    "Set the sysctls that forwarding needs, such as `net.ipv4.ip_forward`",
);

/// Where tables and links are pinned unless told otherwise; on the bpf filesystem that systemd
/// and the container runtimes mount.
pub const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/office-bridge";

pub(super) fn pin_path(settings: &Settings, findings: &mut Findings) -> PathBuf {
    let Some(path) = settings.get(&PIN_PATH) else {
        return PathBuf::from(DEFAULT_PIN_PATH);
    };
    if !path.is_absolute() || path.parent().is_none() {
        findings.push(settings.wrong(
            &PIN_PATH,
            &format!(
                " {}: this is no absolute path to a directory of its own",
                path.display()
            ),
            format!("write it as in {DEFAULT_PIN_PATH}"),
        ));
    }
    path.clone()
}

pub(super) fn manages_sysctls(settings: &Settings) -> bool {
    settings.is_on(&MANAGE_SYSCTLS, false)
}
