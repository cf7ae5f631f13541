//! How well a model foretells a text: its perplexity by the rules of llama-perplexity, and how far its probabilities are
//! from those of another model, another format or another arithmetic.
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # karat::testing::write_tiny_model(&path)?;
//! use karat::perplexity::{Base, Chunks, Measure, Watch, divergence, perplexity};
//! use karat::{Arithmetic, Model, Options, Stop};
//!
//! let measure = Measure { n_ctx: 32, ..Measure::default() };
//! let options = measure.options(&Options::default());
//! let model = Model::builder(&path).options(options.clone()).open()?;
//! let chunks = Chunks::of_text(&model, &"All work and no play. ".repeat(20), &measure)?;
//!
//! let watch = Watch { stop: &Stop::new(), listener: &|_| {} };
//! let found = perplexity(&model, &chunks, watch)?;
//! assert!(found.perplexity.value > 1.0);
//!
//! // How far is its arithmetic from that in f32?
//! let exact = Model::builder(&path).options(options).arithmetic(Arithmetic::F32).open()?;
//! let found = divergence(&model, Base::Model(&exact), &chunks, watch)?;
//! assert!(found.kld.mean.value < 1e-2);
//! # Ok(()) }
//! ```

mod base;
mod chunks;
mod hellaswag;
mod row;
mod stats;
mod walk;

pub use base::BaseFile;
pub use chunks::{Chunks, Measure};
pub use hellaswag::{HellaSwag, Question, hellaswag, options as hellaswag_options, questions};
pub use stats::{Divergence, Estimate, Percentile, Perplexity, Running, Spread};
pub use walk::Watch;

use crate::error::{Error, ErrorKind, Result};
use crate::handle::Model;
use row::{Packed, Row};
use std::io::Write;
use std::panic::resume_unwind;
use walk::{Rows, Walk, non_finite};

