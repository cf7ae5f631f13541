//! The tokenizer: text to ids with llama.cpp's rules for BOS, EOS, special tokens and the space prefix, and ids to bytes.

use std::collections::BTreeSet;

use super::bpe::{self, Bpe};
use super::decode::{Decoder, Pieces, Show};
use super::error::{Error, ErrorKind, Result};
use super::ids::TokenIds;
use super::special::{Allowed, Fragment, Partition, TemplateMarks, end_of_generation};
use super::spm::{self, Spm};
use super::vocab::{Model, SpecialIds, TokenKind, Vocab};

/// Longest text that [`Tokenizer::encode`] takes, in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// What the text of a special token in the input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is text: what a user wrote never becomes a control token.
    AsText,
    /// It is the token: for prompts that a chat template made.
    Parse,
}

/// Whether BOS and EOS are put around the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// As the model wants it (llama.cpp's `add_special`).
    Default,
    /// Neither.
    None,
}

/// A model's vocabulary, ready to encode and decode.
#[derive(Debug)]
pub struct Tokenizer {
    ids: TokenIds,
    pieces: Pieces,
    algorithm: Algorithm,
    partition: Partition,
    /// Ids that end a generation.
    eog: BTreeSet<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    space_prefix: bool,
    chat_template: Option<String>,
    suppressed: Vec<u32>,
    warnings: Vec<String>,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Bpe),
    Spm(Spm),
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    ///
    /// # Errors
    /// As [`Vocab::from_metadata`] and [`Tokenizer::new`].
    pub fn from_gguf(file: &gguf::File) -> Result<Self> {
        Self::new(Vocab::from_metadata(|key| file.get(key))?)
    }

    /// Prepares a vocabulary.
    ///
    /// # Errors
    /// The vocabulary is inconsistent: lengths, ids, malformed merges, an unsupported pre-tokenizer.
    pub fn new(vocab: Vocab) -> Result<Self> {
        vocab.check()?;
        let mut warnings = vocab.warnings.clone();
        let ids = TokenIds::new(&vocab.tokens, &mut warnings);
        let mut kinds = vocab.kinds.clone();
        let algorithm = match vocab.model {
            Model::Bpe => Algorithm::Bpe(Bpe::new(&vocab, &ids, &mut warnings)?),
            Model::Spm => Algorithm::Spm(Spm::new(&vocab, &ids)),
        };
        let special = with_default_ids(&vocab);
        let eog = end_of_generation(&ids, &special, &mut kinds);
        if eog.is_empty() {
            warnings.push("no token ends a generation: it stops by length only".to_owned());
        }
        if vocab.model == Model::Bpe && vocab.pre.as_deref().unwrap_or_default().is_empty() {
            warnings.push(
                "tokenizer.ggml.pre is missing, \"default\" is used: words may be split wrongly"
                    .to_owned(),
            );
        }
        let adds_bos = match &algorithm {
            Algorithm::Bpe(bpe) => bpe.adds_bos(),
            Algorithm::Spm(_) => true,
        };
        let partition = Partition::new(&vocab, &kinds)?;
        let bytes = vocab
            .tokens
            .iter()
            .zip(&kinds)
            .map(|(text, &kind)| piece(text, kind, vocab.model))
            .collect();
        Ok(Self {
            ids,
            pieces: Pieces { bytes, kinds },
            algorithm,
            partition,
            eog,
            bos: special.bos,
            eos: special.eos,
            unknown: special.unk,
            add_bos: vocab.add_bos.unwrap_or(adds_bos) && special.bos.is_some(),
            add_eos: vocab.add_eos.unwrap_or(false) && special.eos.is_some(),
            space_prefix: vocab.add_space_prefix.unwrap_or(vocab.model == Model::Spm)
                && vocab.model == Model::Spm,
            chat_template: vocab.chat_template,
            suppressed: vocab.suppressed,
            warnings,
        })
    }

    /// The ids of `text`, as llama.cpp's `llama_tokenize` gives them.
    ///
    /// # Errors
    /// The text is over [`MAX_TEXT_BYTES`], or has a byte that the vocabulary cannot spell.
    pub fn encode(&self, text: &str, special: Special, ends: Ends) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::new(
                ErrorKind::Text,
                format!(
                    "text: {} bytes long, at most {MAX_TEXT_BYTES} are encoded at once",
                    text.len()
                ),
            ));
        }
        let allowed = match special {
            Special::AsText => Allowed::UserDefined,
            Special::Parse => Allowed::All,
        };
        self.encode_fragments(&self.partition.cut(text, allowed), ends)
    }

    /// The ids of a rendered prompt, whose special tokens count. Where `restore` gives a stretch of text its original
    /// characters back, these stay text, whatever they spell: a special token, or a mark of `template`.
    pub(crate) fn encode_prompt(
        &self,
        prompt: &str,
        template: &TemplateMarks,
        restore: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<u32>> {
        let fragments = self.partition.cut(prompt, Allowed::All);
        let restored: Vec<Option<String>> = fragments
            .iter()
            .map(|fragment| match fragment {
                Fragment::Text(text) => restore(text),
                Fragment::Token(_) => None,
            })
            .collect();
        let all: Vec<Fragment<'_>> = fragments
            .iter()
            .zip(&restored)
            .flat_map(|(fragment, restored)| match restored {
                Some(text) => self.partition.cut(text, Allowed::Except(template)),
                None => vec![*fragment],
            })
            .collect();
        self.encode_fragments(&all, Ends::Default)
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.partition
    }

    fn encode_fragments(&self, fragments: &[Fragment<'_>], ends: Ends) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        if ends == Ends::Default && self.add_bos {
            out.extend(self.bos);
        }
        self.encode_body(fragments, &mut out)?;
        if ends == Ends::Default && self.add_eos {
            out.extend(self.eos);
        }
        Ok(out)
    }

    fn encode_body(&self, fragments: &[Fragment<'_>], out: &mut Vec<u32>) -> Result<()> {
        let mut after_mark = true;
        for fragment in fragments {
            match fragment {
                Fragment::Token(id) => out.push(*id),
                Fragment::Text(text) => match &self.algorithm {
                    Algorithm::Bpe(bpe) => bpe.encode(text, &self.ids, self.unknown, out)?,
                    Algorithm::Spm(spm) => {
                        let prefix = self.space_prefix && after_mark;
                        let text: String = prefix
                            .then_some(' ')
                            .into_iter()
                            .chain(text.chars())
                            .map(|c| if c == ' ' { spm::SPACE } else { c })
                            .collect();
                        spm.encode(&text, &self.ids, self.unknown, out)?;
                    }
                },
            }
            after_mark = matches!(fragment, Fragment::Token(_));
        }
        Ok(())
    }

    /// The bytes that token `id` stands for; of a control token its name. Empty for an id outside of the vocabulary.
    #[must_use]
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id)
    }

    /// The text of `ids`, bytes that are no UTF-8 as U+FFFD. Equal to what a [`Decoder`] streams.
    ///
    /// # Errors
    /// An id is outside of the vocabulary.
    pub fn decode(&self, ids: &[u32], show: Show) -> Result<String> {
        if let Some(i) = ids.iter().position(|&id| id as usize >= self.n_vocab()) {
            return Err(Error::new(
                ErrorKind::TokenId,
                format!(
                    "token[{i}]: id {} is outside of the vocabulary (0..{})",
                    ids[i],
                    self.n_vocab()
                ),
            ));
        }
        let mut decoder = self.decoder(show);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&decoder.push(id));
        }
        text.push_str(&decoder.finish());
        Ok(text)
    }

    /// The text of which [`Tokenizer::encode`] made `ids`: without control tokens, such as those at the ends, and without
    /// the space that some tokenizers put before a text.
    ///
    /// # Errors
    /// An id is outside of the vocabulary.
    pub fn text_of(&self, ids: &[u32]) -> Result<String> {
        let mut text = self.decode(ids, Show::Text)?;
        if self.adds_space_prefix() && text.starts_with(' ') {
            text.remove(0);
        }
        Ok(text)
    }

    /// A decoder for ids that come one by one.
    #[must_use]
    pub fn decoder(&self, show: Show) -> Decoder<'_> {
        Decoder::new(&self.pieces, show)
    }

    /// The number of tokens; ids are below it.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.pieces.bytes.len()
    }

    /// The id of the token with exactly this text (as the file writes it).
    #[must_use]
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text.as_bytes())
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether [`Ends::Default`] puts BOS before a text.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`Ends::Default`] puts EOS after a text.
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether text at the beginning and after a special token gets a space before it: decoded text has it, too.
    #[must_use]
    pub fn adds_space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Whether a generation ends with `id`.
    #[must_use]
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.contains(&id)
    }

    /// All ids that end a generation, in order.
    pub fn eog_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.eog.iter().copied()
    }

    /// The ids that the file keeps out of every text, ascending: they are never to be drawn.
    #[must_use]
    pub fn suppressed(&self) -> &[u32] {
        &self.suppressed
    }

    /// A warning about ids of [`Tokenizer::encode`] with [`Ends::Default`]: the text brings a BOS or an EOS of its own
    /// beside the one that is put there, which models seldom saw.
    #[must_use]
    pub fn doubled_end(&self, ids: &[u32]) -> Option<&'static str> {
        let is_bos = |id: &u32| Some(*id) == self.bos;
        let is_eos = |id: &u32| Some(*id) == self.eos;
        match ids {
            [first, second, ..] if self.add_bos && is_bos(first) && is_bos(second) => Some(
                "the text begins with BOS, and the model's settings add one: now there are two",
            ),
            [.., before, last] if self.add_eos && is_eos(last) && is_eos(before) => {
                Some("the text ends with EOS, and the model's settings add one: now there are two")
            }
            _ => None,
        }
    }

    /// Whether `id` is a mark for the model and no text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.pieces.is_control(id)
    }

    /// What token `id` is for.
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.pieces.kinds.get(id as usize).copied()
    }

    /// The source of the file's chat template.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// What is odd about the vocabulary but no reason to refuse it, a line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The ids with a role; those that the file does not name have llama.cpp's default, where the token with that id is of
