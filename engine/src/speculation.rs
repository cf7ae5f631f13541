//! How a session guesses what comes next: the text is the same, and sooner there.

use crate::error::{Error, ErrorKind, Result};
use crate::handle::Model;
use crate::sequence::Sequence;
use model::sampler::argmax;
use model::speculate::{Drafter, Guess, Lookup};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// Most tokens of a guess, unless another number is given.
const MOST: usize = 16;

/// How a text's next tokens are guessed. They are computed together and kept as far as they are what is drawn anyway, so the
/// text is the same to the bit.
#[derive(Clone, Debug)]
pub struct Speculation {
    by: By,
    most: usize,
}

#[derive(Clone, Debug)]
enum By {
    Ngram,
    Draft(Model),
}

impl Speculation {
    /// By what followed the same tokens before, in the prompt and in the text: for code, lists and quotes.
    pub fn ngram() -> Self {
        Self { by: By::Ngram, most: MOST }
    }

    /// By a smaller model with the same vocabulary.
    pub fn draft(model: Model) -> Self {
        Self { by: By::Draft(model), most: MOST }
    }

    /// Most tokens of a guess.
    #[must_use]
    pub fn with_most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// Makes the guesser for a session with `model`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a draft model with another vocabulary, and for the model itself.
    pub(crate) fn guesser(&self, model: &Model) -> Result<Guesser> {
        let by: Box<dyn Drafter> = match &self.by {
            By::Ngram => Box::new(Lookup::new(self.most)),
            By::Draft(draft) => {
                check_vocabulary(model, draft)?;
                Box::new(DraftModel { sequence: draft.sequence()?, most: self.most })
            }
        };
        Ok(Guesser(Arc::new(Mutex::new(by))))
    }
}

/// A draft model's tokens must be the model's: a guess is ids.
fn check_vocabulary(model: &Model, draft: &Model) -> Result<()> {
    let refused = |what: String| Err(Error::new(ErrorKind::Usage, format!("draft model: {what}")));
    if model.same_as(draft) {
        return refused("it is the model itself".to_owned());
    }
    let (ours, theirs) = (model.tokenizer(), draft.tokenizer());
    let n = ours.n_vocab().min(theirs.n_vocab()) as u32;
    match (0..n).find(|&id| ours.piece(id) != theirs.piece(id)) {
        None => Ok(()),
        Some(id) => {
            let [wanted, found] = [ours, theirs].map(|of| crate::text::quoted(of.piece(id)));
            refused(format!("another vocabulary: token {id} is {found}, and {wanted} in the model"))
        }
    }
}

/// Guesses for one text after the other.
#[derive(Clone)]
pub(crate) struct Guesser(Arc<Mutex<Box<dyn Drafter>>>);

impl Drafter for Guesser {
    fn guess(&mut self, ids: &[u32], n: usize) -> Vec<u32> {
        // One that panicked guesses nothing any more.
        self.0.lock().map_or(Vec::new(), |mut by| by.guess(ids, n))
    }

    fn took(&mut self, guess: Guess) {
        if let Ok(mut by) = self.0.lock() {
            by.took(guess);
        }
    }
}

impl fmt::Debug for Guesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guesser").finish_non_exhaustive()
    }
}

/// A smaller model, and what it has read of the text.
struct DraftModel {
    sequence: Sequence,
    most: usize,
}

impl DraftModel {
    /// The likeliest tokens, one after the other.
    fn likeliest(&self, ids: &[u32], n: usize) -> Result<Vec<u32>> {
        let mut engine = self.sequence.model().engine()?;
        let seq = self.sequence.id();
        let n_vocab = engine.n_vocab() as u32;
        // The model may have more tokens, and a longer context.
        let room = engine.options().n_ctx.saturating_sub(ids.len());
        let n = n.min(self.most).min(room);
        if n == 0 || ids.iter().any(|&id| id >= n_vocab) {
            return Ok(Vec::new());
        }
        let read = engine.reuse(seq, ids)?;
        let logits = engine.prefill(seq, &ids[read..], &mut |_| ControlFlow::Continue(()))?;
        let Some(logits) = logits else { return Ok(Vec::new()) };
        let mut guess = vec![argmax(&logits)];
        while guess.len() < n {
            let last = guess[guess.len() - 1];
            guess.push(engine.decode_greedy(seq, last)?.id);
        }
        Ok(guess)
    }
}

impl Drafter for DraftModel {
    fn guess(&mut self, ids: &[u32], n: usize) -> Vec<u32> {
        // A draft that fails is no guess: the model goes on by itself.
        self.likeliest(ids, n).unwrap_or_default()
    }

    fn took(&mut self, _: Guess) {}
}
