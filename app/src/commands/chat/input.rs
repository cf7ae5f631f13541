//! Messages from a terminal, with editing and history, or from a pipe. A message may have several lines.

use super::slash::COMMANDS;
use crate::exit::{Code, failure, say};
use anyhow::{Context as _, Result};
use karat::Config;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;
use tokenizer::MAX_TEXT_BYTES;

/// Opens and closes a message of several lines.
const QUOTE: &str = "\"\"\"";

/// Where messages come from.
pub(super) enum Input {
    /// A person, and the file of what they said before; `None` where there is no place for it.
    Terminal(Box<Editor<Lines, FileHistory>>, Option<PathBuf>),
    /// A pipe or a file.
    Pipe,
}

impl Input {
    /// Standard input.
    pub(super) fn new(config: &Config) -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let broken = |error: ReadlineError| failure(Code::Io, format!("terminal: {error}"));
        let mut editor = Editor::new().map_err(broken)?;
        editor.set_helper(Some(Lines));
        let history = history_file(config);
        if let Some(path) = history.as_deref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            say("warning", &format!("history {}: {error}", karat::text::path(path)));
        }
        Ok(Self::Terminal(Box::new(editor), history))
    }

    /// Whether a person types.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(..))
    }

    /// The next message; `None` at the end of the input.
    pub(super) fn read(&mut self) -> Result<Option<String>> {
        let Self::Terminal(editor, _) = self else {
            return read_pipe(&mut std::io::stdin().lock());
        };
        loop {
            match editor.readline("> ") {
                Ok(text) => {
                    // A history that cannot take a line is no reason to stop.
                    let _ = editor.add_history_entry(text.as_str());
                    return Ok(Some(unquote(&text)));
                }
                Err(ReadlineError::Interrupted) => say("karat", "Ctrl-D or /exit leaves"),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Io(error)) => return Err(error).context("terminal"),
                Err(error) => return Err(failure(Code::Io, format!("terminal: {error}"))),
            }
        }
    }

    /// Keeps what was said for the next time.
    pub(super) fn save(&mut self) {
        if let Self::Terminal(editor, Some(path)) = self
            && let Err(error) = editor.save_history(path)
        {
            say("warning", &format!("history {}: {error}", karat::text::path(path)));
        }
    }
}

fn history_file(config: &Config) -> Option<PathBuf> {
    let dir = config.state_dir().ok()?;
    match std::fs::create_dir_all(dir) {
        Ok(()) => Some(dir.join("chat_history")),
        Err(error) => {
            say(
                "warning",
                &format!("{}: {error}; the history is not kept", karat::text::path(dir)),
            );
            None
        }
    }
}

/// The next message of a pipe. At the end of the input an open message counts as complete.
fn read_pipe(from: &mut dyn BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let left = (MAX_TEXT_BYTES - bytes.len().min(MAX_TEXT_BYTES)) as u64;
        let n = from.take(left).read_until(b'\n', &mut bytes).context("standard input")?;
        if bytes.len() >= MAX_TEXT_BYTES {
            return Err(failure(Code::Rejected, format!("message: over {MAX_TEXT_BYTES} bytes")));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            failure(Code::Usage, format!("standard input: not UTF-8 ({error})"))
        })?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if n == 0 && bytes.is_empty() {
            return Ok(None);
        }
        if n == 0 || !is_open(text) {
            return Ok(Some(unquote(text)));
        }
    }
}

/// Whether the message goes on in the next line.
fn is_open(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTE) {
        Some(rest) => !rest.trim_end().ends_with(QUOTE),
        None => text.ends_with('\\'),
    }
}

/// The message without the marks that held its lines together.
fn unquote(text: &str) -> String {
    match text.trim_start().strip_prefix(QUOTE) {
        Some(rest) => {
            let rest = rest.trim_end();
            rest.strip_suffix(QUOTE).unwrap_or(rest).trim_matches('\n').to_owned()
        }
        None => text.replace("\\\r\n", "\n").replace("\\\n", "\n"),
    }
}

/// Tells the editor when a message is complete, and completes the names of commands.
pub(super) struct Lines;

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Completer for Lines {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..position).unwrap_or(line);
        let names = COMMANDS.iter().map(|(name, _)| *name);
        let fits = names.filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, fits.map(str::to_owned).collect()))
    }
}

impl Hinter for Lines {
    type Hint = String;
}
impl Highlighter for Lines {}
impl Helper for Lines {}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(mut input: &[u8]) -> Vec<String> {
        std::iter::from_fn(|| read_pipe(&mut input).unwrap()).collect()
    }

    #[test]
    fn lines_and_blocks() {
        assert_eq!(messages(b""), [""; 0]);
        assert_eq!(messages(b"a\nb"), ["a", "b"]);
        assert_eq!(messages(b"a\r\n\nb\n"), ["a", "", "b"]);
        assert_eq!(messages(b"one\\\ntwo\nthree\n"), ["one\ntwo", "three"]);
        assert_eq!(messages(b"\"\"\"\na\n\nb\n\"\"\"\nc\n"), ["a\n\nb", "c"]);
        assert_eq!(messages(b"\"\"\"one line\"\"\"\nc"), ["one line", "c"]);
        assert_eq!(messages(b"\"\"\"never closed\nb"), ["never closed\nb"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let error = read_pipe(&mut b"\xff\n".as_slice()).unwrap_err();
        assert_eq!(crate::exit::code(&error), Code::Usage);
    }
}
