//! The wish that a step ends before it is done: Ctrl-C at a terminal, a client that has gone away.

use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle: clones share one wish. Whoever computes looks at it now and then, and gives up with [`ErrorKind::Stopped`].
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody wishes to stop.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wishes to stop; whether somebody had wished it already.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Takes the wish back: the handle serves for the next work.
    pub fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether somebody wishes to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To go on with `?`.
    ///
    /// # Errors
    /// [`ErrorKind::Stopped`] where somebody wishes to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_requested() { Err(Self::error()) } else { Ok(()) }
    }

    /// The error of work that was given up.
    pub fn error() -> Error {
        Error::new(ErrorKind::Stopped, "stopped")
    }
}
