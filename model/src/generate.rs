//! The loop for one sequence: prompt in, ids out, until a stop rule holds.

use crate::kv::SeqId;
use crate::speculate::{Drafter, Guess};
use crate::{Engine, Error, ErrorKind, Keep, Result, Sampler, Wanted, Work, sampler};
use graph::{Best, CacheGroup, NoTap};
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
    /// Its last words were to end it; whoever reads the text says so, not the loop.
    StopText,
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
            generation.stop(engine)?;
        }
    }
    let Generation { n_reused, prompt_time, decode_time, .. } = generation;
    let finish = generation.finish().unwrap_or(Finish::Stopped);
    Ok(Generated { ids, finish, n_reused, prompt_time, decode_time })
}

/// A text in the making: its ids come one by one, each computed when it is asked for.
pub struct Generation {
    seq: SeqId,
    stop: StopRules,
    state: State,
    n_generated: usize,
    n_steps: usize,
    n_reused: usize,
    prompt_time: Duration,
    decode_time: Duration,
    drafter: Option<Box<dyn Drafter>>,
    guesses: Guess,
    /// Tokens at the beginning that stay where the context is full and the text goes on.
    shift: Option<usize>,
    unclosed: bool,
}

/// Where the next id comes from.
#[derive(Debug)]
enum State {
    /// The logits after the prompt.
    Logits(Vec<f32>),
    /// What the model says behind the last id, and behind each of the guessed ones, which are computed.
    Guessed(Guessed),
    /// The step of this id, the last of the text so far.
    After(u32),
    /// The text has come to its length, and is closed with these ids before it ends; the model is not asked.
    Closing(VecDeque<u32>, Finish),
    /// There is no next id.
    Ended(Finish),
}

/// A guess that was computed.
#[derive(Debug)]
struct Guessed {
    /// The ids that the text has not taken yet.
    ids: VecDeque<u32>,
    /// What the model says before each of these, and behind the last.
    next: VecDeque<Next>,
    so_far: Guess,
}

