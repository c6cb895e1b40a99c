//! What `bridge-common` lists: drop reasons and tables.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use bridge_common::abi::{LAYOUT_VERSION, TABLES, Table, TableKind};
use bridge_common::drops::DropReason;

use crate::markdown::{code, table};
use crate::source::{Kind, Source};

pub fn drop_reasons() -> String {
    let rows = DropReason::ALL.iter().map(|reason| {
        [
            code(reason.name()),
            reason.sender_gets().to_owned(),
            reason.meaning().to_owned(),
            reason.remedy().to_owned(),
        ]
    });
    format!(
        "# Drop reasons\n\nWhy packets went no further, as `office-bridge status` counts them (`drops` in JSON, \
         `office_bridge_dropped_packets_total` in the metrics). Most are answered, so that the sender knows at once; answers are \
         limited to 2,000 a second and CPU (`answer-suppressed`).\n\n{}",
        table(["reason", "the sender gets", "meaning", "what to do"], rows)
    )
}

pub fn tables() -> Result<String, Box<dyn Error>> {
    let source =
        Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../bridge-common/src/abi"))?;
    let rows = |is_pinned| {
        let chosen = TABLES
            .iter()
            .filter(move |table| table.is_pinned == is_pinned);
        chosen.map(|table| {
            [
                code(table.name),
                format!("{}, {}", table.kind.name(), capacity(table)),
                part(table.key, table.key_size),
                part(table.value, table.value_size),
                table.meaning.to_owned(),
            ]
        })
    };
    let head = ["table", "type, entries", "key", "value", "meaning"];
    let mut text = format!(
        "# Tables\n\nPinned below `/sys/fs/bpf/office-bridge/v{LAYOUT_VERSION}` (`pinPath`); {LAYOUT_VERSION} is the version of the \
         layout. Sizes are in bytes. Addresses are bytes in network order, ports numbers in host order, times seconds of \
         `CLOCK_MONOTONIC`. Who writes and who reads each: [architecture](../architecture.md#tables).\n\n{}\n\
         Not pinned, the programs' own:\n\n{}\n## Keys and values\n",
        table(head, rows(true)),
        table(head, rows(false))
    );
    let mut described = BTreeSet::new();
    for name in TABLES.iter().flat_map(|table| [table.key, table.value]) {
        describe(&source, name, &mut described, &mut text)?;
    }
    // Of the numbers only those that some field refers to.
    let referred = source.numbers().filter(|(name, _)| {
        let patterns = [format!("`{name}`"), format!("`{name}::")];
        patterns.iter().any(|pattern| text.contains(pattern))
    });
    let mut numbers = String::new();
    for (name, members) in referred {
        let rows = members.iter().map(|member| {
            [
                member.value.clone(),
                code(&member.ident),
                member.doc.clone(),
            ]
        });
        let rows = table(["number", "name", "meaning"], rows);
        write!(numbers, "\n### Numbers of {name}\n\n{rows}")?;
    }
    Ok(text + &numbers)
}

/// The fields of a key or value, and of the structs in it; each struct once.
fn describe(
    source: &Source,
    name: &str,
    described: &mut BTreeSet<String>,
    text: &mut String,
) -> Result<(), Box<dyn Error>> {
    if !source.has_struct(name) || !described.insert(name.to_owned()) {
        return Ok(());
    }
    // Padding is always 0.
    let fields: Vec<_> = source
        .fields(name)?
        .iter()
        .filter(|field| !field.name.starts_with("pad"))
        .collect();
    let rows = fields
        .iter()
        .map(|field| [code(&field.name), field.doc.clone()]);
    write!(
        text,
        "\n### {name}\n\n{}",
        table(["field", "meaning"], rows)
    )?;
    for field in fields {
        let mut kind = &field.kind;
        while let Kind::Array(inner) = kind {
            kind = inner;
        }
        if let Kind::Named(name) = kind {
            describe(source, name, described, text)?;
        }
    }
    Ok(())
}

fn capacity(table: &Table) -> String {
    let entries = grouped(table.capacity);
    match table.kind {
        TableKind::RingBuf => format!("{entries} bytes"),
        _ if table.is_per_flow => format!("{entries} (`flowCapacity`)"),
        _ => entries,
    }
}

/// A type with its size, where there is one.
fn part(name: &str, size: u32) -> String {
    match (name, size) {
        ("", _) => String::new(),
        (name, 0) => code(name),
        (name, size) => format!("{}, {size}", code(name)),
    }
}

/// The number with commas between thousands.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
