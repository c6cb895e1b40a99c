//! Pieces of Markdown.

/// A table. Cells are Markdown; what would end a cell is escaped.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: &[String; N]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.map(ToOwned::to_owned));
    text.push('|');
    text.push_str(&"---|".repeat(N));
    text.push('\n');
    for row in rows {
        text.push_str(&line(
            &row.map(|cell| cell.replace('|', "\\|").replace('\n', " ")),
        ));
    }
    text
}

/// A code span, or nothing for an empty text.
pub fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

/// Several code spans.
pub fn codes<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let spans: Vec<String> = texts.into_iter().map(|text| code(text.as_ref())).collect();
    spans.join(", ")
}
