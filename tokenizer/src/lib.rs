//! Text to token ids and back, as llama.cpp does it, and chat templates.
//! Tensors and models live in other crates.
#![forbid(unsafe_code)]

mod bpe;
mod decode;
mod error;
mod ids;
mod merge;
mod pre;
mod special;
mod split;
mod spm;
mod template;
mod tokenizer;
mod unicode;
mod unicode_table;
mod vocab;

pub use decode::{Decoder, Show};
pub use error::{Error, ErrorKind, Result};
pub use template::{
    Chat, ChatTemplate, MAX_OUTPUT_BYTES, MAX_SOURCE_BYTES, Message, template_names,
};
pub use tokenizer::{Ends, MAX_TEXT_BYTES, Special, Tokenizer};
pub use vocab::{MAX_TOKEN_BYTES, MAX_TOKENS, Model, SpecialIds, TokenKind, Vocab};
