//! What the user sees while a model is fetched: a bar on stderr, on a terminal only.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar that is drawn only where stderr is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Starts a bar of `total` bytes, or a counter where the total is not known.
    pub(crate) fn start(total: Option<u64>) -> Progress {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let progress = Progress(bar);
        progress.restyle(total);
        progress
    }

    fn restyle(&self, total: Option<u64>) {
        let template = match total {
            Some(_) => "{bar:30} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        // Both templates are constants; the default style stands in if indicatif ever disagrees with them.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.0.set_style(style.progress_chars("━╸─"));
    }

    /// The total has become known.
    pub(crate) fn total(&self, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
            self.restyle(Some(total));
        }
    }

    /// Bytes so far.
    pub(crate) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
