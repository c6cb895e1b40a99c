//! What the process says to its caller: 0 fine, 1 failed, 2 wrong usage.

use std::process::ExitCode;

use crate::model::{Finding, Findings};

/// Everything that was asked for was done.
pub const SUCCESS: u8 = 0;
/// The request was understood and failed.
pub const FAILURE: u8 = 1;
/// The request itself is wrong: a flag, a field of the configuration file, or a contradiction
/// between them. The same number that clap uses.
pub const USAGE: u8 = 2;

/// The exit code for an error, wherever in its chain of causes a [`Finding`] of wrong usage is.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    let is_usage = error.chain().any(|cause| {
        let finding = cause.downcast_ref().is_some_and(Finding::is_usage);
        finding || cause.downcast_ref().is_some_and(Findings::is_usage)
    });
    if is_usage { USAGE } else { FAILURE }
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
    use crate::model::Subject;

    fn no_such_datapath() -> Finding {
        let setting = Subject::Setting("datapath".into());
        Finding::usage(setting, "`x` is no datapath", "write `auto`")
    }

    fn no_btf() -> Finding {
        Finding::failure(Subject::Kernel, "the kernel has no BTF", "boot another one")
    }

    #[test]
    fn wrong_usage_is_2_even_under_context() {
        let error = Err::<(), _>(no_such_datapath())
            .context("reading bridge.yaml")
            .unwrap_err();
        assert_eq!(code(&error), USAGE);
    }

    #[test]
    fn wrong_usage_among_other_findings_is_2() {
        let findings: Findings = [no_btf(), no_such_datapath()].into_iter().collect();
        assert_eq!(code(&findings.into()), USAGE);
        assert_eq!(code(&Findings::from(no_btf()).into()), FAILURE);
    }

    #[test]
    fn any_other_error_is_1() {
        assert_eq!(code(&anyhow::anyhow!("no such interface")), FAILURE);
        assert_eq!(code(&no_btf().into()), FAILURE);
    }
}
