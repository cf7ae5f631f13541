//! A conversation: what was said, the model's template, and the next answer.

use crate::error::{Error, ErrorKind, Result};
use crate::handle::Model;
use crate::session::{Session, Stream};
use crate::text;
use model::SamplerParams;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use tokenizer::{Chat as Rendered, ChatTemplate, Message};

/// Largest file that [`Chat::load`] reads.
const MAX_SAVED_BYTES: u64 = 64 << 20;

/// A conversation with a model. What the model has read already is not computed again.
pub struct Chat {
    session: Session,
    template: ChatTemplate,
    messages: Vec<Message>,
    system: Option<String>,
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

impl Chat {
    pub(crate) fn new(model: &Model) -> Result<Self> {
        let template = model.template()?;
        Ok(Self { session: model.session()?, template, messages: Vec::new(), system: None })
    }

    /// What the model shall be or do.
    #[must_use]
    pub fn with_system(mut self, system: impl Into<String>) -> Self {
        self.system = Some(system.into());
        self
    }

    /// How tokens are chosen: [`Session::with_sampling`].
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a setting out of range.
    pub fn with_sampling(mut self, params: SamplerParams) -> Result<Self> {
        self.session.set_sampling(params)?;
        Ok(self)
    }

    /// Most tokens of an answer: [`Session::with_max_tokens`].
    #[must_use]
    pub fn with_max_tokens(mut self, n: usize) -> Self {
        self.session.set_max_tokens(Some(n));
        self
    }

    /// Asked after each step whether the answer shall end where it is: [`Session::stop_when`].
    #[must_use]
    pub fn stop_when(mut self, stopped: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.session = self.session.stop_when(stopped);
        self
    }

    /// Says `text`; the answer comes piece by piece. It counts as said when it is whole, and what there is of it when it
    /// is dropped early or stopped. What got no answer was not said.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] where the template refuses the conversation, or it is over the context; otherwise as
    /// [`Session::complete`].
    pub fn send(&mut self, text: impl Into<String>) -> Result<Stream<'_>> {
        self.messages.push(Message::new("user", text));
        let prompt = match self.prompt() {
            Ok(prompt) => prompt,
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        };
        let Self { session, messages, .. } = self;
        session.stream(&prompt, Some(messages))
    }

    /// The conversation so far and the beginning of an answer, in the model's template.
    fn prompt(&self) -> Result<Vec<u32>> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let chat =
            Rendered { messages: &messages, add_generation_prompt: true, ..Rendered::default() };
        let model = self.session.sequence().model();
        let prompt = self.template.encode(model.tokenizer(), &chat)?;
        let n_ctx = model.info().n_ctx;
        if prompt.len() > n_ctx {
            let what =
                format!("conversation of {} tokens is over the context of {n_ctx}", prompt.len());
            let hint = "a new conversation, or a larger context";
            return Err(Error::new(ErrorKind::Rejected, what)
                .with_hint(hint)
                .with_option("ctx_size"));
        }
        Ok(prompt)
    }

    /// Forgets what was said. The system text and the settings stay.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// What was said, without the system text.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Puts other messages in place of what was said: `user` and `assistant` by turns.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// What the model shall be or do.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Changes what the model shall be or do.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// The settings of the answers, and the sequence behind them.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The same, to change them.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Writes what was said to a file, and returns how many messages that are.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<usize> {
        let message = |message: &Message| SavedMessage {
            role: if message.role == "user" { Role::User } else { Role::Assistant },
            content: message.content.clone(),
        };
        let saved = Saved {
            system: self.system.clone(),
            messages: self.messages.iter().map(message).collect(),
        };
        let json = serde_json::to_vec_pretty(&saved)
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        std::fs::write(path, json).map_err(|e| Error::from(e).at(text::path(path)))?;
        Ok(saved.messages.len())
    }

    /// Goes on with the conversation of a file, and returns how many messages it has.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it cannot be read, or is none.
    pub fn load(&mut self, path: &Path) -> Result<usize> {
        let failed = |error: std::io::Error| Error::from(error).at(text::path(path));
        let mut json = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_SAVED_BYTES + 1).read_to_end(&mut json).map_err(failed)?;
        let refused = |what: String| Error::new(ErrorKind::Io, what).at(text::path(path));
        if json.len() as u64 > MAX_SAVED_BYTES {
            return Err(refused(format!("over {MAX_SAVED_BYTES} bytes")));
        }
        let saved: Saved = serde_json::from_slice(&json)
            .map_err(|error| refused(format!("no conversation of karat's: {error}")))?;
        let messages = saved.messages.into_iter();
        self.messages = messages.map(|m| Message::new(m.role.name(), m.content)).collect();
        self.system = saved.system;
        Ok(self.messages.len())
    }
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Chat");
        shown.field("session", &self.session).field("system", &self.system);
        shown.field("messages", &self.messages).finish_non_exhaustive()
    }
}
