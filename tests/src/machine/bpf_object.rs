//! BPF programs that do nothing but return a number, as a compiler would write them.

use anyhow::Result;
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// An ELF object with one program of this name that returns `value`. The section says of what kind it is (`xdp`,
/// `classifier`).
pub fn returning(section: &str, name: &str, value: i32) -> Result<Vec<u8>> {
    let endian = if cfg!(target_endian = "big") {
        Endianness::Big
    } else {
        Endianness::Little
    };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);
    let program = instructions(value).concat();
    let section = object.add_section(Vec::new(), section.into(), SectionKind::Text);
    object.append_section_data(section, &program, 8);
    object.add_symbol(Symbol {
        name: name.into(),
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

/// `r0 = value; exit` (RFC 9669 section 4): opcode, registers, offset, immediate.
fn instructions(value: i32) -> [[u8; 8]; 2] {
    let mut load = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    load[4..].copy_from_slice(&value.to_ne_bytes());
    [load, [0x95, 0, 0, 0, 0, 0, 0, 0]]
}
