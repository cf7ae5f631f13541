//! Signals: Ctrl-C ends the program with 130, or only the answer where `karat chat` is generating one; a request to end
//! (TERM, HUP) ends it with 143 or 129. Nothing unfinished is left in either case.

use crate::exit::{Code, failure, say};
use karat::sources::Beginning;
use karat::{Stop, text};
use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether an answer is being generated that Ctrl-C shall stop.
static ANSWERING: AtomicBool = AtomicBool::new(false);
/// Whether it shall stop.
static STOP: LazyLock<Stop> = LazyLock::new(Stop::new);

/// An answer that is stopped later than this is one where the user would wonder.
const AT_ONCE: Duration = Duration::from_millis(150);

/// Ctrl-C. A second one before the first has stopped the answer ends the program, too: it may hang.
fn interrupted() {
    if !ANSWERING.load(Ordering::SeqCst) || STOP.request() {
        end(Code::Interrupted as i32);
    }
    std::thread::sleep(AT_ONCE);
    if ANSWERING.load(Ordering::SeqCst) && STOP.is_requested() {
        say("karat", "stopping when this step is done; Ctrl-C again ends karat");
    }
}

fn end(code: i32) -> ! {
    say_what_is_kept();
    karat::output::remove_unfinished();
    #[cfg(unix)]
    unix::restore_terminal();
    std::process::exit(code);
}

/// A download that was cut is not lost.
fn say_what_is_kept() {
    for Beginning { target, bytes, size } in karat::sources::beginnings() {
        let of = size.map_or(String::new(), |size| format!(" of {}", text::bytes(size)));
        let (shown, bytes) = (text::path(&target), text::bytes(bytes));
        if std::io::stderr().is_terminal() {
            // The line has a progress bar on it.
            let _ = writeln!(std::io::stderr());
        }
        say("karat", &format!("{shown}: {bytes}{of} are kept, and the next pull goes on there"));
    }
}

/// Hears signals from now on.
#[cfg(not(unix))]
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(interrupted)
        .map_err(|error| failure(Code::Internal, format!("signal handler: {error}")))
}

#[cfg(unix)]
pub(crate) use unix::install;

#[cfg(unix)]
mod unix {
    use super::{Code, end, failure, interrupted};
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
    use std::sync::Mutex;

    /// The terminal as it was found: the line editor changes it.
    static TERMINAL: Mutex<Option<Termios>> = Mutex::new(None);

    /// Hears signals from now on. Called before there is any other thread: all of them then leave the signals to the one
    /// that waits for them here, and the line editor cannot take one away.
    pub(crate) fn install() -> anyhow::Result<()> {
        let failed =
            |error: nix::Error| failure(Code::Internal, format!("signal handler: {error}"));
        if let Ok(mut terminal) = TERMINAL.lock() {
            *terminal = tcgetattr(std::io::stdin()).ok();
        }
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // What `nohup`, or a shell's `&`, has switched off stays off.
            if !is_ignored(signal) {
                signals.add(signal);
            }
        }
        signals.thread_block().map_err(failed)?;
        let wait = move || {
            while let Ok(signal) = signals.wait() {
                if signal == Signal::SIGINT {
                    interrupted();
                } else {
                    end(128 + signal as i32);
                }
            }
        };
        let spawned = std::thread::Builder::new().name("karat-signals".to_owned()).spawn(wait);
        spawned.map(drop).map_err(|e| failure(Code::Internal, format!("signal handler: {e}")))
    }

    /// Whether the process was started with this signal ignored, as far as the system tells.
    fn is_ignored(signal: Signal) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        ignored.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
    }

    pub(super) fn restore_terminal() {
        if let Ok(terminal) = TERMINAL.lock()
            && let Some(terminal) = &*terminal
        {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, terminal);
        }
    }
}

/// What Ctrl-C requests while an [`Answering`] lives.
pub(crate) fn stop() -> Stop {
    STOP.clone()
}

/// While it lives, Ctrl-C asks for a stop instead of ending the program.
pub(crate) struct Answering(());

impl Answering {
    /// Begins an answer.
    pub(crate) fn begin() -> Self {
        STOP.clear();
        ANSWERING.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C was pressed.
    pub(crate) fn stopped(&self) -> bool {
        STOP.is_requested()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.store(false, Ordering::SeqCst);
    }
}
