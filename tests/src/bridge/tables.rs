//! The tables in the kernel as bpftool prints them.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::client::Client;

impl Client {
    /// Keys and values of a table, with their fields by name.
    pub fn entries(&self, table: &str) -> Result<Vec<(Value, Value)>> {
        let entries = self.dump_json(table)?;
        let part = |entry: &Value, name: &str| by_field_names(entry)[name].clone();
        Ok(entries
            .iter()
            .map(|entry| (part(entry, "key"), part(entry, "value")))
            .collect())
    }

    /// The value of this key, with its fields by name; `None` where there is none.
    pub fn lookup(&self, table: &str, key: &[u8]) -> Result<Option<Value>> {
        let mut command = self.namespace().command("bpftool");
        command
            .args(["-j", "map", "lookup", "pinned"])
            .arg(self.table(table)?)
            .arg("key")
            .args(key.iter().map(u8::to_string));
        let output = command.output().context("run bpftool")?;
        // Where there is no such key it prints `null` and fails; other failures are objects with `error`.
        let entry: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("read what bpftool prints of {table}"))?;
        if entry.is_null() {
            return Ok(None);
        }
        ensure!(output.status.success(), "look up in {table}: {entry}");
        Ok(Some(by_field_names(&entry)["value"].clone()))
    }

    /// All entries of a table as text, in an order that does not depend on the kernel's: to compare two dumps.
    pub fn dump(&self, table: &str) -> Result<Vec<String>> {
        // Not read as JSON: of ten thousand services it is tens of megabytes.
        let text = self.bpftool("dump", table, &[])?;
        let mut entries: Vec<String> = text
            .split("{\"key\":[")
            .skip(1)
            .map(|entry| entry.trim_end_matches([',', ']', '\n']).to_owned())
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// The keys of a table, octet by octet as `bpftool map delete` takes them.
    pub fn keys(&self, table: &str) -> Result<Vec<Vec<String>>> {
        let octets = |entry: &Value| -> Option<Vec<String>> {
            let key = entry["key"].as_array()?;
            key.iter()
                .map(|octet| octet.as_str().map(str::to_owned))
                .collect()
        };
        let entries = self.dump_json(table)?;
        entries
            .iter()
            .map(|entry| octets(entry).with_context(|| format!("a key that is no octets: {entry}")))
            .collect()
    }

    /// Deletes every entry of a table.
    pub fn delete_all(&self, table: &str) -> Result<()> {
        for key in self.keys(table)? {
            let words: Vec<&str> = ["key"]
                .into_iter()
                .chain(key.iter().map(String::as_str))
                .collect();
            self.bpftool("delete", table, &words)?;
        }
        Ok(())
    }

    fn dump_json(&self, table: &str) -> Result<Vec<Value>> {
        let text = self.bpftool("dump", table, &[])?;
        serde_json::from_str(&text).with_context(|| format!("read what bpftool prints of {table}"))
    }

    fn bpftool(&self, verb: &str, table: &str, words: &[&str]) -> Result<String> {
        let path = self.table(table)?.display().to_string();
        let arguments = [&["-j", "map", verb, "pinned", &path], words].concat();
        self.namespace().output("bpftool", &arguments)
    }
}

/// Newer bpftools put what has field names beside the raw octets.
fn by_field_names(entry: &Value) -> &Value {
    entry.get("formatted").unwrap_or(entry)
}