/// the kind that the role needs.
fn with_default_ids(vocab: &Vocab) -> SpecialIds {
    let if_kind = |id: u32, kind| (vocab.kinds.get(id as usize) == Some(&kind)).then_some(id);
    let given = vocab.special;
    let (bos, eos, unk) = match vocab.model {
        Model::Bpe => (11, 11, None),
        Model::Spm => (1, 2, Some(0)),
    };
    SpecialIds {
        bos: given.bos.or_else(|| if_kind(bos, TokenKind::Control)),
        eos: given.eos.or_else(|| if_kind(eos, TokenKind::Control)),
        unk: given.unk.or_else(|| if_kind(unk?, TokenKind::Unknown)),
        ..given
    }
}

/// The bytes that a token stands for.
fn piece(text: &[u8], kind: TokenKind, model: Model) -> Box<[u8]> {
    match (kind, model) {
        (TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined, _) => text.into(),
        (TokenKind::Unused | TokenKind::Undefined, _) => Box::default(),
        (TokenKind::Byte, _) => match spm::byte_of(text, kind) {
            Some(byte) => Box::new([byte]),
            // Not a byte's name: text like any other.
            None => text.into(),
        },
        (TokenKind::Normal, Model::Spm) => match std::str::from_utf8(text) {
            Ok(text) => text.replace(spm::SPACE, " ").into_bytes().into(),
            Err(_) => text.into(),
        },
        (TokenKind::Normal, Model::Bpe) => {
            let bytes: Option<Vec<u8>> = std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.chars().map(bpe::byte_of).collect());
            // Some files list added words as normal tokens, unencoded.
            bytes.map_or_else(|| text.into(), Vec::into_boxed_slice)
        }
    }
}
