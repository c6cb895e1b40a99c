//! The fields of the configuration's file.

use std::error::Error;

use bridge_userspace::commands::cli::Cli;
use bridge_userspace::config::RunArgs;
use clap::{Arg, CommandFactory as _};
use serde_json::{Value, json};

use crate::flags::{default, help, usage};
use crate::markdown::{code, table};
use crate::source::{Kind, Member, Source};

pub fn page(source: &Source) -> Result<String, Box<dyn Error>> {
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").ok_or("there is no `run`")?;
    let flags: Vec<&Arg> = run.get_arguments().collect();
    let mut rows = Vec::new();
    let mut groups = String::new();
    for field in source.fields("RunArgs")? {
        if let Kind::Named(group) = &field.kind
            && source.has_struct(group)
        {
            groups.push_str(&timeouts(source, field, group)?);
            continue;
        }
        is_read(&field.name, &[json!(null), json!([])])?;
        let flag = flags
            .iter()
            .find(|flag| flag.get_id().as_str() == field.ident)
            .ok_or_else(|| format!("{}: no flag of that name", field.name))?;
        rows.push([
            code(&field.name),
            code(&usage(flag)),
            default(flag),
            help(flag),
        ]);
    }
    Ok(format!(
        "# Configuration\n\n\
         The fields of the YAML file that `--config` names. Each has a flag; a flag wins over its field. A field whose flag \
         may be repeated (`…`) takes a text or a list, and the flag wins over the list as a whole. An example with every field: \
         [Configure](../guide/configure.md).\n\n{}{groups}",
        table(["field", "flag", "default", "meaning"], rows)
    ))
}

/// The idle times. What the checked form says of each is more than what the raw one does.
fn timeouts(source: &Source, field: &Member, group: &str) -> Result<String, Box<dyn Error>> {
    let raw = source.fields(group)?;
    let checked = source.fields("Timeouts")?;
    let mut rows = Vec::new();
    for member in raw {
        is_read(&field.name, &[json!({ &member.name: 1 })])?;
        let described = checked
            .iter()
            .find(|described| described.ident == member.ident)
            .ok_or_else(|| format!("Timeouts has no {}", member.ident))?;
        rows.push([
            code(&format!("{}.{}", field.name, member.name)),
            described.doc.clone(),
        ]);
    }
    Ok(format!(
        "\n## {}\n\nSeconds of silence after which a flow ends; in the file only.\n\n{}",
        field.name,
        table(["field", "meaning"], rows)
    ))
}

/// Makes sure that the program knows a field with one of these values.
fn is_read(field: &str, values: &[Value]) -> Result<(), Box<dyn Error>> {
    let known = values
        .iter()
        .any(|value| serde_json::from_value::<RunArgs>(json!({ field: value })).is_ok());
    if known {
        Ok(())
    } else {
        Err(format!("the program does not read the field {field}").into())
    }
}
