//! Everything that `run` can be told, checked.
//!
//! Each family of settings has a file with a constant for each setting ([`SettingFacts`]: field, flag, kind, default and
//! what it is for) and the check of its values: `networks`, `cluster`, `datapath`, `nat`, `dns`, `http`, `host` and
//! `timeouts`. A new setting is a constant there, listed in its family's `SETTINGS`, and a field of [`Config`].
//!
//! `args` and `file` make [`Settings`], which are words, of the command line and of the YAML file: a flag `--office-cidr`
//! is a field `officeCidr`. [`Config`] is the checked form that the rest of the program uses. All checks that need
//! nothing but the words themselves are here; those that look at the machine are in `checks`.

mod args;
mod checked;
mod cluster;
mod datapath;
mod dns;
mod environment;
mod file;
mod host;
mod http;
mod nat;
mod networks;
mod setting;
mod settings;
mod table;
mod timeouts;
mod values;

pub use self::args::RunArgs;
pub use self::checked::Config;
pub use self::datapath::Datapath;
pub use self::dns::DnsConfig;
pub use self::environment::Environment;
pub use self::host::DEFAULT_PIN_PATH;
pub use self::http::HttpConfig;
pub use self::setting::{DefaultValue, Flag, Kind, SettingFacts};
pub use self::settings::Settings;
pub use self::table::settings;
pub use self::timeouts::Timeouts;
use crate::model::Findings;

impl Config {
    /// Reads the file that the flags name, lets the flags win, and checks the result; what neither says, the
    /// environment may. The second part of the result are warnings: settings that are allowed but unwise.
    ///
    /// # Errors
    /// All that is wrong, always as wrong usage: each finding names the flag or, for what stands in the file, the line
    /// and field. If the file as a whole can't be read, only that.
    pub fn load(flags: RunArgs, environment: Environment) -> Result<(Self, Findings), Findings> {
        let mut findings = Findings::default();
        let settings = match &flags.config {
            Some(path) => match file::read(path, &mut findings) {
                Some(file) => flags.settings.over(file),
                // What is missing then is no finding of its own.
                None => return Err(findings),
            },
            None => flags.settings,
        };
        let config = Self::check(&settings, environment, &mut findings);
        Ok((config, findings.into_warnings()?))
    }
}

#[cfg(test)]
impl RunArgs {
    /// The command line of these words.
    pub(crate) fn of(line: &str) -> Self {
        use clap::{Args, Command, FromArgMatches};

        let command = Self::augment_args(Command::new("run")).no_binary_name(true);
        let matches = command.try_get_matches_from(line.split_whitespace());
        Self::from_arg_matches(&matches.unwrap_or_else(|error| panic!("{error}"))).unwrap()
    }
}

#[cfg(test)]
impl Config {
    /// The uplink eth0, the office 192.168.0.0/22, the pods 10.244.0.0/16, and what these words say.
    pub(crate) fn example(line: &str) -> Self {
        let base = "--uplink eth0 --office-cidr 192.168.0.0/22 --pod-cidr 10.244.0.0/16";
        let args = RunArgs::of(&format!("{base} {line}"));
        Self::load(args, Environment::default()).unwrap().0
    }
}

#[cfg(test)]
mod tests;
