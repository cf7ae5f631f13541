//! The crate's error: one line that says what, where, found and allowed, and a kind for the caller's exit code.

/// What sort of thing went wrong; the message says what exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The model file's vocabulary is malformed, inconsistent or of an unsupported kind.
    Vocab,
    /// A text cannot be encoded: too long, or the vocabulary has no token for it.
    Text,
    /// A token id that the vocabulary does not have.
    TokenId,
    /// The chat template is absent, too large or has a construct that cannot be compiled.
    Template,
    /// Rendering failed: over a limit, or the template itself raised an error.
    Render,
    /// The caller's own arguments: a reserved template variable, for one.
    Argument,
}

/// An error of this crate.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The sort of error, for exit codes and HTTP statuses.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn vocab(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Vocab, message)
    }

    /// No token spells a byte of the text.
    pub(crate) fn unspelt(byte: u8) -> Self {
        let what = "and no token for unknown text";
        let message = format!("the vocabulary has no token for the byte {byte:#04x}, {what}");
        Self::new(ErrorKind::Text, message)
    }
}

/// A byte string for a message: quoted, control characters escaped, at most 80 characters.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    const MAX_CHARS: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_CHARS)]);
    let mut shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().count() > MAX_CHARS || bytes.len() > 4 * MAX_CHARS {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// A message of someone else's making on one line: control characters escaped, at most 200 characters.
pub(crate) fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let mut shown = String::new();
    for c in text.chars().take(MAX_CHARS) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
