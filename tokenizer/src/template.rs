//! Chat templates: a model file's Jinja source rendered under limits, and the prompt's ids with what users wrote kept text.
//! The functions and filters that templates expect beyond Jinja's own are in `template/`.

mod engine;
mod guard;
mod json;
mod named;
mod strftime;

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::error::{Error, ErrorKind, Result, quoted};
use super::tokenizer::Tokenizer;
use engine::Render;
use guard::{Guard, Speaker};
pub use named::template_names;

/// Largest template source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Largest rendered prompt, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows: letters, digits, `_` and `-`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chat<'c> {
    /// The conversation so far.
    pub messages: &'c [Message],
    /// Whether the prompt ends with the beginning of the assistant's next turn.
    pub add_generation_prompt: bool,
    /// Tool descriptions, for templates that know them.
    pub tools: Option<&'c Json>,
    /// Further variables (`enable_thinking`, …).
    pub extra: Option<&'c Map<String, Json>>,
}

/// Variables that [`Chat::extra`] may not set.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
];

/// A chat template that compiles.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: Arc<str>,
    /// `bos_token` and its like.
    tokens: Map<String, Json>,
    /// What a template is rendered with unless [`Chat::extra`] says otherwise.
    variables: Map<String, Json>,
    /// Seconds since 1970 for `strftime_now`, where clock and time zone shall not be asked.
    now: Option<i64>,
}

impl ChatTemplate {
    /// The template of a tokenizer's file.
    ///
    /// # Errors
    /// The file has none, or as [`ChatTemplate::new`].
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<Self> {
        let source = tokenizer.chat_template().ok_or_else(|| {
            Error::new(
                ErrorKind::Template,
                "tokenizer.chat_template: the model has no chat template",
            )
        })?;
        Ok(Self::new(source)?.for_tokenizer(tokenizer))
    }

