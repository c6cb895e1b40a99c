//! The error that wrong usage is.

/// The command line or the configuration file asks for something that cannot be meant.
///
/// Nothing has been touched when this is returned. The message names the flag or the field and
/// says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// A usage error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
