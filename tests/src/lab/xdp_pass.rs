//! An XDP program that passes every packet, for the far end of a cable.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::machine::bpf_object;
use crate::machine::netns::Namespace;

/// `XDP_PASS` (linux/bpf.h).
const XDP_PASS: i32 = 2;

/// Attaches it to `interface`, as a driver's own. A veth takes frames that the other end sends with `XDP_TX` only where
/// it has a program itself; with `gro` alone it queues them and never wakes up.
pub fn attach(namespace: &Namespace, interface: &str, directory: &Path) -> Result<()> {
    let path = directory.join("xdp-pass.o");
    let octets = bpf_object::returning("xdp", "pass", XDP_PASS).context("write an ELF object")?;
    fs::write(&path, octets).with_context(|| format!("write {}", path.display()))?;
    let path = path.display().to_string();
    // `ip` would do it in one step, and leave directories of its own on the bpf filesystem.
    let run = directory.file_name().unwrap_or_default().display();
    let pin = format!("/sys/fs/bpf/{run}-xdp-pass");
    namespace.output("bpftool", &["prog", "load", &path, &pin, "type", "xdp"])?;
    let attach = ["net", "attach", "xdpdrv", "pinned", &pin, "dev", interface];
    let attached = namespace.output("bpftool", &attach);
    fs::remove_file(&pin).with_context(|| format!("remove {pin}"))?;
    attached.map(drop)
}
