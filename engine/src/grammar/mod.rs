//! Forms that a text must have: what a JSON schema, a regular expression or a grammar does not allow is never drawn.
//!
//! llguidance says after each token which may come next, in some microseconds, and with bounds on what it computes and keeps.

mod closing;
mod gbnf;

use crate::error::{Error, ErrorKind, Result};
use closing::Closers;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use model::sampler::{Allowed, Constraint, NoEnd};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use tokenizer::Tokenizer;

/// Longer tokens stand in no grammar: the library counts their bytes in one.
const MAX_WORD: usize = 200;
/// Most parts of a schema, and lines of a grammar: the stack below has room for all of them in one chain.
const MAX_PARTS: usize = 50_000;
const MAX_RULES: usize = 20_000;
/// Bytes of stack for the compiler; the system gives them as they are used.
const STACK: usize = 512 << 20;
/// The byte that marks a special token's name: no text has it.
const SPECIAL: u8 = 0xff;
/// White space between the parts of a JSON text: as llama.cpp has it, so that a model cannot go on with spaces for ever.
const JSON_SPACE: &str = r"(\x20|\n[\x20\t]{0,20})?";

/// A form that a text must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// A JSON text that a schema describes (<https://json-schema.org>). What the schema says and cannot be held is refused.
    JsonSchema(Value),
    /// A regular expression, for the whole text.
    Regex(String),
    /// llguidance's dialect of Lark.
    Lark(String),
    /// llama.cpp's grammars.
    Gbnf(String),
}

impl Grammar {
    /// Any JSON object.
    pub fn json() -> Self {
        Self::JsonSchema(serde_json::json!({"type": "object"}))
    }

    /// A JSON schema by its text.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is no JSON.
    pub fn json_schema(text: &str) -> Result<Self> {
        let wrong = |error| Error::new(ErrorKind::Usage, format!("JSON schema: {error}"));
        serde_json::from_str(text).map(Self::JsonSchema).map_err(wrong)
    }

    /// A grammar by its text: llama.cpp's, or Lark behind a line with `%llguidance`, as llama.cpp tells them apart.
    pub fn from_text(text: &str) -> Self {
        if text.starts_with("%llguidance") {
            Self::Lark(text.to_owned())
        } else {
            Self::Gbnf(text.to_owned())
        }
    }

    fn top_level(&self, tokenizer: &Tokenizer) -> Result<TopLevelGrammar> {
        Ok(match self {
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(spaced(schema)),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
            Self::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text, tokenizer)?),
        })
    }

    /// Refuses what would take long, or a deep stack, to compile. Each line of a grammar may be a rule.
    fn check_size(&self) -> Result<()> {
        let (n, most, of) = match self {
            Self::JsonSchema(schema) => (parts(schema), MAX_PARTS, "parts"),
            Self::Regex(_) => return Ok(()),
            Self::Lark(text) | Self::Gbnf(text) => (text.lines().count(), MAX_RULES, "lines"),
        };
        if n <= most {
            return Ok(());
        }
        let what = format!("{}: {n} {of}, at most {most} are allowed", self.name());
        Err(Error::new(ErrorKind::Usage, what))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) | Self::Gbnf(_) => "grammar",
        }
    }
}