    /// Compiles `source`, to see that it can be.
    ///
    /// # Errors
    /// It is over [`MAX_SOURCE_BYTES`], or has a construct that the engine does not know; the message names the line.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::new(
                ErrorKind::Template,
                format!(
                    "tokenizer.chat_template: {} bytes long, at most {MAX_SOURCE_BYTES} are allowed",
                    source.len()
                ),
            ));
        }
        // As Jinja does before it looks at anything else, string literals included.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source: Arc<str> = engine::without_generation_tags(&source).into();
        engine::check(&source)?;
        let (tokens, variables) = (Map::new(), Map::new());
        Ok(Self { source, tokens, variables, now: None }.with_tokens("", ""))
    }

    /// Another template for the same tokenizer: its source, or a name that [`template_names`] has.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`]; a word that is no known name is refused with all of them.
    pub fn other(text: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let is_word = !text.contains(['{', '\n', ' ']);
        let source = match named::source(text) {
            Some(source) => source,
            None if is_word => {
                let names: Vec<&str> = template_names().collect();
                let what = format!(
                    "chat template {}: no name of one, and no template; names: {}",
                    quoted(text.as_bytes()),
                    names.join(", ")
                );
                return Err(Error::new(ErrorKind::Argument, what));
            }
            None => text.to_owned(),
        };
        Ok(Self::new(&source)?.for_tokenizer(tokenizer))
    }

    /// With the texts of a tokenizer's BOS and EOS.
    fn for_tokenizer(self, tokenizer: &Tokenizer) -> Self {
        let text = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)));
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        self.with_tokens(&bos.unwrap_or_default(), &eos.unwrap_or_default())
    }

    /// Renders with these texts as `bos_token` and `eos_token`.
    #[must_use]
    pub fn with_tokens(mut self, bos: &str, eos: &str) -> Self {
        for (name, text) in [("bos_token", bos), ("eos_token", eos)] {
            self.tokens.insert(name.to_owned(), Json::String(text.to_owned()));
        }
        self
    }

    /// Renders with these variables, `enable_thinking` for one, where [`Chat::extra`] does not say otherwise.
    ///
    /// # Errors
    /// A variable is reserved.
    pub fn with_variables(mut self, variables: Map<String, Json>) -> Result<Self> {
        variables.keys().try_for_each(|name| check_variable(name))?;
        self.variables.extend(variables);
        Ok(self)
    }

    /// Whether the source has this word: a variable that it has not changes nothing.
    pub fn mentions(&self, name: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.source.split(|c: char| !is_part(c)).any(|word| word == name)
    }

    /// Renders as if it were `seconds` since 1970-01-01 UTC, and here were UTC, for templates that print the date.
    #[must_use]
    pub fn at_time(mut self, seconds: i64) -> Self {
        self.now = Some(seconds);
        self
    }

    /// The prompt as text.
    ///
    /// # Errors
    /// A reserved variable or a malformed role in `chat`, a limit, or the template's own `raise_exception`.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String> {
        let extra = self.extra(chat);
        self.render_guarded(&Chat { extra: Some(&extra), ..*chat }, &Guard::none())
    }

    /// All variables: those of the template, and the chat's before them.
    fn extra(&self, chat: &Chat<'_>) -> Map<String, Json> {
        let mut all = self.variables.clone();
        all.extend(chat.extra.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        all
    }

    /// The prompt's ids, in which no special token comes from what `chat` holds: such texts stay text.
    ///
    /// Equal to the ids of [`ChatTemplate::render`] with [`Special::Parse`](crate::Special::Parse) where `chat` holds no such text.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, chat: &Chat<'_>) -> Result<Vec<u32>> {
        let extra = self.extra(chat);
        let chat = Chat { extra: Some(&extra), ..*chat };
        let guard = Guard::new(tokenizer.partition(), &self.source, &chat)?;
        let prompt = self.render_guarded(&chat, &guard)?;
        // The template writes BOS and EOS itself; llama.cpp takes them off so that they do not double.
        let mut text = prompt.as_str();
        for (added, name) in
            [(tokenizer.adds_bos(), "bos_token"), (tokenizer.adds_eos(), "eos_token")]
        {
            let mark = self.tokens.get(name).and_then(Json::as_str).unwrap_or_default();
            if added && !mark.is_empty() {
                let cut = if name == "bos_token" {
                    text.strip_prefix(mark)
                } else {
                    text.strip_suffix(mark)
                };
                text = cut.unwrap_or(text);
            }
        }
        tokenizer.encode_prompt(text, guard.template(), |text| guard.restore(text))
    }

    fn render_guarded(&self, chat: &Chat<'_>, guard: &Guard) -> Result<String> {
        let mut variables = self.tokens.clone();
        variables.insert("messages".to_owned(), messages(chat.messages, guard)?);
        variables.insert("add_generation_prompt".to_owned(), chat.add_generation_prompt.into());
        variables.insert(
            "tools".to_owned(),
            chat.tools.map_or(Json::Null, |tools| guard.hide_in(tools)),
        );
        variables.insert("documents".to_owned(), Json::Null);
        for (name, value) in chat.extra.into_iter().flatten() {
            check_variable(name)?;
            variables.insert(name.clone(), guard.hide_in(value));
        }
        engine::render(Render {
            source: Arc::clone(&self.source),
            variables: Json::Object(variables),
            now: self.now,
        })
    }
}

fn check_variable(name: &str) -> Result<()> {
    if RESERVED.contains(&name) {
        let name = quoted(name.as_bytes());
        let what = format!("template variable {name}: reserved, it cannot be set");
        return Err(Error::new(ErrorKind::Argument, what));
    }
    Ok(())
}

fn messages(messages: &[Message], guard: &Guard) -> Result<Json> {
    let mut list = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        if message.role.is_empty() || message.role.len() > 64 || !message.role.chars().all(allowed)
        {
            return Err(Error::new(
                ErrorKind::Argument,
                format!(
                    "messages[{i}].role: {}, allowed are 1 to 64 letters, digits, _ and -",
                    quoted(message.role.as_bytes())
                ),
            ));
        }
        let content = guard.hide(Speaker::of(&message.role), &message.content);
        let fields = [("role", message.role.clone()), ("content", content)];
        list.push(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Json::String(value)))
                .collect(),
        );
    }
    Ok(Json::Array(list))
}
