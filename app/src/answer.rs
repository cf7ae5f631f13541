//! One answer: ids from the model, text as it comes, and how long it took.

use crate::load::Model;
use anyhow::Result;
use model::{Event, Finish, Generated, Request, Sampler, StopRules};
use std::ops::ControlFlow;
use std::time::Duration;
use tokenizer::Show;

/// What to answer, and when to stop.
pub(crate) struct Question<'q> {
    /// The whole prompt.
    pub(crate) prompt: &'q [u32],
    /// Most tokens to generate; `None` for no bound but the context.
    pub(crate) max_tokens: Option<usize>,
    /// Asked after each step.
    pub(crate) stopped: &'q dyn Fn() -> bool,
}

/// A generated text with its ids.
pub(crate) struct Answer {
    /// The ids and times.
    pub(crate) generated: Generated,
    /// What the ids spell.
    pub(crate) text: String,
    /// Tokens of the prompt.
    pub(crate) n_prompt: usize,
}

/// Generates an answer. `emit` gets each id with the text that it completes, and at the end what is left of the text
/// without an id.
pub(crate) fn answer(
    model: &mut Model,
    question: &Question<'_>,
    sampler: &mut Sampler,
    emit: &mut dyn FnMut(Option<u32>, &str) -> Result<()>,
) -> Result<Answer> {
    let stop = StopRules { max_tokens: question.max_tokens, ..model.stop.clone() };
    let mut decoder = model.tokenizer.decoder(Show::Text);
    let mut text = String::new();
    let mut failed = None;
    let mut listen = |event: Event| {
        if let Event::Token(id) = event {
            let piece = decoder.push(id);
            text.push_str(&piece);
            if let Err(error) = emit(Some(id), &piece) {
                failed = Some(error);
            }
        }
        if failed.is_some() || (question.stopped)() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let request = Request { seq: model.seq, prompt: question.prompt, stop: &stop };
    let generated = model::generate(&mut model.engine, request, sampler, &mut listen)?;
    if let Some(error) = failed {
        return Err(error);
    }
    let rest = decoder.finish();
    emit(None, &rest)?;
    text.push_str(&rest);
    Ok(Answer { generated, text, n_prompt: question.prompt.len() })
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Timings {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Those that were in the cache already.
    pub(crate) reused_tokens: usize,
    /// Seconds for the rest of the prompt.
    pub(crate) prompt_seconds: f64,
    /// Computed prompt tokens a second.
    pub(crate) prompt_per_second: Option<f64>,
    /// Generated tokens.
    pub(crate) generated_tokens: usize,
    /// Seconds for them.
    pub(crate) generated_seconds: f64,
    /// Generated tokens a second.
    pub(crate) generated_per_second: Option<f64>,
}

impl Answer {
    /// How long it took.
    pub(crate) fn timings(&self) -> Timings {
        let Generated { ids, n_reused, prompt_time, decode_time, .. } = &self.generated;
        Timings {
            prompt_tokens: self.n_prompt,
            reused_tokens: *n_reused,
            prompt_seconds: prompt_time.as_secs_f64(),
            prompt_per_second: rate(self.n_prompt.saturating_sub(*n_reused), *prompt_time),
            generated_tokens: ids.len(),
            generated_seconds: decode_time.as_secs_f64(),
            generated_per_second: rate(ids.len(), *decode_time),
        }
    }

    /// Why it ended, as OpenAI's API names it.
    pub(crate) fn finish(&self) -> &'static str {
        match self.generated.finish {
            Finish::EndToken(_) => "stop",
            Finish::MaxTokens | Finish::ContextFull => "length",
            Finish::Stopped => "interrupted",
        }
    }
}

fn rate(n: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (n > 0 && seconds > 0.0).then(|| n as f64 / seconds)
}

impl std::fmt::Display for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        )
    }
}
