//! The vocabulary as plain data, read from a file's metadata and checked: lengths, types, limits, special ids.
//! Nothing here encodes; `Tokenizer` is built from it.

use std::cell::RefCell;

use gguf::{Array, Strings, Value};

use super::error::{Error, Result, quoted};

/// Most tokens that a vocabulary may have.
pub const MAX_TOKENS: usize = 1 << 22;
/// Longest text of one token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 << 10;

/// The tokenizer's part of a model file's metadata. Arrays are indexed by token id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocab {
    /// The algorithm.
    pub model: Model,
    /// `tokenizer.ggml.pre`, the name of the list of splitting regexes.
    pub pre: Option<String>,
    /// The texts. Byte-level models write each byte as a printable character.
    pub tokens: Strings,
    /// The merge scores of SentencePiece; all zero where the file has none.
    pub scores: Vec<f32>,
    /// The kinds; all [`TokenKind::Normal`] where the file has none.
    pub kinds: Vec<TokenKind>,
    /// The merges of byte-pair encoding, `"left right"`, best first.
    pub merges: Strings,
    /// The ids that the file gives a role.
    pub special: SpecialIds,
    /// Whether a text begins with BOS, where the file says.
    pub add_bos: Option<bool>,
    /// Whether a text ends with EOS, where the file says.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space before the text, where the file says.
    pub add_space_prefix: Option<bool>,
    /// The source of the chat template.
    pub chat_template: Option<String>,
    /// `general.name`: Phi-3's special tokens eat white space, and only the name tells.
    pub model_name: Option<String>,
    /// `tokenizer.ggml.suppress_tokens`: ids that the model must not say, ascending.
    pub suppressed: Vec<u32>,
    /// What is odd about the metadata but no reason to refuse it, a line each.
    pub warnings: Vec<String>,
}

/// The algorithm that a vocabulary is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// SentencePiece merging by score, `tokenizer.ggml.model` = `llama`.
    Spm,
    /// Byte-level byte-pair encoding, `gpt2`.
    #[default]
    Bpe,
}

/// Ids with a role. `None`: the file does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the keys' names")]
pub struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub fim_pre: Option<u32>,
    pub fim_suf: Option<u32>,
    pub fim_mid: Option<u32>,
    pub fim_pad: Option<u32>,
    pub fim_rep: Option<u32>,
    pub fim_sep: Option<u32>,
}

/// What a token is for, `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    #[default]
    Normal,
    /// The token for what no other token spells.
    Unknown,
    /// A mark for the model: never text.
    Control,
    /// A text that is cut out before anything else.
    UserDefined,
    /// In the list for its place only.
    Unused,
    /// One byte, written `<0xXX>`.
    Byte,
    /// No kind, or one that is not known.
    Undefined,
}

impl TokenKind {
    fn from_id(id: i64) -> Self {
        match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }
}

impl Vocab {
    /// Reads the `tokenizer.*` keys through `lookup`.
    ///
    /// An id outside of the vocabulary counts as not given, and a known key that karat has no use for is left out:
    /// [`Vocab::warnings`] names them.
    ///
    /// # Errors
    /// A key is missing, or has the wrong type or length; the message names the key and the index.
    pub fn from_metadata<'v>(lookup: impl Fn(&str) -> Option<&'v Value>) -> Result<Self> {
        let meta = Metadata { lookup: &lookup, warnings: RefCell::default() };
        let model_name = meta.required_string("tokenizer.ggml.model")?;
        let model = match model_name.as_str() {
            "llama" => Model::Spm,
            "gpt2" => Model::Bpe,
            _ => {
                return Err(Error::vocab(format!(
                    "tokenizer.ggml.model: unsupported tokenizer {}; supported: llama, gpt2",
                    quoted(model_name.as_bytes())
                )));
            }
        };
        let tokens = meta.texts(TOKENS)?.ok_or_else(|| missing(TOKENS))?.clone();
        check_tokens(&tokens)?;
        let merges = match (model, meta.texts(MERGES)?) {
            (Model::Bpe, None) => return Err(missing(MERGES)),
            (Model::Bpe, Some(merges)) => merges.clone(),
            (Model::Spm, _) => Strings::default(),
        };
        let special = meta.special_ids(tokens.len())?;
        let suppressed = meta.suppressed(tokens.len())?;
        meta.warn_of_unused();
        Ok(Self {
            model,
            pre: meta.string("tokenizer.ggml.pre")?,
            scores: meta.scores(tokens.len())?,
            kinds: meta.kinds(tokens.len())?,
            merges,
            special,
            add_bos: meta.boolean("tokenizer.ggml.add_bos_token")?,
            add_eos: meta.boolean("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: meta.boolean("tokenizer.ggml.add_space_prefix")?,
            chat_template: meta.string("tokenizer.chat_template")?,
            model_name: meta.string("general.name")?,
            suppressed,
            tokens,
            warnings: meta.warnings.into_inner(),
        })
    }

    /// Checks what [`Vocab::from_metadata`] guarantees, for a vocabulary put together by hand.
    pub(crate) fn check(&self) -> Result<()> {
        check_tokens(&self.tokens)?;
        check_length(SCORES, self.scores.len(), self.tokens.len())?;
        check_length(KINDS, self.kinds.len(), self.tokens.len())?;
        if let Some(i) = self.scores.iter().position(|score| score.is_nan()) {
            return Err(Error::vocab(format!("{SCORES}[{i}]: NaN, a number is needed")));
        }
        let n = self.tokens.len();
        let mut ids = self.special.named().into_iter().filter_map(|(key, id)| Some((key, id?)));
        if let Some((key, id)) = ids.find(|(_, id)| *id as usize >= n) {
            return Err(Error::vocab(out_of_vocabulary(key, id, n)));
        }
        if let Some(&id) = self.suppressed.iter().find(|&&id| id as usize >= n) {
            return Err(Error::vocab(out_of_vocabulary(SUPPRESSED, id, n)));
        }
        Ok(())
    }
}

