//! Which op is wrong: every value of a run, recorded or live, and what is to be said of each op.

use crate::devices;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Listener, Progress, Task};
use crate::load::Parts;
use crate::options::Options;
use crate::text;
use graph::reference::Reference;
use graph::{Graph, Step};
use std::path::Path;
use why::{Report, Row, Side, Source, Subject, Thoroughness, Tolerance, Trace, Values};

/// More memory for values than this is refused.
const MOST_BYTES: usize = 4 << 30;

/// Every value of a run.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The prompt, then one step for each token behind it.
    pub steps: Vec<Step>,
    /// What each op of each step gave.
    pub values: Values,
}

impl Parts {
    /// Runs a prompt and `n_predict` greedy tokens behind it on a backend, and records every value.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] for a prompt without tokens; [`ErrorKind::DoesNotFit`] for values of more than 4 GiB;
    /// otherwise as [`Parts::load`].
    pub fn record(
        &self,
        options: &Options,
        ids: &[u32],
        n_predict: usize,
        listener: Listener<'_>,
    ) -> Result<Recording> {
        if ids.is_empty() {
            let what = "prompt: no tokens, allowed 1 and more";
            return Err(Error::new(ErrorKind::Rejected, what));
        }
        let backend = devices::backend(options, self.graph.n_layers(), listener)?;
        let mut loaded = self.load(&*backend, listener)?;
        let steps = why::greedy(&mut *loaded, ids, n_predict)?;
        check_size(&self.graph, &steps)?;
        let values = why::capture(&mut *loaded, &steps, None)?;
        Ok(Recording { steps, values })
    }

    /// Reads a recorded run: of [`Recording::write`], `karat trace`, or another engine.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the file cannot be read; [`ErrorKind::ModelFile`] where it is no trace, or does not tell
    /// its tokens.
    pub fn read_trace(&self, path: &Path) -> Result<Recording> {
        let trace = Trace::open(path)?;
        let untold = || {
            let what = format!("{}: does not tell its tokens", text::path(path));
            Error::new(ErrorKind::ModelFile, what)
        };
        let ids = trace.tokens().ok_or_else(untold)?;
        // Behind the prompt each token is a step of its own.
        let n_prompt = ids.len().saturating_sub(trace.n_steps().saturating_sub(1));
        let (prompt, behind) = ids.split_at(n_prompt);
        if prompt.is_empty() {
            return Err(untold());
        }
        let steps = why::forced(&self.graph, prompt, behind);
        let values = trace.values(&self.graph, &steps);
        Ok(Recording { steps, values })
    }

    /// Judges every op of a recording on the inputs that it had there: a fault is named where it is, and those behind it
    /// too. karat's own backends owe the reference's bits ([`Tolerance::Bits`]); other engines are held to what rounding
    /// allows ([`Tolerance::Rounding`]).
    ///
    /// # Errors
    /// Those of the reference: a bug, or no memory.
    pub fn judge(
        &self,
        recording: &Recording,
        tolerance: Tolerance,
        listener: Listener<'_>,
    ) -> Result<Vec<Row>> {
        let Recording { steps, values } = recording;
        let n_ops = self.graph.nodes.iter().filter(|node| node.output.is_some()).count();
        let total = (n_ops * steps.len()) as u64;
        let progress = Progress::start(listener, Task::Judge, Some(total));
        let files = [&self.file];
        let subject = Subject { graph: &self.graph, files: &files, options: self.options };
        let side = Side { steps, values, fed: None, tolerance };
        let measured = why::judge(&Reference, subject, side, &mut |n| progress.at(n as u64))?;
        Ok(why::combine(&self.graph, &[], &measured))
    }

    /// This model on a backend, as a side of a comparison.
    ///
    /// # Errors
    /// As [`Parts::load`].
    pub fn side(&self, options: &Options, listener: Listener<'_>) -> Result<Source> {
        let backend = devices::backend(options, self.graph.n_layers(), listener)?;
        Ok(Source::Live { name: backend.name(), loaded: self.load(&*backend, listener)? })
    }

    /// Compares two sides over some steps: [`why::common_steps`], or any others that begin with a prompt. Side A is the one
    /// that is trusted, and every op of side B is judged.
    ///
    /// # Errors
    /// [`ErrorKind::DoesNotFit`] for values of more than 4 GiB; otherwise where a side or the reference cannot run the
    /// steps.
    pub fn compare(
        &self,
        sides: [&mut Source; 2],
        steps: &[Step],
        thoroughness: Thoroughness,
        listener: Listener<'_>,
    ) -> Result<Report> {
        check_size(&self.graph, steps)?;
        let files = [&self.file];
        let subject = Subject { graph: &self.graph, files: &files, options: self.options };
        let mut progress = None;
        let mut heard = |judged: why::Judged| {
            let start = || Progress::start(listener, Task::Judge, Some(judged.total as u64));
            progress.get_or_insert_with(start).at(judged.done as u64);
        };
        Ok(why::compare(subject, sides, steps, thoroughness, &mut heard)?)
    }
}

impl Recording {
    /// Writes the values in safetensors format, to an [`crate::Output`] or anything else that takes bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where they cannot be written.
    pub fn write(&self, parts: &Parts, out: &mut dyn std::io::Write) -> Result<()> {
        let arithmetic = parts.options.arithmetic;
        Ok(Trace::write(out, &parts.graph, arithmetic, &self.steps, &self.values)?)
    }

    /// Bytes that [`Recording::write`] writes at least.
    pub fn n_bytes(&self) -> u64 {
        let numbers = self.values.steps.iter().flatten().flatten().map(Vec::len).sum::<usize>();
        (numbers * size_of::<f32>()) as u64
    }
}

/// Refuses to record values of more than 4 GiB.
///
/// # Errors
/// [`ErrorKind::DoesNotFit`].
pub fn check_size(graph: &Graph, steps: &[Step]) -> Result<()> {
    let bytes = why::value_bytes(graph, steps);
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let what = format!(
        "the values of {} tokens take {}, allowed {}",
        steps.iter().map(|step| step.tokens.len()).sum::<usize>(),
        text::bytes(bytes as u64),
        text::bytes(MOST_BYTES as u64)
    );
    Err(Error::new(ErrorKind::DoesNotFit, what).with_hint("a shorter prompt"))
}
