//! The settings of `run` on the command line.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use super::setting::{Kind, SettingFacts, Value};
use super::settings::{Origin, Settings};
use super::table::settings;

const CONFIG: &str = "config";

/// The command line of `run`: the file to read, and the settings that win over it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunArgs {
    /// YAML file with any of the settings.
    pub config: Option<PathBuf>,
    /// What the flags say.
    pub settings: Settings,
}

impl Args for RunArgs {
    fn augment_args(command: Command) -> Command {
        settings()
            .filter_map(argument)
            .fold(command.arg(config()), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RunArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        if let Some(config) = matches.get_one(CONFIG) {
            self.config = Some(PathBuf::clone(config));
        }
        for facts in settings().filter(|facts| facts.flag.is_some()) {
            if let Some(value) = value(facts, matches) {
                self.settings
                    .insert(facts.field, value, Origin::CommandLine);
            }
        }
        Ok(())
    }
}

fn config() -> Arg {
    let help = "YAML file with any of these settings";
    Arg::new(CONFIG)
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(help)
        .long_help(format!(
            "{help}\n\n\
             Each flag is a field of the same name in camel case (`--office-cidr` is `officeCidr`); those that may be \
             repeated take a list. Timeouts (`timeouts`) are set in the file only. A flag wins over its field."
        ))
}

fn argument(facts: &SettingFacts) -> Option<Arg> {
    let flag = facts.flag?;
    let help = match facts.default.shown() {
        Some(default) => format!("{} [default: {default}]", facts.doc),
        None => facts.doc.to_owned(),
    };
    let argument = Arg::new(facts.field)
        .long(flag.name)
        .value_name(flag.value_name)
        .help(help);
    Some(match facts.kind {
        Kind::Text => argument,
        Kind::Path => argument.value_parser(value_parser!(PathBuf)),
        Kind::List => argument.action(ArgAction::Append),
        Kind::Number => argument.value_parser(value_parser!(u32)),
        Kind::Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(value_parser!(bool)),
    })
}

fn value(facts: &SettingFacts, matches: &ArgMatches) -> Option<Value> {
    let field = facts.field;
    match facts.kind {
        Kind::Text => matches.get_one(field).cloned().map(Value::Text),
        Kind::Path => matches.get_one(field).cloned().map(Value::Path),
        Kind::List => {
            let texts = matches.get_many(field)?;
            Some(Value::List(texts.cloned().collect()))
        }
        Kind::Number => matches.get_one(field).copied().map(Value::Number),
        Kind::Switch => matches.get_one(field).copied().map(Value::Switch),
    }
}
