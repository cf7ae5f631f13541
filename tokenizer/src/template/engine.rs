//! One rendering: an environment like the one that templates are written for, on a thread of its own, under limits.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind as Kind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

use super::{MAX_OUTPUT_BYTES, json, strftime};
use crate::error::{Error, ErrorKind, Result, one_line};

/// Steps of the engine; data costs a step for 64 bytes, so this bounds memory, too.
const FUEL: u64 = 5_000_000;
const RECURSION: usize = 150;
const WALL_TIME: Duration = Duration::from_secs(1);
/// The parser and the interpreter recurse; what a caller's thread has left is not known.
const STACK_BYTES: usize = 16 << 20;

/// What a rendering needs, owned: its thread may outlive the caller's wait.
pub(super) struct Render {
    pub(super) source: Arc<str>,
    pub(super) variables: Json,
    /// The time for `strftime_now`, seconds since 1970; `None` asks the clock.
    pub(super) now: Option<i64>,
}

/// Compiles `source` and throws the result away.
pub(super) fn check(source: &Arc<str>) -> Result<()> {
    let source = Arc::clone(source);
    on_own_thread(move || {
        let env = environment(None).map_err(|e| failed(ErrorKind::Template, &e))?;
        env.template_from_str(&source).map(|_| ()).map_err(|e| failed(ErrorKind::Template, &e))
    })
}

/// Renders.
pub(super) fn render(work: Render) -> Result<String> {
    on_own_thread(move || {
        let env = environment(work.now).map_err(|e| failed(ErrorKind::Template, &e))?;
        let template =
            env.template_from_str(&work.source).map_err(|e| failed(ErrorKind::Template, &e))?;
        let mut out = Capped { bytes: Vec::new(), full: false };
        let outcome =
            template.render_captured_to(Value::from(Serde(&work.variables)), &mut out).map(|_| ());
        if out.full {
            return Err(Error::new(
                ErrorKind::Render,
                format!("chat template: output is over {MAX_OUTPUT_BYTES} bytes"),
            ));
        }
        outcome.map_err(|e| failed(ErrorKind::Render, &e))?;
        String::from_utf8(out.bytes)
            .map_err(|_| Error::new(ErrorKind::Render, "chat template: output is not UTF-8"))
    })
}

/// Runs `work` with a known stack and waits for it no longer than [`WALL_TIME`].
///
/// A thread cannot be stopped from outside; one that is given up on ends by itself when its fuel does.
fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || {
        // The receiver is gone if the wait was given up: then nobody wants the result.
        let _ = sender.send(work());
    };
    thread::Builder::new()
        .name("chat-template".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|e| {
            Error::new(ErrorKind::Render, format!("chat template: cannot start a thread: {e}"))
        })?;
    match receiver.recv_timeout(WALL_TIME) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            let limit = WALL_TIME.as_secs();
            Err(Error::new(ErrorKind::Render, format!("chat template: took over {limit} s")))
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(Error::new(ErrorKind::Render, "chat template: the template engine failed"))
        }
    }
}

/// Jinja as the Transformers library sets it up: trimmed blocks, loop controls, no loader, no host objects.
fn environment(now: Option<i64>) -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(unknown_method_callback);
    env.add_filter("tojson", json::tojson);
    // In Jinja nothing can be iterated over `none`, and templates ask before they take the length of `tools`.
    env.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function(
        "raise_exception",
        |message: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(Kind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", move |format: String| strftime::format(&format, now));
    Ok(env)
}

/// An engine error in one line: the line of the template, and the template's own words if it raised the error.
fn failed(kind: ErrorKind, error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let what = match (error.kind(), error.detail()) {
        (Kind::OutOfFuel, _) => format!("exceeded its step budget of {FUEL}"),
        (Kind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (other, Some(detail)) => format!("{other}: {detail}"),
        (other, None) => other.to_string(),
    };
    Error::new(kind, format!("chat template: {}{line}", one_line(&what)))
}

/// Output that refuses to grow over the limit.
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            self.full = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces `{% generation %}` … `{% endgeneration %}` (marks for training) by a block that does nothing.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = &tag[2..tag.len() - 2];
        match inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            name @ ("generation" | "endgeneration") => {
                out.push_str(
                    &tag.replace(name, if name == "generation" { "if true" } else { "endif" }),
                );
            }
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_blocks() {
        let cases = [
            ("a{% generation %}b{%- endgeneration -%}c", "a{% if true %}b{%- endif -%}c"),
            ("{% if generation %}x{% endif %}", "{% if generation %}x{% endif %}"),
            ("no tags {{ generation }} {%", "no tags {{ generation }} {%"),
        ];
        for (source, expected) in cases {
            assert_eq!(without_generation_tags(source), expected);
        }
    }
}
