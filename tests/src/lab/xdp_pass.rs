//! An XDP program that passes every packet, for the far end of a cable.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

use crate::machine::netns::Namespace;

/// `r0 = XDP_PASS; exit` (RFC 9669 section 4): opcode, registers, offset, immediate.
const PROGRAM: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// Attaches it to `interface`, as a driver's own. A veth takes frames that the other end sends with `XDP_TX` only where
/// it has a program itself; with `gro` alone it queues them and never wakes up.
pub fn attach(namespace: &Namespace, interface: &str, directory: &Path) -> Result<()> {
    let path = directory.join("xdp-pass.o");
    let octets = elf().context("write an ELF object")?;
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

/// The program as compilers write it, which `bpftool` takes.
fn elf() -> Result<Vec<u8>> {
    let endian = if cfg!(target_endian = "big") {
        Endianness::Big
    } else {
        Endianness::Little
    };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);
    let program = PROGRAM.concat();
    let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    object.append_section_data(section, &program, 8);
    object.add_symbol(Symbol {
        name: b"pass".to_vec(),
        value: 0,
        size: program.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    Ok(object.write()?)
}