/// What the model says of the next id.
#[derive(Debug)]
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
            drafter: None,
            guesses: Guess::default(),
            shift: None,
            unclosed: false,
        })
    }

    /// Goes on where the context is full: forgets half of what stands behind the first `keep` tokens, as llama.cpp does, and
    /// reads the rest again, so that what follows is what follows these tokens. `None` ends the text there.
    pub fn shift_context(&mut self, keep: Option<usize>) {
        self.shift = keep;
    }

    /// Computes what `drafter` guesses along with each id. The text is the same.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where a sequence cannot go back behind a wrong guess: layers keep a state, or those with
    /// a window only what a token still sees.
    pub fn draft_with(&mut self, engine: &Engine, drafter: Box<dyn Drafter>) -> Result<()> {
        let groups = &engine.graph().groups;
        let what = if groups.contains(&CacheGroup::States) {
            "speculation: layers of this model keep a state, which cannot go back behind a wrong guess"
        } else if engine.options().keep == Keep::Seen
            && groups.iter().any(|g| matches!(g, CacheGroup::Positions { window: Some(_) }))
        {
            "speculation: layers with a window keep only what is seen, and cannot go back behind a wrong guess"
        } else {
            self.drafter = Some(drafter);
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unsupported, what))
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
            self.forget_guess(engine)?;
            return Ok(self.end(Finish::Complete));
        }
        let is_closing = matches!(self.state, State::Closing(..));
        if !is_closing && self.stop.max_tokens.is_some_and(|max| self.n_generated >= max) {
            return Ok(self.close(sampler, Finish::MaxTokens));
        }
        let seq = self.seq;
        let is_full = |engine: &Engine| engine.ids(seq).len() >= engine.options().n_ctx;
        let next = match std::mem::replace(&mut self.state, State::Ended(Finish::Stopped)) {
            State::Logits(logits) => Next::Logits(logits),
            State::Guessed(guessed) => return self.next_guessed(engine, sampler, guessed),
            State::After(_) if is_full(engine) && self.shift.is_none() => {
                return Ok(self.close(sampler, Finish::ContextFull));
            }
            State::After(id) if is_full(engine) => Next::Logits(self.read_shifted(engine, id)?),
            State::After(id) => {
                self.n_steps += 1;
                if let Some(guessed) = self.compute_guess(engine, sampler, id)? {
                    return self.next_guessed(engine, sampler, guessed);
                }
                if sampler.is_argmax() {
                    Next::Argmax(engine.decode_greedy(self.seq, id)?)
                } else {
                    Next::Logits(engine.decode(self.seq, id)?)
                }
            }
            State::Closing(ids, finish) => return Ok(self.next_closing(ids, finish)),
            State::Ended(finish) => return Ok(self.end(finish)),
        };
        let id = choose(next, sampler, engine.ids(self.seq).len())?;
        Ok(self.take(sampler, id))
    }

    /// Forgets a part of a full sequence, reads the rest and `id`, and returns what the model says behind it.
    fn read_shifted(&mut self, engine: &mut Engine, id: u32) -> Result<Vec<f32>> {
        self.n_steps += 1;
        let mut text = engine.ids(self.seq).to_vec();
        text.push(id);
        // At least the last token is read, and at least one goes.
        let keep = self.shift.unwrap_or(0).min(text.len() - 2);
        let forgotten = (text.len() - keep).div_ceil(2);
        text.drain(keep..keep + forgotten);
        let read = engine.reuse(self.seq, &text)?;
        let mut go_on = |_| ControlFlow::Continue(());
        let logits = engine.prefill(self.seq, &text[read..], &mut go_on)?;
        // A step that is given up is no logits.
        logits.ok_or_else(|| Error::new(ErrorKind::Stopped, "stopped"))
    }

    /// Adds an id to the text, unless it is an end.
    fn take(&mut self, sampler: &mut Sampler, id: u32) -> Option<u32> {
        if self.stop.end_ids.contains(&id) {
            return self.end(Finish::EndToken(id));
        }
        sampler.accept(id);
        self.n_generated += 1;
        self.state = State::After(id);
        Some(id)
    }

    /// Computes the last id together with a guess of those that follow; `None` where there is none.
    fn compute_guess(
        &mut self,
        engine: &mut Engine,
        sampler: &Sampler,
        id: u32,
    ) -> Result<Option<Guessed>> {
        let Some(drafter) = &mut self.drafter else { return Ok(None) };
        let options = engine.options();
        let mut text = engine.ids(self.seq).to_vec();
        text.push(id);
        let room = options.n_ctx - text.len();
        let wanted = self.stop.max_tokens.map_or(room, |max| max - self.n_generated);
        // The last token needs no guess: behind it nothing is computed.
        let n = room.min(wanted.saturating_sub(1)).min(options.n_batch - 1);
        let mut guess = drafter.guess(&text, n);
        // A draft model may have more tokens, and give more than are wanted.
        let n_vocab = engine.n_vocab();
        let known = guess.iter().take_while(|&&id| (id as usize) < n_vocab).count();
        guess.truncate(known.min(n));
        // A guess must not bring on the frequencies of longer texts.
        let is_long = engine.graph().is_long(text.len());
        while engine.graph().is_long(text.len() + guess.len()) != is_long {
            guess.pop();
        }
        if guess.is_empty() {
            return Ok(None);
        }
        let tokens: Vec<u32> = std::iter::once(id).chain(guess.iter().copied()).collect();
        let work = [Work { seq: self.seq, tokens: &tokens, wanted: Wanted::All }];
        let next = if sampler.is_argmax() {
            engine.step_greedy(&work)?.into_iter().map(Next::Argmax).collect()
        } else {
            let rows = engine.step(&work, &mut NoTap)?;
            let rows = rows.iter().flat_map(|rows| rows.chunks(n_vocab));
            rows.map(|row| Next::Logits(row.to_vec())).collect()
        };
        let so_far = Guess { n: guess.len(), taken: 0 };
        Ok(Some(Guessed { ids: guess.into(), next, so_far }))
    }

    /// The next id where a guess was computed: drawn as it would be without.
    fn next_guessed(
        &mut self,
        engine: &mut Engine,
        sampler: &mut Sampler,
        mut guessed: Guessed,
    ) -> Result<Option<u32>> {
        let len = engine.ids(self.seq).len() - guessed.ids.len();
        let Some(next) = guessed.next.pop_front() else {
            let what = "backend returned too few rows for a guess";
            return Err(Error::new(ErrorKind::Backend, what));
        };
        let id = choose(next, sampler, len)?;
        let is_right = guessed.ids.front() == Some(&id);
        let taken = self.take(sampler, id);
        if is_right && taken.is_some() {
            guessed.ids.pop_front();
            guessed.so_far.taken += 1;
            self.state = State::Guessed(guessed);
            return Ok(taken);
        }
        let finish = self.finish();
        self.state = State::Guessed(guessed);
        self.forget_guess(engine)?;
        self.state = finish.map_or(State::After(id), State::Ended);
        Ok(taken)
    }

    /// Takes what is left of a guess out of the sequence, and goes on as if it had not been made.
    fn forget_guess(&mut self, engine: &mut Engine) -> Result<()> {
        let State::Guessed(guessed) = &self.state else { return Ok(()) };
        let (so_far, wrong) = (guessed.so_far, guessed.ids.len());
        self.guesses.n += so_far.n;
        self.guesses.taken += so_far.taken;
        if let Some(drafter) = &mut self.drafter {
            drafter.took(so_far);
        }
        if wrong == 0 {
            return Ok(());
        }
        let text = engine.ids(self.seq);
        let text = text[..text.len() - wrong].to_vec();
        // Inside of a block that a fork shares more is forgotten: that is read again.
        let left = engine.truncate(self.seq, text.len())?;
        for tokens in text[left..].chunks(engine.options().n_batch) {
            let again = [Work { seq: self.seq, tokens, wanted: Wanted::None }];
            engine.step(&again, &mut NoTap)?;
        }
        Ok(())
    }

    /// Ends the text at its length, closed if the sampler's constraint is to.
    fn close(&mut self, sampler: &mut Sampler, finish: Finish) -> Option<u32> {
        let ids = sampler.closing();
        self.unclosed = ids.is_err();
        self.next_closing(ids.unwrap_or_default().into(), finish)
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
    ///
    /// # Errors
    /// Those of a step, where a part of the sequence has to be read again.
    pub fn stop(&mut self, engine: &mut Engine) -> Result<()> {
        if self.finish().is_some() {
            return Ok(());
        }
        let forgotten = self.forget_guess(engine);
        self.state = State::Ended(Finish::Stopped);
        forgotten
    }

    /// Whether the text was to be closed at its length, and no short end was found.
    pub fn is_unclosed(&self) -> bool {
        self.unclosed
    }

    /// How many tokens were guessed, and how many of them the text has taken.
    pub fn guesses(&self) -> Guess {
        self.guesses
    }

    /// Why the text ended; `None` while it goes on.
    pub fn finish(&self) -> Option<Finish> {
        match self.state {
            State::Ended(finish) => Some(finish),
            State::Logits(_) | State::Guessed(_) | State::After(_) | State::Closing(..) => None,
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

/// The id that is drawn behind `len` positions.
fn choose(next: Next, sampler: &mut Sampler, len: usize) -> Result<u32> {
    match next {
        Next::Logits(logits) => sampler.sample(&logits, len),
        Next::Argmax(best) => sampler::checked_best(best, len),
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Generation");
        shown.field("seq", &self.seq).field("stop", &self.stop);
        shown.field("n_generated", &self.n_generated).field("guesses", &self.guesses);
        shown.finish_non_exhaustive()
    }
}
