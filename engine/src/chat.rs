//! A conversation: what was said, the model's template, and the next answer.

use crate::error::{Error, ErrorKind, Result};
use crate::handle::Model;
use crate::output::{self, Existing};
use crate::session::{Session, Stream};
use crate::text;
use crate::thoughts::Thoughts;
use graph::Stop;
use model::SamplerParams;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;
use tokenizer::{Chat as Rendered, ChatTemplate, Ends, Message, Special};

/// Largest file that [`Chat::load`] reads.
const MAX_SAVED_BYTES: u64 = 64 << 20;

/// How a conversation becomes the text that the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatForm {
    /// The model's own template.
    Template,
    /// `User:` and `Assistant:` before each message: for a model without a template.
    Plain,
    /// What was said as it is, one message behind the other, without any mark. Names of special tokens are the tokens.
    Raw,
}

/// The template of [`ChatForm::Plain`].
const PLAIN: &str = "{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}: \
    {{ message.content }}\n\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";

/// A conversation with a model. What the model has read already is not computed again.
pub struct Chat {
    session: Session,
    /// `None` for [`ChatForm::Raw`].
    template: Option<ChatTemplate>,
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
    pub(crate) fn new(model: &Model, form: ChatForm) -> Result<Self> {
        let tokenizer = model.tokenizer();
        let piece = |id: Option<u32>| {
            id.map_or(String::new(), |id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned())
        };
        let template = match form {
            ChatForm::Template => Some(model.template()?),
            ChatForm::Plain => {
                let (bos, eos) = (piece(tokenizer.bos()), piece(tokenizer.eos()));
                Some(ChatTemplate::new(PLAIN)?.with_tokens(&bos, &eos))
            }
            ChatForm::Raw => None,
        };
        Self::by(model, template)
    }

    /// In a template; in none, messages stand one behind the other.
    pub(crate) fn by(model: &Model, template: Option<ChatTemplate>) -> Result<Self> {
        let mut session = model.session()?;
        if template.is_some() {
            // Templates drop the thoughts of earlier turns: they are no part of what was said.
            session.set_thoughts(Thoughts::Apart);
        }
        Ok(Self { session, template, messages: Vec::new(), system: None })
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

    /// The answer ends where it is soon after `stop` is requested: [`Session::stop_with`].
    #[must_use]
    pub fn stop_with(mut self, stop: Stop) -> Self {
        self.session = self.session.stop_with(stop);
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
        let prompt = match &self.template {
            Some(template) => template.encode(model.tokenizer(), &chat)?,
            None => {
                let text: String =
                    messages.iter().map(|message| message.content.as_str()).collect();
                model.tokenizer().encode(&text, Special::Parse, Ends::Default)?
            }
        };
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
    /// Those of [`output::create`]; [`ErrorKind::Io`] where it cannot be written.
    pub fn save(&self, path: &Path, existing: Existing) -> Result<usize> {
        let mut file = output::create(path, existing)?;
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
        file.write_all(&json).map_err(|e| Error::from(e).at(text::path(path)))?;
        file.keep()?;
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
