//! Sequences of a model's cache, for programs that run the steps themselves: batches, scores, searches.

use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Model, callers};
use graph::NoTap;
use model::sampler::LogSoftmax;
use model::{SeqId, Wanted};
use std::ops::ControlFlow;

/// Tokens of a scored text that are computed at once: their logits are held at the same time.
const SCORED_AT_ONCE: usize = 64;

/// A sequence of tokens in a model's cache. Dropped, it gives its positions back.
#[derive(Debug)]
pub struct Sequence {
    model: Model,
    id: SeqId,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Work<'w> {
    /// The sequence to which the tokens are added.
    pub sequence: &'w Sequence,
    /// At least one.
    pub tokens: &'w [u32],
    /// Which of them give logits.
    pub wanted: Wanted,
}

impl Work<'_> {
    pub(crate) fn item(&self) -> model::Work<'_> {
        model::Work { seq: self.sequence.id, tokens: self.tokens, wanted: self.wanted }
    }
}

impl Sequence {
    pub(crate) fn new(model: Model, id: SeqId) -> Self {
        Self { model, id }
    }

    pub(crate) fn is_of(&self, model: &Model) -> bool {
        self.model.same_as(model)
    }

    pub(crate) fn id(&self) -> SeqId {
        self.id
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokens that it has.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] as for [`Model::engine`].
    pub fn ids(&self) -> Result<Vec<u32>> {
        Ok(self.model.engine()?.ids(self.id).to_vec())
    }

    /// A sequence that shares the beginning of this one, in whole blocks of 64 positions up to `len`: what they share is
    /// neither computed nor kept twice. It is empty where layers of the model keep a state (LFM2's convolutions), which no
    /// two sequences share.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for more positions than there are.
    pub fn fork(&self, len: usize) -> Result<Self> {
        let id = self.model.engine()?.fork(self.id, len).map_err(callers)?;
        Ok(Self::new(self.model.clone(), id))
    }

    /// Forgets the positions from `len` on, and returns how many are left: fewer inside a block that a fork shares, and none
    /// where layers of the model keep a state, which cannot go back.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] as for [`Model::engine`].
    pub fn truncate(&mut self, len: usize) -> Result<usize> {
        self.model.engine()?.truncate(self.id, len).map_err(callers)
    }

    /// Adds tokens, in as many steps as they need, and returns the logits after the last.
    ///
    /// # Errors
    /// As [`Model::step`]; no tokens are [`ErrorKind::Rejected`].
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut go_on = |_| ControlFlow::Continue(());
        let logits = self.model.engine()?.prefill(self.id, tokens, &mut go_on).map_err(callers)?;
        logits.ok_or_else(|| Error::new(ErrorKind::Internal, "no logits for a whole prompt"))
    }

    /// Adds tokens and returns for each but the first how likely the model held it, given all before: the natural
    /// logarithm of its probability. What was in the sequence already counts as before.
    ///
    /// The mean of these, negated and exponentiated, is the perplexity of the text.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub fn score(&mut self, tokens: &[u32]) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(tokens.len());
        let mut engine = self.model.engine()?;
        let n = engine.options().n_batch.min(SCORED_AT_ONCE);
        let n_vocab = engine.n_vocab();
        let len = engine.ids(self.id).len() + tokens.len();
        engine.expect(self.id, len);
        for (c, chunk) in tokens.chunks(n).enumerate() {
            let work = [model::Work { seq: self.id, tokens: chunk, wanted: Wanted::All }];
            let rows = engine.step(&work, &mut NoTap).map_err(callers)?;
            let next = tokens.iter().skip(c * n + 1);
            let logits = rows.iter().flat_map(|rows| rows.chunks(n_vocab));
            scores.extend(logits.zip(next).map(|(row, &id)| log_probability(row, id)));
        }
        Ok(scores)
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.model.remove(self.id);
    }
}

/// The logarithm of the probability that a row of logits gives an id.
fn log_probability(logits: &[f32], id: u32) -> f64 {
    let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    LogSoftmax::of(logits).log_probability(f64::from(logit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_a_row_add_up() {
        // softmax of ln(1), ln(2), ln(5) is 1/8, 2/8, 5/8.
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        for (id, p) in [(0, 0.125), (1, 0.25), (2, 0.625f64)] {
            assert!((log_probability(&logits, id) - p.ln()).abs() < 1e-7);
        }
        assert_eq!(log_probability(&logits, 3), f64::NEG_INFINITY);
    }
}