impl SpecialIds {
    /// Each id with its key.
    fn named(&self) -> [(&'static str, Option<u32>); 12] {
        [
            ("tokenizer.ggml.bos_token_id", self.bos),
            ("tokenizer.ggml.eos_token_id", self.eos),
            ("tokenizer.ggml.eot_token_id", self.eot),
            ("tokenizer.ggml.eom_token_id", self.eom),
            ("tokenizer.ggml.unknown_token_id", self.unk),
            ("tokenizer.ggml.padding_token_id", self.pad),
            ("tokenizer.ggml.fim_pre_token_id", self.fim_pre),
            ("tokenizer.ggml.fim_suf_token_id", self.fim_suf),
            ("tokenizer.ggml.fim_mid_token_id", self.fim_mid),
            ("tokenizer.ggml.fim_pad_token_id", self.fim_pad),
            ("tokenizer.ggml.fim_rep_token_id", self.fim_rep),
            ("tokenizer.ggml.fim_sep_token_id", self.fim_sep),
        ]
    }
}

pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";
const SUPPRESSED: &str = "tokenizer.ggml.suppress_tokens";

/// Keys of kinds of tokenizers that karat does not have. Beside one of those it has they change nothing in llama.cpp
/// either, but who wrote them meant something.
const UNUSED: &[&str] = &[
    "tokenizer.ggml.token_type_count",
    "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.normalizer.lowercase",
    "tokenizer.ggml.normalizer.strip_accents",
    "tokenizer.huggingface.json",
    "tokenizer.rwkv.world",
];
/// Ids that no generation uses: marks of encoders. Outside of the vocabulary they are warned about like the others.
const UNUSED_IDS: &[&str] = &[
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.mask_token_id",
];

fn check_tokens(tokens: &Strings) -> Result<()> {
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return Err(Error::vocab(format!(
            "{TOKENS}: {} tokens, allowed are 1 to {MAX_TOKENS}",
            tokens.len()
        )));
    }
    if let Some(i) = tokens.iter().position(|text| text.len() > MAX_TOKEN_BYTES) {
        let found = tokens[i].len();
        return Err(Error::vocab(format!(
            "{TOKENS}[{i}]: {found} bytes long, at most {MAX_TOKEN_BYTES} are allowed"
        )));
    }
    Ok(())
}

fn check_length(key: &str, found: usize, tokens: usize) -> Result<()> {
    if found == tokens {
        return Ok(());
    }
    Err(Error::vocab(format!("{key}: {found} entries, expected {tokens} as in {TOKENS}")))
}

fn out_of_vocabulary(key: &str, found: impl std::fmt::Display, tokens: usize) -> String {
    format!("{key}: token id {found} is outside of the vocabulary (0..{tokens})")
}

fn missing(key: &str) -> Error {
    Error::vocab(format!("missing key \"{key}\""))
}

fn wrong_type(key: &str, found: &Value, wanted: &str) -> Error {
    Error::vocab(format!("{key}: found {}, wanted {wanted}", found.type_name()))
}

/// Typed look-ups that name the key when they fail.
struct Metadata<'f, F> {
    lookup: &'f F,
    warnings: RefCell<Vec<String>>,
}

