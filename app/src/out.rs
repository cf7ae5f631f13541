//! Standard output: written and flushed with errors passed on, terminal escapes made harmless.

use crate::exit::is_closed_pipe;
use karat::text::{for_terminal, safe_json};
use std::io::{Error, ErrorKind, IsTerminal, Write};

/// Whether control characters of the model reach a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controls {
    /// Escaped where stdout is a terminal.
    Escaped,
    /// As they are.
    Raw,
}

/// A terminal's dim letters, and its plain ones.
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Standard output.
pub(crate) struct Out {
    stdout: std::io::Stdout,
    escape: bool,
    is_terminal: bool,
    /// Whether what was printed last is a thought.
    thinking: bool,
}

impl Out {
    /// Standard output as it is now.
    pub(crate) fn new(controls: Controls) -> Self {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let escape = controls == Controls::Escaped && is_terminal;
        Self { stdout, escape, is_terminal, thinking: false }
    }

    /// Writes what of an answer is thought, dim, and what is said. Only a terminal has thoughts: what reads a pipe wants the
    /// answer.
    pub(crate) fn said(&mut self, thought: &str, text: &str) -> std::io::Result<()> {
        if self.is_terminal && !thought.is_empty() {
            let begin = if self.thinking { "" } else { DIM };
            self.thinking = true;
            self.plain(begin)?;
            self.text(thought)?;
        }
        if !text.is_empty() {
            self.end_thought()?;
        }
        self.text(text)
    }

    /// Ends a thought that was begun: the answer stands below it.
    pub(crate) fn end_thought(&mut self) -> std::io::Result<()> {
        if !std::mem::take(&mut self.thinking) {
            return Ok(());
        }
        self.plain(PLAIN)?;
        self.text("\n\n")
    }

    /// Writes a sequence of karat's own.
    fn plain(&mut self, sequence: &str) -> std::io::Result<()> {
        self.stdout.lock().write_all(sequence.as_bytes())
    }

    /// Writes and flushes: text is streamed.
    pub(crate) fn text(&mut self, text: &str) -> std::io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = self.stdout.lock();
        let written = if self.escape {
            stdout.write_all(for_terminal(text).as_bytes())
        } else {
            stdout.write_all(text.as_bytes())
        };
        // With a text of its own an error has lost the system's number.
        let kind = |e: &Error| if is_closed_pipe(e) { ErrorKind::BrokenPipe } else { e.kind() };
        let named = |e: Error| Error::new(kind(&e), format!("standard output: {e}"));
        written.and_then(|()| stdout.flush()).map_err(named)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: &str) -> std::io::Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Writes a value as JSON on a line of its own.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        Ok(self.line(&safe_json(&serde_json::to_string(value)?))?)
    }
}
