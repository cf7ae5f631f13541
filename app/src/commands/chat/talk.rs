//! The conversation: what was said, and the next answer.

use crate::answer::{Question, Timings, answer};
use crate::exit::{Code, Failure, failure, say};
use crate::interrupt::Answering;
use crate::load::Model;
use crate::out::Out;
use anyhow::{Context as _, Result};
use model::{Sampler, SamplerParams};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use tokenizer::{Chat, ChatTemplate, Message};

/// Largest file that `/load` reads.
const MAX_SAVED_BYTES: u64 = 64 << 20;

/// A conversation with a model.
pub(super) struct Talk {
    model: Model,
    template: ChatTemplate,
    sampler: Sampler,
    messages: Vec<Message>,
    last: Option<Timings>,
    /// What the model shall be or do.
    pub(super) system: Option<String>,
    /// Most tokens of an answer.
    pub(super) max_tokens: Option<usize>,
    /// Whether times are printed after each answer.
    pub(super) stats: bool,
}

/// A conversation in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    system: Option<String>,
    messages: Vec<SavedMessage>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMessage {
    role: Role,
    content: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl Talk {
    /// Nothing was said yet.
    pub(super) fn new(model: Model, template: ChatTemplate, params: SamplerParams) -> Result<Self> {
        let sampler = Sampler::new(params)?;
        let (messages, last) = (Vec::new(), None);
        Ok(Self {
            model,
            template,
            sampler,
            messages,
            last,
            system: None,
            max_tokens: None,
            stats: false,
        })
    }

    /// Says `text` and prints the answer as it comes. Ctrl-C stops the answer; what there is of it counts as said.
    pub(super) fn say(&mut self, text: &str, out: &mut Out) -> Result<()> {
        self.messages.push(Message::new("user", text));
        let said = self.answer(out);
        if !matches!(said, Ok(true)) {
            // What got no answer was not said.
            self.messages.pop();
        }
        said.map(|_| ())
    }

    /// Whether there is an answer.
    fn answer(&mut self, out: &mut Out) -> Result<bool> {
        let prompt = self.encode()?;
        let answering = Answering::begin();
        let question = Question {
            prompt: &prompt,
            max_tokens: self.max_tokens,
            stopped: &|| answering.stopped(),
        };
        let answer = answer(&mut self.model, &question, &mut self.sampler, &mut |_, text| {
            Ok(out.text(text)?)
        })?;
        drop(answering);
        out.line("")?;
        let timings = answer.timings();
        self.last = Some(timings);
        if self.stats {
            say("stats", &timings.to_string());
        }
        match answer.finish() {
            "interrupted" => say("karat", "stopped"),
            "length" if self.max_tokens.is_none_or(|max| answer.generated.ids.len() < max) => {
                say("warning", "the context is full; /clear begins anew");
            }
            _ => {}
        }
        if answer.generated.ids.is_empty() && answer.finish() == "interrupted" {
            return Ok(false);
        }
        self.messages.push(Message::new("assistant", answer.text));
        Ok(true)
    }

    fn encode(&self) -> Result<Vec<u32>> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
        let prompt = self.template.encode(&self.model.tokenizer, &chat)?;
        let n_ctx = self.model.info.n_ctx;
        if prompt.len() > n_ctx {
            let what =
                format!("conversation of {} tokens is over the context of {n_ctx}", prompt.len());
            return Err(Failure::new(Code::Rejected, what).hint("/clear, or a larger -c").into());
        }
        Ok(prompt)
    }

    /// Forgets what was said. The system text and the settings stay.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Times of the last answer, and how full the context is.
    pub(super) fn stats(&self) -> String {
        let (used, n_ctx) = (self.model.engine.ids(self.model.seq).len(), self.model.info.n_ctx);
        let last = self.last.map_or("no answer yet".to_owned(), |timings| timings.to_string());
        format!("{last}; {used} of {n_ctx} positions used; {}", self.model.info.backend)
    }

    /// The settings of the sampler.
    pub(super) fn params(&self) -> &SamplerParams {
        self.sampler.params()
    }

    /// Changes them; refused ones change nothing.
    pub(super) fn set_params(&mut self, params: SamplerParams) -> Result<()> {
        self.sampler =
            Sampler::new(params).map_err(|error| failure(Code::Usage, error.to_string()))?;
        Ok(())
    }

    /// Writes what was said to a file, and returns how many messages that are.
    pub(super) fn save(&self, path: &Path) -> Result<usize> {
        let message = |message: &Message| SavedMessage {
            role: if message.role == "user" { Role::User } else { Role::Assistant },
            content: message.content.clone(),
        };
        let saved = Saved {
            system: self.system.clone(),
            messages: self.messages.iter().map(message).collect(),
        };
        let json = serde_json::to_vec_pretty(&saved)?;
        std::fs::write(path, json).with_context(|| karat::text::path(path))?;
        Ok(saved.messages.len())
    }

    /// Goes on with the conversation of a file, and returns how many messages it has.
    pub(super) fn load(&mut self, path: &Path) -> Result<usize> {
        let shown = || karat::text::path(path);
        let mut json = Vec::new();
        let file = std::fs::File::open(path).with_context(shown)?;
        file.take(MAX_SAVED_BYTES + 1).read_to_end(&mut json).with_context(shown)?;
        if json.len() as u64 > MAX_SAVED_BYTES {
            let what = format!("{}: over {MAX_SAVED_BYTES} bytes", shown());
            return Err(failure(Code::Io, what));
        }
        let saved: Saved = serde_json::from_slice(&json)
            .map_err(|error| failure(Code::Io, format!("no conversation of karat's: {error}")))
            .with_context(shown)?;
        let messages = saved.messages.into_iter();
        self.messages = messages.map(|m| Message::new(m.role.name(), m.content)).collect();
        self.system = saved.system;
        Ok(self.messages.len())
    }
}
