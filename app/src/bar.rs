//! The progress bar of everything that is loaded, made or checked.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Work shorter than this shows no bar.
const QUIET: Duration = Duration::from_secs(1);

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Weights.
    Weights,
    /// Ops.
    Ops,
}

/// A bar on stderr where that is a terminal, once the work takes more than a second.
pub(crate) struct LoadBar {
    what: &'static str,
    total: u64,
    unit: Unit,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl LoadBar {
    /// Nothing is shown yet.
    pub(crate) fn new(what: &'static str, total: u64, unit: Unit) -> Self {
        Self { what, total, unit, start: Instant::now(), bar: None }
    }

    /// `done` of the total.
    pub(crate) fn at(&mut self, done: u64) {
        if self.bar.is_none() && self.start.elapsed() > QUIET {
            let template = match self.unit {
                Unit::Bytes => "{msg} {bar:30} {percent:>3}% {bytes}/{total_bytes} {eta}",
                Unit::Weights => {
                    "{msg} {bar:30} {percent:>3}% {human_pos}/{human_len} weights {eta}"
                }
                Unit::Ops => "{msg} {bar:30} {percent:>3}% {human_pos}/{human_len} ops {eta}",
            };
            // The templates are constants; the default style stands in if indicatif disagrees with them.
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(self.total).with_style(style.progress_chars("━╸─"));
            self.bar = Some(bar.with_message(self.what));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.finish();
    }
}
