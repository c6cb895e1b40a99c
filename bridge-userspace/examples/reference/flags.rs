//! The command line.

use std::error::Error;

use bridge_userspace::commands::cli::Cli;
use clap::builder::{PossibleValue, Str};
use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::markdown::{code, codes, table};
use crate::source::Source;

pub fn page(_: &Source) -> Result<String, Box<dyn Error>> {
    let mut cli = Cli::command();
    cli.build();
    let about = cli.get_about().ok_or("the program is not described")?;
    let after = cli.get_after_help().ok_or("exit codes are not described")?;
    let mut parts = vec!["# Flags".to_owned(), sentences(&about.to_string())];
    for command in cli.get_subcommands() {
        describe(command, "office-bridge", &mut parts);
    }
    parts.push(format!("## Exit codes\n\n{after}\n"));
    Ok(parts.join("\n\n"))
}

fn describe(command: &Command, parent: &str, parts: &mut Vec<String>) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    if command.has_subcommands() {
        for command in command.get_subcommands() {
            describe(command, &name, parts);
        }
        return;
    }
    parts.push(format!("## {name}"));
    let about = command.get_long_about().or_else(|| command.get_about());
    parts.extend(about.map(|about| sentences(&about.to_string())));
    let flags = command.get_arguments().filter(|flag| !is_common(flag));
    let table = table(
        ["flag", "default", "meaning"],
        flags.map(|flag| [code(&usage(flag)), default(flag), help(flag)]),
    );
    parts.push(table.trim_end().to_owned());
}

/// Those that every command has.
fn is_common(flag: &Arg) -> bool {
    matches!(flag.get_id().as_str(), "help" | "version")
}

/// The flag with its value, as it is typed.
pub fn usage(flag: &Arg) -> String {
    let short = flag.get_short().map(|short| format!("-{short}"));
    let long = flag.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let names = names.join(", ");
    if !flag.get_action().takes_values() {
        return names;
    }
    let values = flag.get_value_names().unwrap_or_default();
    let value: Vec<&str> = values.iter().map(Str::as_str).collect();
    let value = value.join(" ");
    let is_optional = flag
        .get_num_args()
        .is_some_and(|range| range.min_values() == 0);
    let more = if matches!(flag.get_action(), ArgAction::Append) {
        "…"
    } else {
        ""
    };
    if is_optional {
        format!("{names}[={value}]{more}")
    } else {
        format!("{names} {value}{more}")
    }
}

/// The help, with the values that can be chosen from.
pub fn help(flag: &Arg) -> String {
    let mut text = described(flag).0;
    if flag.get_action().takes_values() {
        let values = flag.get_possible_values();
        let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        if !names.is_empty() && names != ["true", "false"] {
            text = format!("{text} One of {}.", codes(names));
        }
    }
    text
}

/// What holds without the flag: clap's own default, or what the help says at its end.
pub fn default(flag: &Arg) -> String {
    let values = flag.get_default_values().iter();
    let own = codes(values.map(|value| value.to_string_lossy()));
    if own.is_empty() {
        described(flag).1
    } else {
        own
    }
}

/// The help without the default at its end, and that default.
fn described(flag: &Arg) -> (String, String) {
    let help = flag.get_long_help().or_else(|| flag.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let parts = help
        .strip_suffix(']')
        .and_then(|help| help.rsplit_once("[default: "));
    match parts {
        Some((text, default)) if !default.contains(' ') => (sentences(text), code(default)),
        Some((text, default)) => (sentences(text), default.to_owned()),
        None => (sentences(&help), String::new()),
    }
}

/// The paragraphs on one line, with full stops: clap takes them away from doc comments.
pub fn sentences(text: &str) -> String {
    let paragraphs = text.trim().split("\n\n").map(|paragraph| {
        let line = paragraph.replace('\n', " ");
        let line = line.trim();
        if line.is_empty() || line.ends_with(['.', ':']) {
            line.to_owned()
        } else {
            format!("{line}.")
        }
    });
    paragraphs.collect::<Vec<_>>().join(" ")
}
