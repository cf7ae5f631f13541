//! The crate's one error type.

use std::fmt;

/// What sort of thing went wrong; callers choose an exit code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A trace that cannot be read or written.
    Io,
    /// A file that is no trace, or one of another model or prompt.
    Trace,
    /// A step that failed on a side.
    Run(graph::ErrorKind),
}

/// Why a side could not be recorded or judged: one line for people, a kind for programs.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<graph::Error> for Error {
    fn from(error: graph::Error) -> Self {
        Self::new(ErrorKind::Run(error.kind()), error.to_string())
    }
}
