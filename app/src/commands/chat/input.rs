//! Messages from a terminal, with editing and history, or from a pipe. A message may have several lines.

use super::slash::COMMANDS;
use crate::exit::{Code, failure, say};
use anyhow::{Context as _, Result};
use karat::Config;
#[cfg(unix)]
use nix::fcntl::{FcntlArg, OFlag, fcntl};
#[cfg(unix)]
use nix::poll::{PollFd, PollFlags, poll};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::cell::RefCell;
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokenizer::MAX_TEXT_BYTES;

/// Opens and closes a message of several lines.
const QUOTE: &str = "\"\"\"";

/// The line editor.
type TerminalEditor = Editor<Lines, FileHistory>;

/// Where messages come from.
pub(super) enum Input {
    /// A person, and the file of what they said before; `None` where there is no place for it.
    Terminal(Box<TerminalEditor>, Option<PathBuf>),
    /// A pipe or a file.
    Pipe,
}

impl Input {
    /// Standard input.
    pub(super) fn new(config: &Config) -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let mut editor = Editor::new().map_err(broken)?;
        editor.set_helper(Some(Lines::default()));
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
        let Self::Terminal(editor, history) = self else {
            return read_pipe(&mut std::io::stdin().lock());
        };
        let mut draft = String::new();
        loop {
            match editor.readline_with_initial("> ", (&draft, "")) {
                Ok(first) => {
                    let pasted = pasted(editor, first)?;
                    // The last line was not ended: the person goes on with it.
                    if pasted.is_open {
                        draft = pasted.text;
                        continue;
                    }
                    remember(editor, history.as_deref(), &pasted.text);
                    return Ok(Some(unquote(&pasted.text)));
                }
                Err(ReadlineError::Interrupted) => {
                    draft.clear();
                    say("karat", "Ctrl-D or /exit leaves");
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(broken(error)),
            }
        }
    }
}

fn broken(error: ReadlineError) -> anyhow::Error {
    if let ReadlineError::Io(error) = error {
        return anyhow::Error::from(error).context("terminal");
    }
    failure(Code::Io, format!("terminal: {error}"))
}

/// Keeps what was said, at once: a chat may end in many ways. A history that cannot take it is no reason to stop.
fn remember(editor: &mut TerminalEditor, file: Option<&Path>, text: &str) {
    if editor.add_history_entry(text).is_ok_and(|added| added)
        && let Some(file) = file
        && let Err(error) = editor.append_history(file)
    {
        say("warning", &format!("history {}: {error}", karat::text::path(file)));
    }
}

/// A message, with what came behind its first line at once.
struct Pasted {
    text: String,
    /// Whether its last line was not ended.
    is_open: bool,
}

impl Pasted {
    fn whole(text: String) -> Self {
        Self { text, is_open: false }
    }
}

/// Lines that are there already are of the same message: a terminal that does not mark what is pasted (bracketed paste)
/// gives several lines as if they were typed. A command is a line by itself.
#[cfg(unix)]
fn pasted(editor: &mut TerminalEditor, first: String) -> Result<Pasted> {
    let typed = editor.helper().map(|lines| Rc::clone(&lines.typed)).unwrap_or_default();
    // On a terminal that cannot move its cursor the editor takes lines as they are, and shows us none.
    if first.starts_with('/') || typed.borrow().is_empty() {
        return Ok(Pasted::whole(first));
    }
    let mut text = first;
    let mut rest = String::new();
    loop {
        typed.borrow_mut().clone_from(&rest);
        let line = {
            let _no_wait = NoWait::begin()?;
            editor.readline_with_initial("", (&rest, ""))
        };
        match line {
            Ok(line) => {
                text = format!("{text}\n{line}");
                rest.clear();
            }
            // Nothing more is there; the rest of a long paste may be on its way.
            Err(error) if is_dry(&error) => {
                rest = typed.borrow().clone();
                // The editor begins a new row when it ends, also for a line that has nothing.
                if rest.is_empty() {
                    use std::io::Write;
                    let mut stdout = std::io::stdout().lock();
                    write!(stdout, "\x1b[1A").and_then(|()| stdout.flush())?;
                }
                if !more_comes()? {
                    break;
                }
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if rest.is_empty() {
        return Ok(Pasted::whole(text));
    }
    Ok(Pasted { text: format!("{text}\n{rest}"), is_open: true })
}

/// A console of Windows does not tell a paste from typing: each line is a message.
#[cfg(not(unix))]
fn pasted(_: &mut TerminalEditor, first: String) -> Result<Pasted> {
    Ok(Pasted::whole(first))
}

/// While it lives, reading from the terminal does not wait.
#[cfg(unix)]
struct NoWait(OFlag);

#[cfg(unix)]
impl NoWait {
    fn begin() -> Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(std::io::stdin(), FcntlArg::F_GETFL)?);
        fcntl(std::io::stdin(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(flags))
    }
}

#[cfg(unix)]
impl Drop for NoWait {
    fn drop(&mut self) {
        let _ = fcntl(std::io::stdin(), FcntlArg::F_SETFL(self.0));
    }
}

#[cfg(unix)]
fn is_dry(error: &ReadlineError) -> bool {
    if let ReadlineError::Io(error) = error {
        return error.kind() == std::io::ErrorKind::WouldBlock;
    }
    error.to_string().contains("EAGAIN")
}

/// Whether more is typed within a moment that no person would notice.
#[cfg(unix)]
fn more_comes() -> Result<bool> {
    use std::os::fd::AsFd;
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, 25u8)? > 0)
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
        if n == 0 && bytes.is_empty() {
            return Ok(None);
        }
        // What Windows begins and ends text with is no part of it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
        let text = text.strip_suffix('\n').unwrap_or(&text);
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
        None => text.replace("\\\n", "\n"),
    }
}

/// Tells the editor when a message is complete, and completes the names of commands.
#[derive(Default)]
pub(super) struct Lines {
    /// The line as it is now, which the editor does not give back when reading fails.
    typed: Rc<RefCell<String>>,
}

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

    fn hint(&self, line: &str, _: usize, _: &rustyline::Context<'_>) -> Option<String> {
        line.clone_into(&mut self.typed.borrow_mut());
        None
    }
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
        assert_eq!(messages(b"\"\"\"\r\na\r\n\r\nb\r\n\"\"\"\r\nc\r\n"), ["a\n\nb", "c"]);
        assert_eq!(messages(b"\xef\xbb\xbfone\\\r\ntwo\r\n"), ["one\ntwo"]);
        assert_eq!(messages(b"\"\"\"one line\"\"\"\nc"), ["one line", "c"]);
        assert_eq!(messages(b"\"\"\"never closed\nb"), ["never closed\nb"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let error = read_pipe(&mut b"\xff\n".as_slice()).unwrap_err();
        assert_eq!(crate::exit::code(&error), Code::Usage);
    }
}
