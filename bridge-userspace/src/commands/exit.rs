//! What the process says to its caller: 0 fine, 1 failed, 2 wrong usage.

use std::process::ExitCode;

use crate::model::UsageError;

/// Everything that was asked for was done.
pub const SUCCESS: u8 = 0;
/// The request was understood and failed.
pub const FAILURE: u8 = 1;
/// The request itself is wrong: a flag, a field of the configuration file, or a contradiction
/// between them. The same number that clap uses.
pub const USAGE: u8 = 2;

/// The exit code for an error, wherever in its chain of causes the [`UsageError`] is.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(<dyn std::error::Error>::is::<UsageError>) {
        USAGE
    } else {
        FAILURE
    }
}

/// Prints the error with its causes on standard error and gives the exit code for it.
#[must_use]
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::from(SUCCESS),
        Err(error) => {
            eprintln!("office-bridge: {error:#}");
            ExitCode::from(code(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn wrong_usage_is_2_even_under_context() {
        let error = Err::<(), _>(UsageError::new("no such datapath"))
            .context("reading bridge.yaml")
            .unwrap_err();
        assert_eq!(code(&error), USAGE);
    }

    #[test]
    fn any_other_error_is_1() {
        assert_eq!(code(&anyhow::anyhow!("no such interface")), FAILURE);
    }
}
