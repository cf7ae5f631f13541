//! The crate's one error type.

use std::fmt;

/// What sort of thing went wrong; callers choose an exit code or an HTTP status by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The file names an architecture that karat has no spec for.
    UnknownArchitecture,
    /// A key that the architecture needs is not in the file.
    MissingKey,
    /// A key holds another type of value than it must.
    WrongType,
    /// A hyper-parameter is out of range, or contradicts another.
    BadHyperParameter,
    /// A tensor is missing, unknown, or has another shape or format than the hyper-parameters say.
    BadTensor,
    /// The file is right, but asks for something that karat does not do (experts, a rope scaling type).
    Unsupported,
    /// Weights, cache and work buffers together exceed the memory that may be used.
    DoesNotFit,
    /// The cache is full: of positions, or of sequences with a state.
    CacheFull,
    /// A prompt is longer than the context.
    PromptTooLong,
    /// A request that no model could serve: an empty prompt, a token id out of the vocabulary, a bad sampler setting.
    BadRequest,
    /// The model computed NaN or infinite logits.
    NonFinite,
    /// The file's bytes could not be read.
    Read,
    /// A file could not be written.
    Write,
    /// The backend cannot run this graph.
    Backend,
    /// Memory could not be had.
    OutOfMemory,
    /// The caller stopped the work.
    Stopped,
    /// A sequence or step that breaks the engine's rules: a bug in the caller.
    Usage,
}

/// Why a model could not be understood, loaded or run: one line for people, a kind for programs.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; the message says what, where, found and allowed.
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
        let kind = match error.kind() {
            graph::ErrorKind::Shape => ErrorKind::BadTensor,
            graph::ErrorKind::Unsupported | graph::ErrorKind::DeviceLost => ErrorKind::Backend,
            graph::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            graph::ErrorKind::Read => ErrorKind::Read,
            graph::ErrorKind::Step => ErrorKind::Usage,
            graph::ErrorKind::Stopped => ErrorKind::Stopped,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<gguf::Error> for Error {
    fn from(error: gguf::Error) -> Self {
        Self::new(ErrorKind::Read, error.to_string())
    }
}
