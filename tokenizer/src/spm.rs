//! SentencePiece merging by score: characters as symbols, bytes for what no token spells.

use std::cmp::Ordering;

use super::error::{Error, Result};
use super::ids::TokenIds;
use super::merge::{Candidate, Symbol, merge};
use super::vocab::{TokenKind, Vocab};

/// What stands for a space in token texts.
pub(crate) const SPACE: char = '▁';

/// What SentencePiece needs besides the tokens' ids.
#[derive(Debug)]
pub(crate) struct Spm {
    scores: Vec<f32>,
    bytes: [Option<u32>; 256],
    longest: usize,
}

impl Spm {
    pub(crate) fn new(vocab: &Vocab, ids: &TokenIds) -> Self {
        let mut bytes = [None; 256];
        for byte in 0..=255u8 {
            // llama.cpp falls back to the token whose text is the byte itself.
            bytes[usize::from(byte)] =
                ids.get(format!("<0x{byte:02X}>").as_bytes()).or_else(|| ids.get(&[byte]));
        }
        let longest = vocab.tokens.iter().map(<[u8]>::len).max().unwrap_or(0);
        Self { scores: vocab.scores.clone(), bytes, longest }
    }

    /// Appends the ids of `text`, in which spaces are [`SPACE`] already.
    pub(crate) fn encode(
        &self,
        text: &str,
        ids: &TokenIds,
        unknown: Option<u32>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let bytes = text.as_bytes();
        let symbols: Vec<Symbol> = text
            .char_indices()
            .map(|(start, c)| {
                let end = start + c.len_utf8();
                Symbol::new(ids.get(&bytes[start..end]), start, end)
            })
            .collect();
        let candidate = |left: &Symbol, right: &Symbol| {
            let both = left.range().start..right.range().end;
            if both.len() > self.longest {
                return None;
            }
            let merged = ids.get(&bytes[both])?;
            Some(Candidate { priority: Score(self.scores[merged as usize]), merged })
        };
        let mut unspelt = None;
        merge(&symbols, candidate, |symbol| match symbol.id {
            Some(id) => out.push(id),
            None => {
                for &byte in &bytes[symbol.range()] {
                    match self.bytes[usize::from(byte)].or(unknown) {
                        Some(id) => out.push(id),
                        None => unspelt = unspelt.or(Some(byte)),
                    }
                }
            }
        });
        match unspelt {
            None => Ok(()),
            Some(byte) => Err(Error::unspelt(byte)),
        }
    }
}

/// A merge score: any f32 but NaN, which the vocabulary's check refuses.
#[derive(Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        // Not `total_cmp`: the two zeros are equal.
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The byte of a token of kind [`TokenKind::Byte`], `<0xXX>`; anything else is no byte token.
pub(crate) fn byte_of(text: &[u8], kind: TokenKind) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = text else { return None };
    let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = digit(high)? << 4 | digit(low)?;
    (kind == TokenKind::Byte).then_some(byte)
}
