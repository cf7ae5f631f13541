//! The error of this crate: one line that says what, where, what was found, what is allowed, and a hint.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest piece of a file's contents that an error repeats, in characters.
const MAX_VALUE_CHARS: usize = 200;

/// Why a file could not be used; decides the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no file at the path.
    NotFound,
    /// The path is a directory, a pipe, a device or a socket.
    NotRegularFile,
    /// The operating system failed to open, read or map the file.
    Io,
    /// The file got shorter or was rewritten after it was opened.
    Changed,
    /// The file is something else than GGUF.
    NotGguf,
    /// The file ends before what its header promises: an incomplete download.
    Truncated,
    /// The file contradicts the format or itself.
    Malformed,
    /// Valid, but of a version or with a tensor type that karat does not read.
    Unsupported,
    /// A size in the file is over one of [`crate::Limits`].
    Limit,
    /// A key that was asked for is not in the file.
    MissingKey,
    /// A key holds another type of value, or a value out of range.
    BadKey,
    /// Memory for a tensor or a header could not be had.
    OutOfMemory,
    /// A caller of [`crate::Writer`] or [`crate::File`] broke its rules (a bug in the program, not in the file).
    Usage,
}

/// Why a file could not be read or written. Prints as one line.
#[derive(Debug, thiserror::Error)]
#[error("{repr}")]
pub struct Error {
    repr: Box<Repr>,
}

#[derive(Debug)]
struct Repr {
    kind: ErrorKind,
    file: Option<PathBuf>,
    subject: Option<String>,
    what: String,
    place: Option<(&'static str, u64)>,
    hint: Option<&'static str>,
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.repr.kind
    }

    /// The file that the error is about, where it is about a file on disk.
    pub fn file(&self) -> Option<&Path> {
        self.repr.file.as_deref()
    }

    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self {
            repr: Box::new(Repr { kind, file: None, subject: None, what, place: None, hint: None }),
        }
    }

    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, what)
    }

    /// Names the key or tensor; the innermost name, set first, wins.
    pub(crate) fn about(mut self, subject: impl FnOnce() -> String) -> Self {
        if self.repr.subject.is_none() {
            self.repr.subject = Some(subject());
        }
        self
    }

    /// Section of the file and byte offset in it.
    pub(crate) fn at(mut self, section: &'static str, offset: u64) -> Self {
        if self.repr.place.is_none() {
            self.repr.place = Some((section, offset));
        }
        self
    }

    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.repr.hint = Some(hint);
        self
    }

    pub(crate) fn in_file(mut self, path: Option<&Path>) -> Self {
        if self.repr.file.is_none() {
            self.repr.file = path.map(Path::to_path_buf);
        }
        self
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", Shown(&file.to_string_lossy()))?;
        }
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some((section, offset)) = self.place {
            write!(f, " ({section}, offset {offset})")?;
        }
        match self.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Prints text that came from a file: control and direction-changing characters escaped, cut at 200 characters.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.chars().enumerate() {
            if i == MAX_VALUE_CHARS {
                return write!(f, "… ({} bytes)", self.0.len());
            }
            if needs_escape(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// Line breaks and terminal escapes would break the one line; direction marks would reorder it.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `key "general.alignment"`, fit to print.
pub(crate) fn key_subject(key: &str) -> String {
    format!("key \"{}\"", Shown(key))
}

/// `tensor "blk.0.attn_q.weight"`, fit to print.
pub(crate) fn tensor_subject(name: &str) -> String {
    format!("tensor \"{}\"", Shown(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_everything() {
        let error = Error::malformed("found 13, allowed 1")
            .about(|| key_subject("a\nb\u{1b}[31m"))
            .at("metadata", 42)
            .hint("look again")
            .in_file(Some(Path::new("x\ny.gguf")));
        let text = error.to_string();
        assert_eq!(
            text,
            "x\\ny.gguf: key \"a\\nb\\u{1b}[31m\": found 13, allowed 1 (metadata, offset 42); hint: look again"
        );
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn long_values_are_cut() {
        let long = "é".repeat(5000);
        let text = Shown(&long).to_string();
        assert_eq!(text, format!("{}… (10000 bytes)", "é".repeat(200)));
    }
}
