//! The crate's one error type.

use std::fmt;

/// What sort of thing went wrong; callers choose an exit code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A graph whose parts do not fit together (a tensor's shape, an op's sizes).
    Shape,
    /// The backend cannot run an op, a format or a combination of them.
    Unsupported,
    /// Memory for weights, cache or work buffers could not be had.
    OutOfMemory,
    /// The file's bytes could not be read.
    Read,
    /// The device went away.
    DeviceLost,
    /// A step that does not agree with the graph or the cache.
    Step,
    /// Somebody wished that the step ends ([`crate::Stop`]).
    Stopped,
}

/// Why a graph could not be built, loaded or run: one line for people, a kind for programs.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; the message says what, where, found and allowed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
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