impl<'v, F: Fn(&str) -> Option<&'v Value>> Metadata<'_, F> {
    fn string(&self, key: &str) -> Result<Option<String>> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
            Some(other) => Err(wrong_type(key, other, "a string")),
        }
    }

    fn required_string(&self, key: &str) -> Result<String> {
        self.string(key)?.ok_or_else(|| missing(key))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong_type(key, other, "a bool")),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<&'v Strings>> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(texts))) => Ok(Some(texts)),
            Some(other) => Err(wrong_type(key, other, "an array of strings")),
        }
    }

    fn scores(&self, tokens: usize) -> Result<Vec<f32>> {
        let scores = match (self.lookup)(SCORES) {
            None => return Ok(vec![0.0; tokens]),
            Some(Value::Array(Array::F32(scores))) => scores.clone(),
            #[allow(
                clippy::cast_precision_loss,
                reason = "llama.cpp reads integer scores so; they only order merges"
            )]
            Some(Value::Array(Array::I32(scores))) => {
                scores.iter().map(|&score| score as f32).collect()
            }
            Some(other) => return Err(wrong_type(SCORES, other, "an array of f32")),
        };
        check_length(SCORES, scores.len(), tokens)?;
        match scores.iter().position(|score| score.is_nan()) {
            Some(i) => Err(Error::vocab(format!("{SCORES}[{i}]: NaN, a number is needed"))),
            None => Ok(scores),
        }
    }

    fn kinds(&self, tokens: usize) -> Result<Vec<TokenKind>> {
        let kinds: Vec<TokenKind> = match (self.lookup)(KINDS) {
            None => return Ok(vec![TokenKind::Normal; tokens]),
            Some(Value::Array(Array::I32(kinds))) => {
                kinds.iter().map(|&id| TokenKind::from_id(id.into())).collect()
            }
            Some(Value::Array(Array::U32(kinds))) => {
                kinds.iter().map(|&id| TokenKind::from_id(id.into())).collect()
            }
            Some(other) => return Err(wrong_type(KINDS, other, "an array of i32")),
        };
        check_length(KINDS, kinds.len(), tokens)?;
        Ok(kinds)
    }

    /// The id of a key. One that no token has counts as not given: such files run elsewhere.
    fn token_id(&self, key: &str, tokens: usize) -> Result<Option<u32>> {
        let Some(value) = (self.lookup)(key) else { return Ok(None) };
        let id = value.as_int().ok_or_else(|| wrong_type(key, value, "an integer"))?;
        let inside = u32::try_from(id).ok().filter(|&id| (id as usize) < tokens);
        if inside.is_none() {
            self.warn(format!("{}; taken as not given", out_of_vocabulary(key, id, tokens)));
        }
        Ok(inside)
    }

    fn special_ids(&self, tokens: usize) -> Result<SpecialIds> {
        let id = |key| self.token_id(key, tokens);
        // The names with `prefix`, `suffix` and `middle` are old; where a file has both, llama.cpp takes them.
        let fim = |key, old| Ok(id(old)?.or(id(key)?));
        for key in UNUSED_IDS {
            id(key)?;
        }
        Ok(SpecialIds {
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            fim_pre: fim("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")?,
            fim_suf: fim("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id")?,
            fim_mid: fim("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")?,
            fim_pad: id("tokenizer.ggml.fim_pad_token_id")?,
            fim_rep: id("tokenizer.ggml.fim_rep_token_id")?,
            fim_sep: id("tokenizer.ggml.fim_sep_token_id")?,
        })
    }

    /// The ids that the model must not say. Those of no token are left out: they are never said.
    fn suppressed(&self, tokens: usize) -> Result<Vec<u32>> {
        let ids: Vec<i64> = match (self.lookup)(SUPPRESSED) {
            None => return Ok(Vec::new()),
            Some(Value::Array(Array::I32(ids))) => ids.iter().map(|&id| id.into()).collect(),
            Some(Value::Array(Array::U32(ids))) => ids.iter().map(|&id| id.into()).collect(),
            Some(other) => return Err(wrong_type(SUPPRESSED, other, "an array of i32")),
        };
        let inside = |id: &i64| u32::try_from(*id).ok().filter(|&id| (id as usize) < tokens);
        if let Some(outside) = ids.iter().find(|id| inside(id).is_none()) {
            self.warn(format!("{}; left out", out_of_vocabulary(SUPPRESSED, outside, tokens)));
        }
        let mut inside: Vec<u32> = ids.iter().filter_map(inside).collect();
        inside.sort_unstable();
        inside.dedup();
        Ok(inside)
    }

    /// Names the keys that would matter to another kind of tokenizer.
    fn warn_of_unused(&self) {
        for &key in UNUSED {
            let Some(value) = (self.lookup)(key) else { continue };
            let says_no = *value == Value::Bool(false)
                || value.as_int() == Some(0)
                || value.as_str().is_some_and(|text| text.is_empty())
                || value.as_array().is_some_and(Array::is_empty);
            if !says_no {
                self.warn(format!("{key}: not used, karat's tokenizers have nothing like it"));
            }
        }
    }

    fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }
}
