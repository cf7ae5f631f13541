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

/// Standard output.
pub(crate) struct Out {
    stdout: std::io::Stdout,
    escape: bool,
}

impl Out {
    /// Standard output as it is now.
    pub(crate) fn new(controls: Controls) -> Self {
        let stdout = std::io::stdout();
        let escape = controls == Controls::Escaped && stdout.is_terminal();
        Self { stdout, escape }
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
