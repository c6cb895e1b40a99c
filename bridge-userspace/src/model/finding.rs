//! What checks find: what is wrong or unwise, what it is about, why, and what helps.

use std::error::Error;
use std::fmt;

use super::Subject;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `run` works, but not all that might be expected does.
    Warning,
    /// `run` can't start.
    Error(Fault),
}

/// Where an error has its origin, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The request was understood, and this host can't do it: exit code 1.
    Host,
    /// The command line or the configuration file asks for something that cannot be meant: exit code 2.
    Usage,
}

/// One thing that a check has found.
///
/// As text it is one sentence with cause and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// What is wrong, as a sentence without its full stop.
    pub cause: String,
    /// What to do about it, in the same form.
    pub remedy: String,
}

impl Finding {
    /// An error of the command line or of the configuration file.
    pub fn usage(subject: Subject, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error(Fault::Usage), subject, cause, remedy)
    }

    /// Something about this host that keeps `run` from starting.
    pub fn failure(subject: Subject, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error(Fault::Host), subject, cause, remedy)
    }

    /// Something that `run` can live with.
    pub fn warning(subject: Subject, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, subject, cause, remedy)
    }

    fn new(
        severity: Severity,
        subject: Subject,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            subject,
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    /// Whether `run` can't start with it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity != Severity::Warning
    }

    /// Whether the request itself is wrong, which is exit code 2.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.severity == Severity::Error(Fault::Usage)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A second colon would read as if the remedy belonged to the first one.
        let joint = if self.cause.contains(": ") { ';' } else { ':' };
        write!(f, "{}{joint} {}", self.cause, self.remedy)
    }
}

impl Error for Finding {}

/// What checks have found, in the order of the checks.
///
/// As an error it shows all errors in it: one as a line, several as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding.
    pub fn push(&mut self, finding: impl Into<Finding>) {
        self.0.push(finding.into());
    }

    /// The value of a result; its error is a finding, or several.
    pub fn keep<T, E: Into<Findings>>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.extend(error.into());
                None
            }
        }
    }

    /// Keeps only the findings that `is_kept` says.
    pub fn retain(&mut self, is_kept: impl FnMut(&Finding) -> bool) {
        self.0.retain(is_kept);
    }

    /// Whether one of them is about this.
    #[must_use]
    pub fn concern(&self, subject: &Subject) -> bool {
        self.iter().any(|finding| finding.subject == *subject)
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All findings, warnings included.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// Whether `run` can't start.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    /// Whether the request itself is wrong, which is exit code 2.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.iter().any(Finding::is_usage)
    }

    /// The warnings, if there are no errors.
    ///
    /// # Errors
    /// All findings, if there is an error among them.
    pub fn into_warnings(self) -> Result<Self, Self> {
        if self.has_errors() {
            Err(self)
        } else {
            Ok(self)
        }
    }

    fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.iter().filter(|finding| finding.is_error())
    }
}

impl Extend<Finding> for Findings {
    fn extend<T: IntoIterator<Item = Finding>>(&mut self, findings: T) {
        self.0.extend(findings);
    }
}

impl FromIterator<Finding> for Findings {
    fn from_iter<T: IntoIterator<Item = Finding>>(findings: T) -> Self {
        Self(findings.into_iter().collect())
    }
}

impl<T: Into<Finding>> From<T> for Findings {
    fn from(finding: T) -> Self {
        Self(vec![finding.into()])
    }
}

impl IntoIterator for Findings {
    type Item = Finding;
    type IntoIter = std::vec::IntoIter<Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors: Vec<&Finding> = self.errors().collect();
        if let [error] = errors[..] {
            return error.fmt(f);
        }
        write!(f, "{} errors:", errors.len())?;
        for error in errors {
            write!(f, "\n- {}\n  remedy: {}", error.cause, error.remedy)?;
        }
        Ok(())
    }
}

impl Error for Findings {}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_btf() -> Finding {
        Finding::failure(Subject::Kernel, "the kernel has no BTF", "boot another one")
    }

    fn no_uplink() -> Finding {
        Finding::usage(
            Subject::Setting("uplink".into()),
            "--uplink is missing",
            "name an interface",
        )
    }

    fn no_forwarding() -> Finding {
        Finding::warning(
            Subject::Sysctl("net.ipv4.ip_forward".into()),
            "net.ipv4.ip_forward is 0",
            "set it to 1",
        )
    }

    #[test]
    fn one_error_is_one_line() {
        let findings: Findings = [no_forwarding(), no_btf()].into_iter().collect();
        assert_eq!(
            findings.to_string(),
            "the kernel has no BTF: boot another one"
        );
        let nested = Finding::usage(
            Subject::Setting("datapath".into()),
            "--datapath: `x` is no datapath",
            "write `auto`",
        );
        assert_eq!(
            nested.to_string(),
            "--datapath: `x` is no datapath; write `auto`"
        );
    }

    #[test]
    fn several_errors_are_a_list_with_each_remedy() {
        let findings: Findings = [no_btf(), no_forwarding(), no_uplink()]
            .into_iter()
            .collect();
        assert_eq!(
            findings.to_string(),
            "2 errors:\n- the kernel has no BTF\n  remedy: boot another one\n\
             - --uplink is missing\n  remedy: name an interface"
        );
    }

    #[test]
    fn warnings_keep_nothing_from_starting() {
        let warnings = Findings::from(no_forwarding());
        assert_eq!(warnings.clone().into_warnings(), Ok(warnings.clone()));
        let mut findings = warnings;
        findings.push(no_btf());
        assert_eq!(findings.clone().into_warnings(), Err(findings));
    }

    #[test]
    fn one_wrong_request_among_other_errors_is_wrong_usage() {
        let mut findings = Findings::from(no_btf());
        assert!(!findings.is_usage());
        findings.push(no_uplink());
        assert!(findings.is_usage());
    }
}
