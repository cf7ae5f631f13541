//! Texts that go on from a prompt, piece by piece as they are generated.

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::grammar::{AtLimit, Grammar};
use crate::handle::Model;
use crate::sequence::Sequence;
use crate::speculation::{Guesser, Speculation};
use crate::stops::{Passed, Stops};
use crate::thoughts::{Parts, Splitter, Thoughts};
use graph::Stop;
use model::sampler::{Probabilities, Told};
use model::speculate::Guess;
use model::{Finish, Generation, Request, Sampler, SamplerParams};
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::ops::ControlFlow;
use std::time::Duration;
use tokenizer::{Decoder, Ends, Message, Show, Special, Tokenizer};

/// A prompt goes in, a text comes out. What a prompt has in common with the text before it is not computed again.
pub struct Session {
    sequence: Sequence,
    sampler: Sampler,
    max_tokens: Option<usize>,
    stop: Stop,
    guesser: Option<Guesser>,
    stop_texts: Vec<String>,
    thoughts: Thoughts,
    shift: Option<usize>,
}

impl Session {
    pub(crate) fn new(model: &Model) -> Result<Self> {
        let sequence = model.sequence()?;
        let params = model.recommended_sampling().params();
        let sampler = model.sampler(params)?;
        Ok(Self {
            sequence,
            sampler,
            max_tokens: None,
            stop: Stop::new(),
            guesser: None,
            stop_texts: Vec::new(),
            thoughts: Thoughts::default(),
            shift: None,
        })
    }

    /// How tokens are chosen; the default is what the file recommends, else llama.cpp's, with seed 0: the same prompt gives
    /// the same text every time. Ids that the file suppresses are never chosen.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a setting out of range.
    pub fn with_sampling(mut self, params: SamplerParams) -> Result<Self> {
        self.set_sampling(params)?;
        Ok(self)
    }

    /// Most tokens of a text; without it the text goes on until the model ends it or the context is full.
    #[must_use]
    pub fn with_max_tokens(mut self, n: usize) -> Self {
        self.max_tokens = Some(n);
        self
    }

    /// The text ends where it is soon after `stop` is requested, by Ctrl-C or from another thread; also while the prompt
    /// is read. Until it is cleared, other texts end before they begin.
    #[must_use]
    pub fn stop_with(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// Changes how tokens are chosen, from the next text on; what is refused changes nothing.
    ///
    /// # Errors
    /// As [`Session::with_sampling`].
    pub fn set_sampling(&mut self, params: SamplerParams) -> Result<()> {
        let sampler = self.sequence.model().sampler(params)?.telling(self.sampler.tells());
        let constraint = self.sampler.take_constraint();
        self.sampler = sampler;
        self.sampler.constrain(constraint);
        Ok(())
    }

    /// Texts have this form from now on; `None` leaves them free. `at_limit` says what becomes of one that comes to its most
    /// tokens first.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is no such grammar, and for what it asks that cannot be held.
    pub fn set_grammar(&mut self, grammar: Option<&Grammar>, at_limit: AtLimit) -> Result<()> {
        let model = self.sequence.model();
        let compiled = grammar.map(|grammar| model.compile(grammar, at_limit)).transpose()?;
        self.sampler.constrain(compiled.map(|compiled| Box::new(compiled) as _));
        Ok(())
    }

    /// A text goes on where the context is full: half of what stands behind the first `keep` tokens is forgotten, and the rest
    /// read again. `None`, as it is at first, ends it there: nothing is forgotten unless you ask for it.
    pub fn set_context_shift(&mut self, keep: Option<usize>) {
        self.shift = keep;
    }

    /// Where the thoughts of a model that thinks first go. A [`Chat`](crate::Chat) has them apart, a session in the text.
    pub fn set_thoughts(&mut self, thoughts: Thoughts) {
        self.thoughts = thoughts;
    }

    /// A text ends where it would say one of these, which is no part of it.
    pub fn set_stop_texts(&mut self, texts: Vec<String>) {
        self.stop_texts = texts;
    }

    /// Guesses what comes next, which is the same text sooner; `None` does not.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a draft model with another vocabulary, and for the session's model itself. Where the model's
    /// sequences cannot go back behind a wrong guess, texts are refused with [`ErrorKind::ModelFile`].
    pub fn set_speculation(&mut self, speculation: Option<&Speculation>) -> Result<()> {
        let model = self.sequence.model();
        self.guesser = speculation.map(|how| how.guesser(model)).transpose()?;
        Ok(())
    }

    /// Tells how likely each token was, in [`Piece::told`] and [`Answer::told`]; `None` does not.
    pub fn set_probabilities(&mut self, wanted: Option<Probabilities>) {
        self.sampler.tell(wanted);
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> &SamplerParams {
        self.sampler.params()
    }

    /// Changes the most tokens of a text; `None` is no bound but the context.
    pub fn set_max_tokens(&mut self, max_tokens: Option<usize>) {
        self.max_tokens = max_tokens;
    }

    /// Most tokens of a text.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// The sequence that holds what the session has read and written.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Goes on from a text. Names of special tokens in it are the tokens, as with `karat run --raw`.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] for a prompt over the context; [`ErrorKind::DoesNotFit`] where the cache is full;
    /// [`ErrorKind::Device`] where the device fails.
    pub fn complete(&mut self, prompt: &str) -> Result<Stream<'_>> {
        let tokenizer = self.sequence.model().tokenizer();
        let prompt = tokenizer.encode(prompt, Special::Parse, Ends::Default)?;
        self.complete_ids(&prompt)
    }

    /// Goes on from tokens.
    ///
    /// # Errors
    /// As [`Session::complete`]; no tokens, and ids out of the vocabulary, are [`ErrorKind::Rejected`].
    pub fn complete_ids(&mut self, prompt: &[u32]) -> Result<Stream<'_>> {
        self.stream(prompt, None)
    }

