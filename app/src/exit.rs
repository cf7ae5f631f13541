//! Exit codes: what each error means to a script, and the one line that people see.

use crate::stderr;
use karat::ErrorKind;
use karat::text::one_line;
use std::fmt;
use std::io::ErrorKind as IoKind;
use std::process::ExitCode;

/// Shown by `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
    0  done
    1  internal error: a bug, please report it
    2  usage or configuration
    3  the model file was rejected: malformed, unsupported, inconsistent
    4  file, network or integrity: not found, I/O, hash mismatch, disk full
    5  does not fit: memory or context
    6  device or backend failure
    7  the request was rejected: prompt too long, bad template
  129  the terminal went away
  130  interrupted (Ctrl-C)
  143  terminated";

/// Where people report a bug.
const REPORT: &str = "this is a bug in karat: please report it with the command and this line";

/// The exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A bug in karat.
    Internal = 1,
    /// Flags, or the environment.
    Usage = 2,
    /// The model file is malformed, unsupported or inconsistent.
    BadFile = 3,
    /// Not found, not readable, not written, network, hash mismatch.
    Io = 4,
    /// Memory.
    DoesNotFit = 5,
    /// The device or backend failed.
    Device = 6,
    /// The request cannot be served: the prompt is over the context, the template refuses.
    Rejected = 7,
    /// SIGINT.
    Interrupted = 130,
}

/// An error with the exit code that it leads to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The message says what, where, what was found and what is allowed.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// What the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// A [`Failure`] without a hint, as an `anyhow` error.
pub(crate) fn failure(code: Code, message: impl Into<String>) -> anyhow::Error {
    Failure::new(code, message).into()
}

/// The exit code of an error: that of the outermost cause that has one.
pub(crate) fn code(error: &anyhow::Error) -> Code {
    error.chain().find_map(code_of).unwrap_or(Code::Internal)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<Code> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    kind_of(cause).map(code_of_kind)
}

/// The kind of an error of ours, from whichever crate it comes.
fn kind_of(cause: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    if let Some(error) = cause.downcast_ref::<karat::Error>() {
        return Some(error.kind());
    }
    if let Some(error) = cause.downcast_ref::<gguf::Error>() {
        return Some(error.kind().into());
    }
    if let Some(error) = cause.downcast_ref::<model::Error>() {
        return Some(error.kind().into());
    }
    if let Some(error) = cause.downcast_ref::<tokenizer::Error>() {
        return Some(error.kind().into());
    }
    if let Some(error) = cause.downcast_ref::<why::Error>() {
        return Some(error.kind().into());
    }
    if let Some(error) = cause.downcast_ref::<graph::Error>() {
        return Some(error.kind().into());
    }
    cause.downcast_ref::<std::io::Error>().map(|_| ErrorKind::Io)
}

fn code_of_kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Usage => Code::Usage,
        ErrorKind::ModelFile => Code::BadFile,
        ErrorKind::NotFound | ErrorKind::Io | ErrorKind::Fetch | ErrorKind::Damaged => Code::Io,
        ErrorKind::DoesNotFit => Code::DoesNotFit,
        ErrorKind::Device => Code::Device,
        ErrorKind::Rejected => Code::Rejected,
        ErrorKind::Stopped => Code::Interrupted,
        ErrorKind::Internal => Code::Internal,
    }
}

/// Whether the reader of our output went away: no error to speak of.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is_closed_pipe)
}

/// The same of an error as the system gave it.
pub(crate) fn is_closed_pipe(error: &std::io::Error) -> bool {
    /// Windows has three numbers for it, and the standard library knows two.
    const PIPE_NOT_CONNECTED: i32 = 233;
    error.kind() == IoKind::BrokenPipe
        || cfg!(windows) && error.raw_os_error() == Some(PIPE_NOT_CONNECTED)
}

/// Runs the program: errors and panics become a line on stderr and an exit code.
pub(crate) fn guard(run: impl FnOnce() -> anyhow::Result<()> + std::panic::UnwindSafe) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("panic");
        let place = info.location().map(|at| format!(" ({at})")).unwrap_or_default();
        say("error", &format!("{what}{place}; hint: {REPORT}"));
    }));
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let code = code(&error);
            // An interrupted program says nothing: the user knows.
            match code {
                Code::Interrupted => {}
                Code::Internal => say("error", &format!("{error:#}; hint: {REPORT}")),
                Code::Usage
                | Code::BadFile
                | Code::Io
                | Code::DoesNotFit
                | Code::Device
                | Code::Rejected => {
                    say("error", &format!("{error:#}{}", flag_of(&error)));
                }
            }
            ExitCode::from(code as u8)
        }
        Err(_) => ExitCode::from(Code::Internal as u8),
    }
}

/// The flag of the option that an error of the library is about, as ` (--cache-type)`: the library names options only.
fn flag_of(error: &anyhow::Error) -> String {
    let ours = error.chain().find_map(|cause| cause.downcast_ref::<karat::Error>());
    match ours.and_then(karat::Error::option) {
        None => String::new(),
        Some("ctx_size") => " (-c)".to_owned(),
        // No flag sets it: a command knows how many sequences it runs.
        Some("sequences") => String::new(),
        Some(option) => format!(" (--{})", option.replace('_', "-")),
    }
}

/// A line for people on stderr, e.g. `warning: …`; nobody may be there to read it.
pub(crate) fn say(what: &str, message: &str) {
    stderr::write(&format!("{what}: {}\n", one_line(message)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn codes_survive_context() {
        let error =
            Err::<(), _>(failure(Code::Device, "gone")).context("while running").unwrap_err();
        assert_eq!(code(&error), Code::Device);
        assert_eq!(format!("{error:#}"), "while running: gone");
        let missing = gguf::File::open("no such file", gguf::Access::Pread).unwrap_err();
        assert_eq!(code(&missing.into()), Code::Io);
        assert_eq!(code(&anyhow::anyhow!("what?")), Code::Internal);
    }

    #[test]
    fn a_panic_is_1() {
        let hook = std::panic::take_hook();
        let code = guard(|| panic!("on purpose: the line above is part of the test"));
        std::panic::set_hook(hook);
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn the_flag_of_an_option_is_named() {
        let refused = |options: karat::Options| anyhow::Error::from(options.check().unwrap_err());
        let text = |error: &anyhow::Error| format!("{error:#}{}", flag_of(error));
        let no_gpu = refused(karat::Options { gpu_layers: Some(1), ..karat::Options::default() });
        assert_eq!(
            text(&no_gpu),
            "gpu_layers: only with the backends gpu, vulkan, metal, dx12 and hybrid-f32 (--gpu-layers)"
        );
        let long = karat::Error::new(ErrorKind::Rejected, "too long").with_option("ctx_size");
        assert_eq!(text(&anyhow::Error::from(long).context("m.gguf")), "m.gguf: too long (-c)");
        assert_eq!(text(&failure(Code::Device, "gone")), "gone");
    }

    #[test]
    fn a_hint_stands_on_the_same_line() {
        let failure = Failure::new(Code::Usage, "-n: 0").hint("1 and more");
        assert_eq!(failure.to_string(), "-n: 0; hint: 1 and more");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let error =
            anyhow::Error::from(std::io::Error::from(IoKind::BrokenPipe)).context("printing");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&std::io::Error::from(IoKind::NotFound).into()));
    }
}
