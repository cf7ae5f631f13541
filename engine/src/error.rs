//! The crate's one error type: a line for people, a kind for programs.

use crate::text::one_line;
use std::fmt;

/// What sort of thing went wrong. A program decides by it what to do next: which exit code, which HTTP status, whether
/// to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// An option, a source string, a setting of the environment or the catalogue cannot be what was meant.
    Usage,
    /// The model file is malformed, unsupported or inconsistent.
    ModelFile,
    /// There is no such file, and no model of that name.
    NotFound,
    /// A file cannot be read or written.
    Io,
    /// None of a model's sources gave it.
    Fetch,
    /// A file in the cache is not what was fetched.
    Damaged,
    /// Weights, cache and work memory together are more than there is, or the cache is full.
    DoesNotFit,
    /// There is no such device, or it failed, or it computes wrong numbers.
    Device,
    /// This model cannot serve this request: a prompt over the context, a template that refuses it.
    Rejected,
    /// The caller stopped the work.
    Stopped,
    /// A bug in karat.
    Internal,
}

/// Why something did not work. Its text is one line: what, where, what was found, what is allowed; and a hint, where
/// there is something that can be done about it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    option: Option<&'static str>,
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; the message says what, where, what was found and what is allowed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, option: None }
    }

    /// Adds what can be done about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the option that the error is about, or that helps. The text does not end with it.
    #[must_use]
    pub fn with_option(mut self, option: &'static str) -> Self {
        self.option = Some(option);
        self
    }

    /// Puts before the message where it happened, such as a file's name.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What can be done about it. The text of the error ends with it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The option of [`crate::Options`] that it is about, or that helps: a program can say how its users set that.
    pub fn option(&self) -> Option<&'static str> {
        self.option
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Errors of the crates below: the text stays, and the kind is the nearest of ours.
macro_rules! from_errors {
    ($($error:path),*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::new(error.kind().into(), error.to_string())
            }
        }
    )*};
}

from_errors!(gguf::Error, graph::Error, tokenizer::Error, why::Error);

impl From<model::Error> for Error {
    fn from(error: model::Error) -> Self {
        let ours = Self::new(error.kind().into(), error.to_string());
        if error.kind() == model::ErrorKind::PromptTooLong {
            return ours.with_option("ctx_size");
        }
        if error.kind() == model::ErrorKind::CacheFull {
            let hint = "Options::sequences makes room for more at the same time; dropped ones make room, too";
            return ours.with_option("sequences").with_hint(hint);
        }
        ours
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, one_line(&error.to_string()))
    }
}

impl From<gguf::ErrorKind> for ErrorKind {
    fn from(kind: gguf::ErrorKind) -> Self {
        use gguf::ErrorKind as K;
        match kind {
            K::NotFound => Self::NotFound,
            K::NotRegularFile | K::Io | K::Changed => Self::Io,
            K::NotGguf | K::Truncated | K::Malformed | K::Unsupported | K::Limit => Self::ModelFile,
            K::MissingKey | K::BadKey => Self::ModelFile,
            K::OutOfMemory => Self::DoesNotFit,
            K::Usage => Self::Internal,
        }
    }
}

impl From<model::ErrorKind> for ErrorKind {
    fn from(kind: model::ErrorKind) -> Self {
        use model::ErrorKind as K;
        match kind {
            K::UnknownArchitecture | K::MissingKey | K::WrongType | K::BadHyperParameter => {
                Self::ModelFile
            }
            K::BadTensor | K::Unsupported | K::NonFinite => Self::ModelFile,
            K::Read | K::Write => Self::Io,
            K::DoesNotFit | K::CacheFull | K::OutOfMemory => Self::DoesNotFit,
            K::Backend => Self::Device,
            K::PromptTooLong | K::BadRequest => Self::Rejected,
            K::Stopped => Self::Stopped,
            K::Usage => Self::Internal,
        }
    }
}

impl From<tokenizer::ErrorKind> for ErrorKind {
    fn from(kind: tokenizer::ErrorKind) -> Self {
        use tokenizer::ErrorKind as K;
        match kind {
            K::Vocab => Self::ModelFile,
            K::Text | K::TokenId | K::Template | K::Render | K::Argument => Self::Rejected,
        }
    }
}

impl From<graph::ErrorKind> for ErrorKind {
    fn from(kind: graph::ErrorKind) -> Self {
        use graph::ErrorKind as K;
        match kind {
            K::Shape => Self::ModelFile,
            K::Unsupported | K::DeviceLost => Self::Device,
            K::OutOfMemory => Self::DoesNotFit,
            K::Read => Self::Io,
            K::Step => Self::Internal,
            K::Stopped => Self::Stopped,
        }
    }
}

impl From<why::ErrorKind> for ErrorKind {
    fn from(kind: why::ErrorKind) -> Self {
        match kind {
            why::ErrorKind::Io => Self::Io,
            why::ErrorKind::Trace => Self::ModelFile,
            why::ErrorKind::Run(kind) => kind.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_message_and_hint_stand_on_one_line() {
        let error = Error::new(ErrorKind::Usage, "threads: 0").with_hint("1 and more").at("a.gguf");
        assert_eq!(error.to_string(), "a.gguf: threads: 0; hint: 1 and more");
        assert_eq!((error.kind(), error.hint()), (ErrorKind::Usage, Some("1 and more")));
    }

    #[test]
    fn errors_of_the_crates_below_keep_their_text() {
        let below = gguf::File::open("no such file", gguf::Access::Pread).unwrap_err();
        let text = below.to_string();
        let error = Error::from(below);
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::NotFound, text));
    }
}
