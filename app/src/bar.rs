//! The progress bars of everything that is fetched, loaded, made or checked.

use crate::exit::say;
use crate::stderr::Drivers;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use karat::{Event, Task};
use model::Memory;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Work shorter than this shows no bar.
const QUIET: Duration = Duration::from_secs(1);

/// What the library says, on stderr: warnings as lines, tasks as bars.
#[derive(Default)]
pub(crate) struct Screen {
    bar: RefCell<Option<Bar>>,
    /// In place while drivers are asked.
    drivers: RefCell<Option<Drivers>>,
}

/// The bar of a task of the library.
enum Bar {
    /// Fetching takes long enough to show a bar at once.
    Transfer(TransferBar),
    Load(LoadBar),
}

impl Screen {
    /// Shows an event.
    pub(crate) fn show(&self, event: Event<'_>) {
        match event {
            Event::Warning(line) => self.line("warning", line),
            Event::Note(line) => self.line("note", line),
            Event::Pulling(line) => say("pulling", line),
            Event::DoesNotFit { memory, available } => print(&memory, available),
            Event::Progress { task: Task::FindDevices, .. } => {
                *self.drivers.borrow_mut() = Some(Drivers::listen());
            }
            Event::Ended(Task::FindDevices) => drop(self.drivers.take()),
            Event::Progress { task, done, total } => {
                let mut bar = self.bar.borrow_mut();
                match bar.get_or_insert_with(|| Bar::new(task, total)) {
                    Bar::Transfer(bar) => bar.at(done, total),
                    Bar::Load(bar) => bar.at(done),
                }
            }
            Event::Ended(_) => drop(self.bar.take()),
        }
    }

    /// A line above the bar, where there is one.
    fn line(&self, what: &str, line: &str) {
        match self.bar.borrow().as_ref() {
            Some(Bar::Transfer(bar)) => bar.0.suspend(|| say(what, line)),
            Some(Bar::Load(_)) | None => say(what, line),
        }
    }
}

impl Bar {
    fn new(task: Task, total: Option<u64>) -> Self {
        let load = |what, unit| Self::Load(LoadBar::new(what, total.unwrap_or(0), unit));
        match task {
            Task::Pull | Task::Verify => Self::Transfer(TransferBar::new(total)),
            Task::Load => load("loading", Unit::Bytes),
            Task::CheckTensors => load("checking", Unit::Bytes),
            Task::CheckKernels => load("checking the kernels", Unit::Ops),
            Task::Judge => load("judging", Unit::Ops),
            Task::FindDevices => load("asking the drivers", Unit::Devices),
            Task::Measure => load("measuring", Unit::Tokens),
        }
    }
}

/// What the memory is needed for, a line each.
fn print(memory: &Memory, available: u64) {
    let rows = [
        ("weights", memory.weights),
        ("KV cache", memory.kv),
        ("work", memory.work),
        ("together", memory.total()),
        ("available", available),
    ];
    for (what, bytes) in rows {
        say("memory", &format!("{what:<10}{:>14}", karat::text::bytes(bytes)));
    }
}

/// A bar with a speed, or a counter where the total is not known; drawn only where stderr is a terminal.
struct TransferBar(ProgressBar);

impl TransferBar {
    fn new(total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let bar = Self(bar);
        bar.restyle(total);
        bar
    }

    fn restyle(&self, total: Option<u64>) {
        self.0.set_style(style(match total {
            Some(_) => "{bar:30} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        }));
    }

    fn at(&self, bytes: u64, total: Option<u64>) {
        // The total may become known on the way.
        if let Some(total) = total.filter(|&total| self.0.length() != Some(total)) {
            self.0.set_length(total);
            self.restyle(Some(total));
        }
        self.0.set_position(bytes);
    }
}

impl Drop for TransferBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The templates are constants; the default style stands in if indicatif ever disagrees with them.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Weights.
    Weights,
    /// Ops.
    Ops,
    /// Tokens.
    Tokens,
    /// Devices.
    Devices,
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
                Unit::Devices => "{msg}",
                Unit::Tokens => {
                    "{msg} {bar:30} {percent:>3}% {human_pos}/{human_len} tokens {per_sec} {eta}"
                }
            };
            let bar = ProgressBar::new(self.total).with_style(style(template));
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
