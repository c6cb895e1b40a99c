//! Everything that `run` can be told, checked.
//!
//! [`RunArgs`] is the raw form and the same type for the command line and the YAML file: a
//! flag `--office-cidr` is a field `officeCidr`. [`Config`] is the checked form that the rest of
//! the program uses. All checks that need nothing but the words themselves are here;
//! those that look at the machine are in [`crate::checks`].

mod args;
mod check;
mod checked;
mod defaults;
mod environment;
mod file;
mod timeouts;

pub use self::args::{ClusterChoice, RunArgs};
pub use self::checked::{Config, Datapath, DnsConfig};
pub use self::defaults::{
    DEFAULT_CLUSTER_DOMAIN, DEFAULT_FLOW_CAPACITY, DEFAULT_HTTP_LISTEN, DEFAULT_PIN_PATH,
};
pub use self::environment::Environment;
pub use self::timeouts::{TimeoutArgs, Timeouts};
use crate::model::UsageError;

impl Config {
    /// Reads the file that the flags name, lets the flags win, and checks the result; what neither says, the
    /// environment may.
    ///
    /// The second part of the result are remarks about settings that are allowed but unwise.
    ///
    /// # Errors
    /// Always a [`UsageError`]: it names the flag or the field, for the file also the line.
    pub fn load(
        flags: RunArgs,
        environment: Environment,
    ) -> Result<(Self, Vec<String>), UsageError> {
        let merged = match &flags.config {
            Some(path) => {
                let file = file::read(path)?;
                let source = path.display().to_string();
                check::Settings::merge(flags, Some((file, source)))
            }
            None => check::Settings::merge(flags, None),
        };
        merged.check(environment)
    }
}

#[cfg(test)]
mod tests;