/// Objects of a schema. JSON is not deep: its reader has a bound.
fn parts(schema: &Value) -> usize {
    match schema {
        Value::Object(object) => 1 + object.values().map(parts).sum::<usize>(),
        Value::Array(array) => array.iter().map(parts).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The schema with a bound on white space, unless it says its own.
fn spaced(schema: &Value) -> Value {
    let any = *schema == Value::Bool(true);
    let mut schema = if any { serde_json::json!({}) } else { schema.clone() };
    if let Some(object) = schema.as_object_mut() {
        object
            .entry("x-guidance")
            .or_insert_with(|| serde_json::json!({"whitespace_pattern": JSON_SPACE}));
    }
    schema
}

/// What becomes of a text that comes to its most tokens, or to the end of the context, before its grammar is at an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtLimit {
    /// It ends where it is.
    #[default]
    Cut,
    /// It is closed with a few tokens more, so that it can be read: `{"name": "Par` becomes `{"name": "Par"}`. The model is
    /// not asked for these. Where no short end is found, the text ends where it is.
    Close,
}

/// Compiles grammars for a vocabulary.
pub(crate) struct Grammars {
    factory: ParserFactory,
    closers: Arc<Closers>,
}

impl Grammars {
    /// Sorts the vocabulary: some tens of milliseconds, once for a model.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let n_vocab = tokenizer.n_vocab() as u32;
        let words: Vec<Vec<u8>> = (0..n_vocab).map(|id| word(tokenizer, id)).collect();
        let ends: Vec<u32> = tokenizer.eog_ids().collect();
        let end = ends.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(n_vocab, end), &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&tokens)
            .map_err(|error| Error::new(ErrorKind::Internal, one_line(&error)))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, closers: Arc::new(Closers::new(tokenizer)) })
    }

    /// A grammar, ready for a text.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] with what is wrong in it.
    pub(crate) fn compile(
        &self,
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        at_limit: AtLimit,
    ) -> Result<Compiled> {
        grammar.check_size()?;
        let mut matcher = self.matcher(grammar.top_level(tokenizer)?)?;
        // What it refuses it says at the first step at the latest.
        matcher.is_accepting().map_err(|error| {
            // Its name for a switch of its build says nothing to a user of ours.
            let theirs =
                "Only absolute $ref's (#/...) are supported without 'referencing' feature; ref";
            let what = one_line(&error).replace(theirs, "a $ref is #/ and what follows; found");
            Error::new(ErrorKind::Usage, format!("{}: {what}", grammar.name()))
        })?;
        let (start, n_vocab) = (matcher.clone(), tokenizer.n_vocab());
        Ok(Compiled { start, matcher, n_vocab, closers: self.closers.clone(), at_limit })
    }
}

impl Grammars {
    /// Compiles on a thread of its own: the library goes down along rules that lead to one another, as deep as there are any.
    fn matcher(&self, top_level: TopLevelGrammar) -> Result<Matcher> {
        let make = || Matcher::new(self.factory.create_parser(top_level));
        let failed = |what: &str| Error::new(ErrorKind::Internal, format!("grammar: {what}"));
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn_scoped(scope, make).map_err(|e| failed(&e.to_string()))?;
            thread.join().map_err(|_| failed("the compiler panicked"))
        })
    }
}

/// What a token spells; special ones are marked, and what no grammar can have is empty.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let piece = tokenizer.piece(id);
    let marked = tokenizer.is_control(id) || tokenizer.is_eog(id);
    match piece.len() {
        0 => Vec::new(),
        n if n > MAX_WORD => Vec::new(),
        _ if marked => [&[SPECIAL], piece].concat(),
        _ => piece.to_vec(),
    }
}

/// The library's errors go over several lines: what it is about, the grammar once more, and for a regular expression the
/// reason at the end.
fn one_line(error: &impl fmt::Display) -> String {
    /// Longest first line: it may have the whole expression in it.
    const LONGEST: usize = 200;
    let text = format!("{error:#}");
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim();
    if first.starts_with("panic:") {
        return format!("too large for its compiler ({first})");
    }
    let mut line: String = first.chars().take(LONGEST).collect();
    if let Some(reason) = lines.rev().find(|line| line.trim_start().starts_with("error:")) {
        line = format!("{line} {}", reason.trim());
    }
    line
}

/// A grammar and how far a text has come in it.
pub(crate) struct Compiled {
    /// Where no text has begun.
    start: Matcher,
    matcher: Matcher,
    n_vocab: usize,
    closers: Arc<Closers>,
    at_limit: AtLimit,
}

impl Constraint for Compiled {
    fn begin(&mut self) {
        self.matcher = self.start.clone();
    }

    fn allowed(&mut self) -> std::result::Result<Allowed, String> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| {
            let why = one_line(&error);
            // Its name for a place where nothing may follow and the text is not at an end.
            let is_dead = why.contains("NoExtensionBias");
            if is_dead {
                "nothing may follow, and the text is not at its end".to_owned()
            } else {
                why
            }
        })?;
        Ok(Allowed::from_words(mask.as_slice().to_vec(), self.n_vocab))
    }

    fn accept(&mut self, id: u32) {
        // An error stays in the matcher, and the next `allowed` says it.
        let _ = self.matcher.consume_token(id);
    }

    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    fn closing(&mut self) -> std::result::Result<Vec<u32>, NoEnd> {
        match self.at_limit {
            AtLimit::Cut => Ok(Vec::new()),
            AtLimit::Close => self.closers.short_end(&self.matcher).ok_or(NoEnd),
        }
    }
}
