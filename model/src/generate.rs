//! The loop for one sequence: prompt in, ids out, until a stop rule holds.

use crate::kv::SeqId;
use crate::{Engine, Error, ErrorKind, Result, Sampler, sampler};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// When to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopRules {
    /// Ids that end a text. Empty where the model has none: then only lengths stop it.
    pub end_ids: Vec<u32>,
    /// Most tokens to generate; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
}

impl StopRules {
    /// Refuses end ids out of the vocabulary. The text in the result is a warning for the user.
    pub fn check(&self, n_vocab: usize) -> Result<Option<&'static str>> {
        match self.end_ids.iter().find(|&&id| id as usize >= n_vocab) {
            Some(id) => {
                let what = format!("end-of-text token id {id} out of vocabulary (0..{n_vocab})");
                Err(Error::new(ErrorKind::BadHyperParameter, what))
            }
            None if self.end_ids.is_empty() => {
                Ok(Some("the model names no end-of-text token: generation stops by length only"))
            }
            None => Ok(None),
        }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said this end id; it is not among the ids of the text.
    EndToken(u32),
    /// [`StopRules::max_tokens`] were generated.
    MaxTokens,
    /// No position is left.
    ContextFull,
    /// The listener said so.
    Stopped,
}

/// What a listener hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `done` of `total` prompt tokens are computed.
    Prompt {
        /// Reused ones included.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token of the text.
    Token(u32),
}

/// A text to generate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The sequence that the text is added to. The beginning that it shares with the prompt is not computed again.
    pub seq: SeqId,
    /// The whole prompt.
    pub prompt: &'a [u32],
    /// When to stop.
    pub stop: &'a StopRules,
}

/// A generated text.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Its ids, without the end id.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Prompt tokens that were in the cache already.
    pub n_reused: usize,
    /// Time until the prompt's logits were there.
    pub prompt_time: Duration,
    /// Time of the steps and draws after that.
    pub decode_time: Duration,
}

/// Generates a text. `listen` hears of every prompt step and every token, and may break.
///
/// The last token may be emitted without being in the cache: nothing was computed after it.
pub fn generate(
    engine: &mut Engine,
    request: Request<'_>,
    sampler: &mut Sampler,
    listen: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Generated> {
    let Request { seq, prompt, stop } = request;
    stop.check(engine.n_vocab())?;
    let start = Instant::now();
    let n_reused = engine.reuse(seq, prompt)?;
    let total = prompt.len();
    let mut progress = |done: usize| listen(Event::Prompt { done: n_reused + done, total });
    let logits = engine.prefill(seq, &prompt[n_reused.min(total)..], &mut progress)?;
    let prompt_time = start.elapsed();
    let start = Instant::now();
    let mut ids = Vec::new();
    let finish = match logits {
        None => Finish::Stopped,
        Some(logits) => {
            sampler.forget();
            prompt.iter().for_each(|&id| sampler.accept(id));
            decode(engine, request, sampler, logits, &mut |id| {
                ids.push(id);
                listen(Event::Token(id))
            })?
        }
    };
    Ok(Generated { ids, finish, n_reused, prompt_time, decode_time: start.elapsed() })
}

fn decode(
    engine: &mut Engine,
    request: Request<'_>,
    sampler: &mut Sampler,
    mut logits: Vec<f32>,
    emit: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Finish> {
    let Request { seq, stop, .. } = request;
    let mut n_generated = 0;
    let mut argmax = None;
    loop {
        if stop.max_tokens.is_some_and(|max| n_generated >= max) {
            return Ok(Finish::MaxTokens);
        }
        let len = engine.ids(seq).len();
        let id = match argmax.take() {
            Some(best) => sampler::finite_best(best, len)?,
            None => sampler.sample(&logits, len)?,
        };
        if stop.end_ids.contains(&id) {
            return Ok(Finish::EndToken(id));
        }
        sampler.accept(id);
        n_generated += 1;
        if emit(id).is_break() {
            return Ok(Finish::Stopped);
        }
        if stop.max_tokens == Some(n_generated) {
            return Ok(Finish::MaxTokens);
        }
        if len >= engine.options().n_ctx {
            return Ok(Finish::ContextFull);
        }
        if sampler.is_argmax() {
            argmax = Some(engine.decode_greedy(seq, id)?);
        } else {
            logits = engine.decode(seq, id)?;
        }
    }
}
