//! The loop for one sequence: prompt in, ids out, until a stop rule holds.

use crate::kv::SeqId;
use crate::{Engine, Error, ErrorKind, Result, Sampler, sampler};
use graph::Best;
use std::collections::VecDeque;
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
    /// The sampler's constraint has the text whole: nothing may follow.
    Complete,
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
    let total = request.prompt.len();
    let mut progress = |done: usize| listen(Event::Prompt { done, total });
    let mut generation = Generation::begin(engine, request, sampler, &mut progress)?;
    let mut ids = Vec::new();
    while let Some(id) = generation.next_id(engine, sampler)? {
        ids.push(id);
        if listen(Event::Token(id)).is_break() {
            generation.stop();
        }
    }
    let Generation { n_reused, prompt_time, decode_time, .. } = generation;
    let finish = generation.finish().unwrap_or(Finish::Stopped);
    Ok(Generated { ids, finish, n_reused, prompt_time, decode_time })
}

/// A text in the making: its ids come one by one, each computed when it is asked for.
#[derive(Debug)]
pub struct Generation {
    seq: SeqId,
    stop: StopRules,
    state: State,
    n_generated: usize,
    n_steps: usize,
    n_reused: usize,
    prompt_time: Duration,
    decode_time: Duration,
}

/// Where the next id comes from.
#[derive(Debug)]
enum State {
    /// The logits after the prompt.
    Logits(Vec<f32>),
    /// The step of this id, the last of the text so far.
    After(u32),
    /// The text has come to its length, and is closed with these ids before it ends; the model is not asked.
    Closing(VecDeque<u32>, Finish),
    /// There is no next id.
    Ended(Finish),
}

/// What the model says of the next id.
enum Next {
    Logits(Vec<f32>),
    Argmax(Best),
}

impl Generation {
    /// Computes the prompt. `progress` hears after each step how many of its tokens are done, reused ones included; where
    /// it breaks, the text has ended before its first id.
    pub fn begin(
        engine: &mut Engine,
        request: Request<'_>,
        sampler: &mut Sampler,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let Request { seq, prompt, stop } = request;
        stop.check(engine.n_vocab())?;
        let start = Instant::now();
        let n_reused = engine.reuse(seq, prompt)?;
        let rest = &prompt[n_reused.min(prompt.len())..];
        let logits = engine.prefill(seq, rest, &mut |done| progress(n_reused + done))?;
        let prompt_time = start.elapsed();
        let state = match logits {
            None => State::Ended(Finish::Stopped),
            Some(logits) => {
                sampler.begin(prompt);
                State::Logits(logits)
            }
        };
        let (stop, decode_time) = (stop.clone(), Duration::ZERO);
        Ok(Self {
            seq,
            stop,
            state,
            n_generated: 0,
            n_steps: 0,
            n_reused,
            prompt_time,
            decode_time,
        })
    }

    /// The next id of the text; `None` once it has ended, and after an error.
    pub fn next_id(&mut self, engine: &mut Engine, sampler: &mut Sampler) -> Result<Option<u32>> {
        let start = Instant::now();
        let id = match self.advance(engine, sampler) {
            // The step was given up: the text ends before its token.
            Err(error) if error.kind() == ErrorKind::Stopped => Ok(self.end(Finish::Stopped)),
            id => id,
        };
        self.decode_time += start.elapsed();
        id
    }

    fn advance(&mut self, engine: &mut Engine, sampler: &mut Sampler) -> Result<Option<u32>> {
        if self.finish().is_some() {
            return Ok(None);
        }
        if self.n_generated > 0 && sampler.is_complete() {
            return Ok(self.end(Finish::Complete));
        }
        let is_closing = matches!(self.state, State::Closing(..));
        if !is_closing && self.stop.max_tokens.is_some_and(|max| self.n_generated >= max) {
            return Ok(self.close(sampler, Finish::MaxTokens));
        }
        let next = match std::mem::replace(&mut self.state, State::Ended(Finish::Stopped)) {
            State::Logits(logits) => Next::Logits(logits),
            State::After(_) if engine.ids(self.seq).len() >= engine.options().n_ctx => {
                return Ok(self.close(sampler, Finish::ContextFull));
            }
            State::After(id) => {
                self.n_steps += 1;
                if sampler.is_argmax() {
                    Next::Argmax(engine.decode_greedy(self.seq, id)?)
                } else {
                    Next::Logits(engine.decode(self.seq, id)?)
                }
            }
            State::Closing(ids, finish) => return Ok(self.next_closing(ids, finish)),
            State::Ended(finish) => return Ok(self.end(finish)),
        };
        let len = engine.ids(self.seq).len();
        let id = match next {
            Next::Logits(logits) => sampler.sample(&logits, len)?,
            Next::Argmax(best) => sampler::checked_best(best, len)?,
        };
        if self.stop.end_ids.contains(&id) {
            return Ok(self.end(Finish::EndToken(id)));
        }
        sampler.accept(id);
        self.n_generated += 1;
        self.state = State::After(id);
        Ok(Some(id))
    }

    /// Ends the text at its length, closed if the sampler's constraint is to.
    fn close(&mut self, sampler: &mut Sampler, finish: Finish) -> Option<u32> {
        self.next_closing(sampler.closing().into(), finish)
    }

    fn next_closing(&mut self, mut ids: VecDeque<u32>, finish: Finish) -> Option<u32> {
        let Some(id) = ids.pop_front() else { return self.end(finish) };
        self.n_generated += 1;
        self.state = State::Closing(ids, finish);
        Some(id)
    }

    fn end(&mut self, finish: Finish) -> Option<u32> {
        self.state = State::Ended(finish);
        None
    }

    /// Ends the text where it is, unless it has ended already.
    pub fn stop(&mut self) {
        if self.finish().is_none() {
            self.state = State::Ended(Finish::Stopped);
        }
    }

    /// Why the text ended; `None` while it goes on.
    pub fn finish(&self) -> Option<Finish> {
        match self.state {
            State::Ended(finish) => Some(finish),
            State::Logits(_) | State::After(_) | State::Closing(..) => None,
        }
    }

    /// Steps of one token behind the prompt. The first id needs none, and what ends the text may have needed one.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// Prompt tokens that were in the cache already.
    pub fn n_reused(&self) -> usize {
        self.n_reused
    }

    /// Time until the prompt's logits were there.
    pub fn prompt_time(&self) -> Duration {
        self.prompt_time
    }

    /// Time of the steps and draws after that.
    pub fn decode_time(&self) -> Duration {
        self.decode_time
    }
}
