//! What a program hears while karat works: progress of what takes long, and what is odd. The library prints nothing.

use model::Memory;
use std::cell::Cell;
use std::fmt;

/// Something worth hearing of.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Something is odd, and the work goes on: one line.
    Warning(&'a str),
    /// Something worth knowing, with nothing odd about it: one line.
    Note(&'a str),
    /// A model is about to be fetched: one line that names it, its size and licence where they are known, and its source.
    Pulling(&'a str),
    /// `done` units of a task are done, the first time 0. Tasks do not overlap.
    Progress {
        /// What is done.
        task: Task,
        /// Units of [`Task::unit`].
        done: u64,
        /// Units of the whole task, once that is known.
        total: Option<u64>,
    },
    /// A task is over, whether it succeeded or not.
    Ended(Task),
    /// A model is refused because it does not fit: what it needs, before the error that says so.
    DoesNotFit {
        /// What it needs.
        memory: Memory,
        /// Bytes that there are.
        available: u64,
    },
}

/// Something that may take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// A model's file comes from one of its sources.
    Pull,
    /// A cached file is read again to compare its hash.
    Verify,
    /// All weights are looked at for NaN and infinities.
    CheckTensors,
    /// A device's kernels are compared with the reference.
    CheckKernels,
    /// Weights become resident on their device.
    Load,
    /// The ops of a recorded run are judged.
    Judge,
    /// The tokens of a text are foretold: [`crate::perplexity`].
    Measure,
    /// Drivers are asked for their devices, and one is opened. Some write to standard error at that.
    FindDevices,
}

/// What a task counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Kinds of op.
    Ops,
    /// Tokens.
    Tokens,
    /// GPUs.
    Devices,
}

impl Task {
    /// What it counts.
    pub fn unit(self) -> Unit {
        match self {
            Self::Pull | Self::Verify | Self::CheckTensors | Self::Load => Unit::Bytes,
            Self::CheckKernels | Self::Judge => Unit::Ops,
            Self::FindDevices => Unit::Devices,
            Self::Measure => Unit::Tokens,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pulling",
            Self::Verify => "verifying",
            Self::CheckTensors => "checking",
            Self::CheckKernels => "checking the kernels",
            Self::Load => "loading",
            Self::Judge => "judging",
            Self::FindDevices => "asking the drivers",
            Self::Measure => "measuring",
        })
    }
}

/// Whoever listens. `&|_| {}` is somebody who does not.
pub type Listener<'l> = &'l dyn Fn(Event<'_>);

/// A task under way. Its end is heard of when this is dropped, whether the task succeeded or not.
pub(crate) struct Progress<'l> {
    listener: Listener<'l>,
    task: Task,
    total: Cell<Option<u64>>,
}

impl<'l> Progress<'l> {
    /// The beginning of a task; `total` where it is known.
    pub(crate) fn start(listener: Listener<'l>, task: Task, total: Option<u64>) -> Self {
        let progress = Self { listener, task, total: Cell::new(total) };
        progress.at(0);
        progress
    }

    /// The total has become known.
    pub(crate) fn total(&self, total: u64) {
        self.total.set(Some(total));
    }

    /// Something worth knowing about the task.
    pub(crate) fn note(&self, line: &str) {
        (self.listener)(Event::Note(line));
    }

    /// `done` units so far.
    pub(crate) fn at(&self, done: u64) {
        (self.listener)(Event::Progress { task: self.task, done, total: self.total.get() });
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        (self.listener)(Event::Ended(self.task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_task_is_heard_from_its_beginning_to_its_end() {
        let heard = RefCell::new(Vec::new());
        let listener = |event: Event<'_>| heard.borrow_mut().push(format!("{event:?}"));
        let progress = Progress::start(&listener, Task::Load, None);
        progress.total(7);
        progress.at(5);
        drop(progress);
        assert_eq!(
            heard.into_inner(),
            [
                "Progress { task: Load, done: 0, total: None }",
                "Progress { task: Load, done: 5, total: Some(7) }",
                "Ended(Load)"
            ]
        );
    }
}