    /// Computes the prompt. `history` ends with the message that is answered; the answer is added when it is whole.
    pub(crate) fn stream<'s>(
        &'s mut self,
        prompt: &[u32],
        history: Option<&'s mut Vec<Message>>,
    ) -> Result<Stream<'s>> {
        let Self { sequence, sampler, max_tokens, stop, guesser, stop_texts, thoughts, shift } =
            self;
        let model = sequence.model();
        let rules = model.stop_rules(*max_tokens);
        let request = Request { seq: sequence.id(), prompt, stop: &rules };
        let mut go_on = |_| {
            if stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut engine = model.engine()?;
        let mut generation = engine
            .stopping(stop, |engine| Generation::begin(engine, request, sampler, &mut go_on))?;
        generation.shift_context(*shift);
        if let Some(guesser) = guesser {
            generation.draft_with(&engine, Box::new(guesser.clone()))?;
        }
        drop(engine);
        Ok(Stream {
            model,
            sampler,
            stop,
            generation,
            decoder: Some(model.tokenizer().decoder(Show::Text)),
            splitter: Splitter::new(*thoughts, &prompt_end(model.tokenizer(), prompt)),
            stops: Stops::new(stop_texts),
            stopped_by: None,
            answer: Answer { n_prompt: prompt.len(), ..Answer::default() },
            history,
            failed: false,
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sequence, sampling) = (&self.sequence, self.sampling());
        let mut shown = f.debug_struct("Session");
        shown.field("sequence", sequence).field("sampling", sampling);
        shown.field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

/// A seed that nobody knows before, small enough for every JSON reader.
pub fn random_seed() -> u64 {
    // The standard library seeds its hash maps from the system's generator.
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

/// A piece of a text, as it was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The token; `None` for what is left of the text at its end.
    pub id: Option<u32>,
    /// How likely the token was, where [`Session::set_probabilities`] asked.
    pub told: Option<Told>,
    /// What of the characters that it completes is thought, where [`Session::set_thoughts`] has that apart.
    pub thought: String,
    /// The characters that the token completes; empty where it is only a part of one, or may begin a stop text.
    pub text: String,
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is being generated: an iterator over its pieces, each computed when it is asked for. Dropped early, the
/// text ends there.
pub struct Stream<'s> {
    model: &'s Model,
    sampler: &'s mut Sampler,
    stop: &'s Stop,
    generation: Generation,
    /// Until the end of the text.
    decoder: Option<Decoder<'s>>,
    splitter: Splitter,
    stops: Stops,
    /// The text that ended it.
    stopped_by: Option<String>,
    answer: Answer,
    /// Where the answer is added, behind the message that it answers.
    history: Option<&'s mut Vec<Message>>,
    failed: bool,
}

impl Stream<'_> {
    /// Generates the rest, and returns the whole text.
    ///
    /// # Errors
    /// Those of its steps.
    pub fn text(self) -> Result<String> {
        Ok(self.answer()?.text)
    }

    /// Generates the rest, and returns the whole with its ids and times.
    ///
    /// # Errors
    /// Those of its steps.
    pub fn answer(mut self) -> Result<Answer> {
        self.by_ref().try_for_each(|piece| piece.map(drop))?;
        self.close();
        Ok(std::mem::take(&mut self.answer))
    }

    /// What there is of the text so far.
    pub fn so_far(&self) -> &Answer {
        &self.answer
    }

    fn next_id(&mut self) -> Result<Option<u32>> {
        // The end of a text needs no engine.
        if self.generation.finish().is_some() {
            return Ok(None);
        }
        let mut engine = self.model.engine()?;
        if self.stop.is_requested() {
            self.generation.stop(&mut engine)?;
            return Ok(None);
        }
        let (generation, sampler) = (&mut self.generation, &mut *self.sampler);
        Ok(engine.stopping(self.stop, |engine| generation.next_id(engine, sampler))?)
    }

    /// Ends a text that has not ended by itself. A model that panicked is of no use to anybody, whatever its sequence holds.
    fn give_up(&mut self) {
        if let Ok(mut engine) = self.model.engine() {
            let _ = self.generation.stop(&mut engine);
        }
    }

    /// What is said for certain. The stream ends where a stop text is whole.
    fn pass(&mut self, parts: Parts) -> Parts {
        let Passed { text, stop } = self.stops.push(&parts.text);
        self.stopped_by = stop;
        self.answer.thought.push_str(&parts.thought);
        self.answer.text.push_str(&text);
        Parts { text, ..parts }
    }

    /// What is left of the text; the answer is complete then.
    fn close(&mut self) -> Option<Piece> {
        let rest = self.decoder.take()?.finish();
        let mut last = Parts::default();
        if self.stopped_by.is_none() {
            let mut parts = self.splitter.push(&rest);
            let held = self.splitter.finish();
            parts.thought += &held.thought;
            parts.text += &held.text;
            last = self.pass(parts);
        }
        if self.stopped_by.is_none() {
            let held = self.stops.finish();
            self.answer.text += &held;
            last.text += &held;
        }
        self.give_up();
        self.answer.finish = match &self.stopped_by {
            Some(_) => Finish::StopText,
            None => self.generation.finish().unwrap_or(Finish::Stopped),
        };
        self.answer.n_reused = self.generation.n_reused();
        self.answer.n_steps = self.generation.n_steps();
        self.answer.guesses = self.generation.guesses();
        self.answer.unclosed = self.generation.is_unclosed();
        self.answer.prompt_time = self.generation.prompt_time();
        self.answer.decode_time = self.generation.decode_time();
        if let Some(history) = self.history.take() {
            // What got no answer was not said.
            if self.failed || (self.answer.ids.is_empty() && self.answer.finish == Finish::Stopped)
            {
                history.pop();
            } else {
                history.push(Message::new("assistant", self.answer.text.as_str()));
            }
        }
        let Parts { thought, text } = last;
        let is_empty = thought.is_empty() && text.is_empty();
        (!is_empty).then_some(Piece { id: None, told: None, thought, text })
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.decoder.as_ref()?;
        if self.stopped_by.is_some() {
            return self.close().map(Ok);
        }
        match self.next_id() {
            Ok(Some(id)) => {
                let text = self.decoder.as_mut()?.push(id);
                let parts = self.splitter.push(&text);
                let Parts { thought, text } = self.pass(parts);
                let told = self.sampler.told().cloned();
                self.answer.ids.push(id);
                self.answer.told.extend(told.clone());
                Some(Ok(Piece { id: Some(id), told, thought, text }))
            }
            Ok(None) => self.close().map(Ok),
            Err(error) => {
                self.failed = true;
                self.close();
                Some(Err(error))
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A generated text with its ids and times.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the ids spell, but for a thought that is apart.
    pub text: String,
    /// What the model thought before, where [`Session::set_thoughts`] has that apart.
    pub thought: String,
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// How likely each of them was, where [`Session::set_probabilities`] asked.
    pub told: Vec<Told>,
    /// Why it ended.
    pub finish: Finish,
    /// Whether it was to be closed at its length ([`AtLimit::Close`]) and no short end of its grammar was found.
    pub unclosed: bool,
    /// Steps that it took: the first id came with the prompt. Without guesses each gives a token.
    pub n_steps: usize,
    /// Tokens that were guessed, and those of them that the text has taken.
    pub guesses: Guess,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Those that were in the cache already.
    pub n_reused: usize,
    /// Time for the rest of the prompt.
    pub prompt_time: Duration,
    /// Time for the text.
    pub decode_time: Duration,
}

impl Default for Answer {
    /// Nothing was generated yet.
    fn default() -> Self {
        Self {
            text: String::new(),
            thought: String::new(),
            ids: Vec::new(),
            told: Vec::new(),
            finish: Finish::Stopped,
            unclosed: false,
            n_steps: 0,
            guesses: Guess::default(),
            n_prompt: 0,
            n_reused: 0,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
        }
    }
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those that were in the cache already.
    pub reused_tokens: usize,
    /// Seconds for the rest of the prompt.
    pub prompt_seconds: f64,
    /// Computed prompt tokens a second.
    pub prompt_per_second: Option<f64>,
    /// Generated tokens.
    pub generated_tokens: usize,
    /// Seconds for them.
    pub generated_seconds: f64,
    /// Tokens a second behind the prompt, which gives the first token; none where there was none.
    pub generated_per_second: Option<f64>,
    /// Tokens that were guessed.
    pub guessed_tokens: usize,
    /// Those of them that the text has taken.
    pub taken_tokens: usize,
}

impl Answer {
    /// How long it took.
    pub fn timings(&self) -> Timings {
        let n_computed = self.n_prompt.saturating_sub(self.n_reused);
        Timings {
            prompt_tokens: self.n_prompt,
            reused_tokens: self.n_reused,
            prompt_seconds: self.prompt_time.as_secs_f64(),
            prompt_per_second: rate(n_computed, self.prompt_time),
            generated_tokens: self.ids.len(),
            generated_seconds: self.decode_time.as_secs_f64(),
            generated_per_second: rate(self.n_steps + self.guesses.taken, self.decode_time),
            guessed_tokens: self.guesses.n,
            taken_tokens: self.guesses.taken,
        }
    }

    /// Why it ended, as OpenAI's API names it.
    pub fn finish_reason(&self) -> &'static str {
        match self.finish {
            Finish::EndToken(_) | Finish::StopText | Finish::Complete => "stop",
            Finish::MaxTokens | Finish::ContextFull => "length",
            Finish::Stopped => "interrupted",
        }
    }
}

/// The last words of a prompt, special tokens among them.
fn prompt_end(tokenizer: &Tokenizer, prompt: &[u32]) -> String {
    /// A mark and white space in single bytes are no more.
    const LAST: usize = 32;
    let bytes: Vec<u8> = prompt[prompt.len().saturating_sub(LAST)..]
        .iter()
        .flat_map(|&id| tokenizer.piece(id).iter().copied())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn rate(n: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (n > 0 && seconds > 0.0).then(|| n as f64 / seconds)
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second =
            |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        write!(
            f,
            "prompt {} tokens ({} reused) in {:.2} s, {} tok/s; generated {} tokens in {:.2} s, {} tok/s",
            self.prompt_tokens,
            self.reused_tokens,
            self.prompt_seconds,
            per_second(self.prompt_per_second),
            self.generated_tokens,
            self.generated_seconds,
            per_second(self.generated_per_second),
        )?;
        if self.guessed_tokens > 0 {
            let (taken, guessed) = (self.taken_tokens, self.guessed_tokens);
            write!(f, "; {taken} of {guessed} guessed tokens taken")?;
        }
        Ok(())
    }
}
