//! Tables for people.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};

/// Prints rows below headings; `nothing` when there are none.
pub(super) fn print(
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    nothing: &str,
) -> anyhow::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(headings.iter().copied());
    let mut is_empty = true;
    for row in rows {
        table.add_row(row);
        is_empty = false;
    }
    if is_empty {
        return write_out(&format!("{nothing}\n"));
    }
    write_out(&format!("{}\n", table.trim_fmt()))
}

/// Writes to standard output; a reader that has seen enough is no error.
pub(super) fn write_out(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