/// What a model is compared with.
#[derive(Debug)]
pub enum Base<'b> {
    /// Probabilities in 16 bits, of [`perplexity_saving`] or llama-perplexity: good for divergences above 1e-6.
    File(&'b mut BaseFile),
    /// Another model with the same vocabulary, or the same in another arithmetic: nothing is rounded.
    Model(&'b Model),
}

/// The perplexity of a model on a text.
///
/// # Errors
/// Those of [`Model::step`]; [`ErrorKind::ModelFile`] for logits that are no numbers; [`ErrorKind::Stopped`].
pub fn perplexity(model: &Model, chunks: &Chunks, watch: Watch<'_>) -> Result<Perplexity> {
    let mut nlls = Vec::new();
    Walk { models: &[model], chunks, watch }.run(&mut |rows| {
        let nll = |i: usize| Some(rows.row(0, i)?.nll(chunks.next(rows.chunk, rows.first + i)));
        rows.each(model.info().threads, nll, &mut nlls)
    })?;
    Ok(Perplexity::of(&nlls, chunks.n_counted()))
}

/// The same, and writes the probabilities as llama-perplexity does, for [`BaseFile`]: 2 bytes for each id of the
/// vocabulary and token that is counted.
///
/// # Errors
/// As [`perplexity`]; [`ErrorKind::Io`] where they cannot be written, [`ErrorKind::Usage`] for chunks with a stride.
pub fn perplexity_saving(
    model: &Model,
    chunks: &Chunks,
    out: &mut dyn Write,
    watch: Watch<'_>,
) -> Result<Perplexity> {
    if chunks.n_counted() != chunks.len - 1 - chunks.len / 2 {
        let what = "--save-all-logits: not with a stride, which the format does not know";
        return Err(Error::new(ErrorKind::Usage, what));
    }
    base::write_head(out, chunks, model.engine()?.n_vocab())?;
    let (mut nlls, mut packed) = (Vec::new(), Vec::new());
    Walk { models: &[model], chunks, watch }.run(&mut |rows| {
        let pack = |i: usize| {
            let row = rows.row(0, i)?;
            let mut bytes = Vec::new();
            row.pack(&mut bytes);
            Some((row.nll(chunks.next(rows.chunk, rows.first + i)), bytes))
        };
        rows.each(model.info().threads, pack, &mut packed)?;
        for (nll, bytes) in packed.drain(..) {
            nlls.push(nll);
            out.write_all(&bytes).map_err(|error| base::write_error(&error))?;
        }
        Ok(())
    })?;
    Ok(Perplexity::of(&nlls, chunks.n_counted()))
}

/// How far the probabilities of a model are from those of its base.
///
/// # Errors
/// As [`perplexity`]; [`ErrorKind::Rejected`] for a base with another vocabulary.
pub fn divergence(
    model: &Model,
    base: Base<'_>,
    chunks: &Chunks,
    watch: Watch<'_>,
) -> Result<Divergence> {
    let mut all = Vec::new();
    let threads = model.info().threads;
    match base {
        Base::Model(base) => {
            check_vocabularies(model, base)?;
            Walk { models: &[model, base], chunks, watch }.run(&mut |rows| {
                let compare = |i: usize| {
                    let next = chunks.next(rows.chunk, rows.first + i);
                    Some(rows.row(0, i)?.against(&rows.row(1, i)?, next))
                };
                rows.each(threads, compare, &mut all)
            })?;
        }
        Base::File(file) => {
            let n_vocab = model.engine()?.n_vocab();
            let row_bytes = Packed::n_bytes(n_vocab);
            Walk { models: &[model], chunks, watch }.run(&mut |rows| {
                let bytes = file.rows(rows.chunk, rows.first, rows.n)?;
                let compare = |i: usize| {
                    let base = Packed::read(&bytes[i * row_bytes..][..row_bytes], n_vocab)?;
                    let next = chunks.next(rows.chunk, rows.first + i);
                    Some(rows.row(0, i)?.against_packed(&base, next))
                };
                rows.each(threads, compare, &mut all)
            })?;
        }
    }
    Ok(Divergence::of(&all, chunks.n_counted()))
}

/// The same id must mean the same token.
fn check_vocabularies(model: &Model, base: &Model) -> Result<()> {
    let (n, of_base) = (model.engine()?.n_vocab(), base.engine()?.n_vocab());
    let (ours, theirs) = (model.tokenizer(), base.tokenizer());
    let known = ours.n_vocab().min(theirs.n_vocab());
    let other = (0..known as u32).find(|&id| ours.piece(id) != theirs.piece(id));
    let what = match other {
        None if n == of_base => return Ok(()),
        None => format!("the base has a vocabulary of {of_base}, the model of {n}"),
        Some(id) => format!("id {id} means one token to the base and another to the model"),
    };
    Err(Error::new(ErrorKind::Rejected, what).with_hint("a base of the same family"))
}

impl Rows<'_> {
    /// Row `i` of a model.
    fn row(&self, model: usize, i: usize) -> Option<Row<'_>> {
        let n_vocab = self.logits[model].len() / self.n;
        Row::new(&self.logits[model][i * n_vocab..][..n_vocab])
    }

    /// Adds what `f` makes of each row, on all threads; a row for which it gives nothing is no distribution.
    fn each<T: Send>(
        &self,
        threads: usize,
        f: impl Fn(usize) -> Option<T> + Sync,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let share = self.n.div_ceil(threads.max(1));
        let shares = (0..self.n).step_by(share).map(|i| i..self.n.min(i + share));
        let f = &f;
        let found: Vec<Vec<Option<T>>> = std::thread::scope(|scope| {
            let threads = shares.map(|share| scope.spawn(move || share.map(f).collect::<Vec<_>>()));
            let threads: Vec<_> = threads.collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        for (i, value) in found.into_iter().flatten().enumerate() {
            let place = format_args!("token {} of chunk {}", self.first + i, self.chunk + 1);
            out.push(value.ok_or_else(|| non_finite(place))?);
        }
        Ok(())
    }
}
