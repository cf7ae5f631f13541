//! A model's sampler: what of its settings only the vocabulary can tell.

use crate::error::{Error, ErrorKind, Result};
use model::sampler::{Breaker, Sampler, SamplerParams};
use std::collections::BTreeSet;
use tokenizer::{Ends, Special, Tokenizer};

/// Longest text that DRY's repetitions do not go across, in bytes; llama.cpp cuts there, too.
const MAX_BREAKER_BYTES: usize = 40;
/// Most tokens behind the one in which such a text begins.
const MAX_TAIL: usize = 20;

/// A sampler for a vocabulary.
pub(crate) fn sampler(tokenizer: &Tokenizer, params: SamplerParams) -> Result<Sampler> {
    let n_vocab = tokenizer.n_vocab();
    if let Some(bias) = params.logit_bias.iter().find(|bias| bias.id as usize >= n_vocab) {
        let what = format!("logit_bias: id {} out of vocabulary (0..{n_vocab})", bias.id);
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let mut never: Vec<u32> = tokenizer.suppressed().to_vec();
    if params.ignore_eos {
        never.extend(tokenizer.eog_ids());
    }
    let has_dry = params.has_dry();
    let texts = if has_dry { params.dry.breakers.clone() } else { Vec::new() };
    let refused = |error: model::Error| Error::new(ErrorKind::Usage, error.to_string());
    let sampler = Sampler::new(params).map_err(refused)?;
    Ok(sampler.without(&never).with_breakers(breakers(tokenizer, &texts)?))
}

/// The tokens in which a text stands or begins, each with the tokens of the rest. Tokens know nothing of the borders of a
/// text like "\n": it may be within one or go over several.
fn breakers(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Breaker>> {
    let mut found = Vec::new();
    let mut seen: BTreeSet<(u32, Vec<u32>)> = BTreeSet::new();
    for text in texts.iter().map(|text| shortened(text)).filter(|text| !text.is_empty()) {
        for id in 0..tokenizer.n_vocab() as u32 {
            for cut in cuts(word(tokenizer, id), text) {
                let mut tail = tokenizer.encode(&text[cut..], Special::AsText, Ends::None)?;
                tail.truncate(MAX_TAIL);
                if seen.insert((id, tail.clone())) {
                    found.push(Breaker { head: id, tail });
                }
            }
        }
    }
    Ok(found)
}

/// The first bytes of a text, as whole characters.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_BREAKER_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What a token alone says: SentencePiece's first space is none.
fn word(tokenizer: &Tokenizer, id: u32) -> &[u8] {
    let piece = tokenizer.piece(id);
    match piece.strip_prefix(b" ") {
        Some(rest) if tokenizer.adds_space_prefix() => rest,
        Some(_) | None => piece,
    }
}

/// How much of `text` a word that ends in its beginning has; the whole where it stands in it.
fn cuts(word: &[u8], text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    if word.windows(bytes.len()).any(|window| window == bytes) {
        return vec![bytes.len()];
    }
    let ends = |n: &usize| word.ends_with(&bytes[..*n]) && text.is_char_boundary(*n);
    (1..bytes.len()).filter(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_in_a_word_or_begins_at_its_end() {
        assert_eq!(cuts(b"a\n\nb", "\n"), [1]);
        assert_eq!(cuts(b"two stops..", "..."), [1, 2]);
        assert_eq!(cuts(b"none", "\n"), [0; 0]);
        // A character of two bytes is not cut.
        assert_eq!(cuts(b"\xc3", "\u{e9}"), [0; 0]);
        assert_eq!(shortened(&"\u{e9}".repeat(30)).len(), 40);
        assert_eq!(shortened(&format!("x{}", "\u{e9}".repeat(30))).len(), 39);
    }
}
