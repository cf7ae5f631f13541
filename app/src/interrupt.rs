//! Ctrl-C: ends the program with 130, or only the answer where `karat chat` is generating one.

use crate::exit::{Code, failure};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an answer is being generated that Ctrl-C shall stop.
static ANSWERING: AtomicBool = AtomicBool::new(false);
/// Whether it shall stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// Installs the handler.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        // A second Ctrl-C before the first was heard ends the program, too: it may hang.
        if !ANSWERING.load(Ordering::SeqCst) || STOP.swap(true, Ordering::SeqCst) {
            karat::sources::remove_unfinished();
            std::process::exit(Code::Interrupted as i32);
        }
    })
    .map_err(|error| failure(Code::Internal, format!("signal handler: {error}")))
}

/// Whether Ctrl-C was pressed since the last [`Answering`] began.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// While it lives, Ctrl-C asks for a stop instead of ending the program.
pub(crate) struct Answering(());

impl Answering {
    /// Begins an answer.
    pub(crate) fn begin() -> Self {
        STOP.store(false, Ordering::SeqCst);
        ANSWERING.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C was pressed.
    pub(crate) fn stopped(&self) -> bool {
        stopped()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.store(false, Ordering::SeqCst);
    }
}
