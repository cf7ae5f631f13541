//! Chunks of a text as sequences of steps, whose logits go to whoever counts them.

use super::chunks::Chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Listener, Progress, Task};
use crate::handle::Model;
use crate::sequence::Sequence;
use graph::{NoTap, Stop};
use model::{Engine, Wanted, Work};
use std::fmt::Display;
use std::ops::Range;

/// Logits that a step gives at most, but for those of one token of each sequence: 128 MiB.
const MOST_LOGITS: usize = 32 << 20;

/// Who may end a measurement, and who hears of it.
#[derive(Clone, Copy)]
pub struct Watch<'w> {
    /// Once it is requested, the measurement ends with [`ErrorKind::Stopped`].
    pub stop: &'w Stop,
    /// Hears of [`Task::Measure`].
    pub listener: Listener<'w>,
}

/// Rows of logits of a chunk's tokens.
pub(super) struct Rows<'r> {
    /// Which chunk.
    pub(super) chunk: usize,
    /// The position of the first row in it.
    pub(super) first: usize,
    /// How many rows there are.
    pub(super) n: usize,
    /// The rows of each model, one behind the other.
    pub(super) logits: Vec<&'r [f32]>,
}

/// A walk of one or two models through the chunks of a text.
pub(super) struct Walk<'w> {
    pub(super) models: &'w [&'w Model],
    pub(super) chunks: &'w Chunks,
    pub(super) watch: Watch<'w>,
}

impl Walk<'_> {
    /// `take` gets the logits of all tokens that are counted, chunk after chunk.
    pub(super) fn run(&self, take: &mut dyn FnMut(Rows<'_>) -> Result<()>) -> Result<()> {
        let Chunks { n, len, .. } = *self.chunks;
        let total = n * (len - 1);
        let progress = Progress::start(self.watch.listener, Task::Measure, Some(total as u64));
        let together = self.together()?;
        for begin in (0..n).step_by(together) {
            let group = Group {
                walk: self,
                first: begin,
                ids: (begin..n.min(begin + together)).map(|i| self.chunks.read(i)).collect(),
            };
            group.run(&progress, take)?;
        }
        Ok(())
    }

    /// Chunks whose counted tokens go into one step: then their rows come in the order of the text.
    fn together(&self) -> Result<usize> {
        let mut most = usize::MAX;
        for model in self.models {
            let engine = model.engine()?;
            let tokens = engine.options().n_batch.min(MOST_LOGITS / engine.n_vocab());
            // Half a chunk of each is in the cache at least, even where few tokens are counted.
            let of_each = self.chunks.n_counted().max(self.chunks.len / 2);
            most = most.min(tokens / of_each).min(engine.options().n_seqs);
        }
        Ok(most.max(1))
    }

    /// Tokens of a step that gives no logits, and of one that gives those of all.
    fn step_sizes(&self) -> Result<StepSizes> {
        let mut sizes = StepSizes { silent: usize::MAX, counted: usize::MAX };
        for model in self.models {
            let engine = model.engine()?;
            sizes.silent = sizes.silent.min(engine.options().n_batch);
            sizes.counted = sizes.silent.min(sizes.counted).min(MOST_LOGITS / engine.n_vocab());
        }
        Ok(sizes)
    }
}

/// Tokens that a step may have.
struct StepSizes {
    /// Without logits.
    silent: usize,
    /// With those of all.
    counted: usize,
}

/// Chunks that are read together.
struct Group<'g> {
    walk: &'g Walk<'g>,
    /// Number of the first chunk.
    first: usize,
    /// What is read of each.
    ids: Vec<Vec<u32>>,
}

impl Group<'_> {
    fn run(
        &self,
        progress: &Progress<'_>,
        take: &mut dyn FnMut(Rows<'_>) -> Result<()>,
    ) -> Result<()> {
        let Chunks { len, first, .. } = *self.walk.chunks;
        let sequences = self.walk.models.iter().map(|model| self.sequences(model));
        let sequences: Vec<Vec<Sequence>> = sequences.collect::<Result<_>>()?;
        let sizes = self.walk.step_sizes()?;
        let mut at = 0;
        while at < len - 1 {
            let (end, most) =
                if at < first { (first, sizes.silent) } else { (len - 1, sizes.counted) };
            let end = end.min(at + (most / self.ids.len()).max(1));
            self.step(&sequences, at..end, take)?;
            at = end;
            progress.at((self.first * (len - 1) + self.ids.len() * at) as u64);
        }
        Ok(())
    }

    /// A sequence for each chunk.
    fn sequences(&self, model: &Model) -> Result<Vec<Sequence>> {
        let sequence = |ids: &Vec<u32>| {
            let sequence = model.sequence()?;
            model.engine()?.expect(sequence.id(), ids.len());
            Ok(sequence)
        };
        self.ids.iter().map(sequence).collect()
    }

    /// One step of each model over these positions of each chunk.
    fn step(
        &self,
        sequences: &[Vec<Sequence>],
        range: Range<usize>,
        take: &mut dyn FnMut(Rows<'_>) -> Result<()>,
    ) -> Result<()> {
        let counted = range.start >= self.walk.chunks.first;
        let mut logits = Vec::with_capacity(sequences.len());
        for (model, sequences) in self.walk.models.iter().zip(sequences) {
            let wanted = if counted { Wanted::All } else { Wanted::None };
            let chunks = sequences.iter().zip(&self.ids);
            let work: Vec<Work<'_>> = chunks
                .map(|(sequence, ids)| Work {
                    seq: sequence.id(),
                    tokens: &ids[range.clone()],
                    wanted,
                })
                .collect();
            let stop = self.walk.watch.stop;
            let step = |engine: &mut Engine| engine.step(&work, &mut NoTap);
            logits.push(model.engine()?.stopping(stop, step)?);
        }
        if !counted {
            return Ok(());
        }
        for i in 0..self.ids.len() {
            take(Rows {
                chunk: self.first + i,
                first: range.start,
                n: range.len(),
                logits: logits.iter().map(|chunks| chunks[i].as_slice()).collect(),
            })?;
        }
        Ok(())
    }
}

/// The error of a row that is no distribution.
pub(super) fn non_finite(place: impl Display) -> Error {
    let what = format!("model produced non-finite logits at {place}");
    let hint = "the file's weights may hold NaN, or a value overflowed (try an f32 KV cache)";
    Error::new(ErrorKind::ModelFile, what).with_hint(hint)
}
