//! How far a benchmark is, on stderr where that is a terminal. It draws between runs, and within a run once a second:
//! what is measured shall not wait for the terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Between two looks at the screen within a run.
const PAUSE: Duration = Duration::from_secs(1);

/// A bar over runs.
pub(super) struct Progress {
    bar: ProgressBar,
    /// The run that goes on.
    what: String,
    drawn: Instant,
}

impl Progress {
    /// A bar over `runs` runs.
    pub(super) fn new(runs: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(runs as u64), ProgressDrawTarget::stderr());
        // The template is a constant; the default style stands in if indicatif disagrees with it.
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸─"));
        Self { bar, what: String::new(), drawn: Instant::now() }
    }

    /// What comes next.
    pub(super) fn say(&mut self, what: String) {
        self.bar.set_message(what.clone());
        self.what = what;
        self.bar.tick();
        self.drawn = Instant::now();
    }

    /// A run is done.
    pub(super) fn step(&mut self) {
        self.bar.inc(1);
        self.drawn = Instant::now();
    }

    /// So much of a long run is done: drawn if nothing was for a second.
    pub(super) fn within(&mut self, what: &str, done: usize, of: usize) {
        if self.drawn.elapsed() > PAUSE {
            self.bar.set_message(format!("{}: {what} {done} of {of}", self.what));
            self.bar.tick();
            self.drawn = Instant::now();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
