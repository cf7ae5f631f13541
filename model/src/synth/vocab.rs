//! The tokenizer of synthetic models: byte-level byte-pair encoding over made-up words, so that any text can be
//! encoded and every token be reached.
//!
//! After the 256 bytes and the special tokens come syllables (`ba`), syllables after a space (`Ġba`), words of two
//! syllables, those after a space, and so on with three. Each has the one merge that makes it.

use crate::{Error, ErrorKind, Result};
use gguf::{Array, Strings, Value};

const SPECIALS: [&str; 5] = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];
const FIRST_SPECIAL: u32 = 256;
const CONSONANTS: &[u8; 21] = b"bcdfghjklmnpqrstvwxyz";
const VOWELS: &[u8; 5] = b"aeiou";
const N_SYLLABLES: usize = CONSONANTS.len() * VOWELS.len();

/// Fewest tokens: the bytes and the special ones.
pub(super) const MIN: usize = 256 + SPECIALS.len();
/// Most tokens: all words of up to three syllables, with and without a space.
pub(super) const MAX: usize =
    MIN + 2 * (N_SYLLABLES + N_SYLLABLES * N_SYLLABLES + N_SYLLABLES * N_SYLLABLES * N_SYLLABLES);

const TEMPLATE: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// The `tokenizer.*` keys of a vocabulary of `n` tokens.
pub(super) fn keys(n: usize) -> Result<Vec<(String, Value)>> {
    if !(MIN..=MAX).contains(&n) {
        let what = format!("vocabulary of {n} tokens, allowed {MIN}..={MAX}");
        return Err(Error::new(ErrorKind::BadRequest, what));
    }
    let mut texts: Vec<String> = (0..=u8::MAX).map(|byte| printable(byte).to_string()).collect();
    texts.extend(SPECIALS.map(str::to_owned));
    let mut merges = Vec::new();
    for (left, right) in words().take(n - MIN) {
        texts.push(format!("{left}{right}"));
        merges.push(format!("{left} {right}"));
    }
    let is_special = |id: usize| (FIRST_SPECIAL as usize..MIN).contains(&id);
    let kinds = (0..n).map(|id| if is_special(id) { 3 } else { 1 }).collect();
    let ids = ["bos", "eos"].into_iter().zip(FIRST_SPECIAL..);
    let strings = |list: Vec<String>| list.into_iter().collect::<Strings>();
    let mut keys: Vec<(String, Value)> = vec![
        ("tokenizer.ggml.model".into(), "gpt2".into()),
        ("tokenizer.ggml.pre".into(), "gpt-2".into()),
        ("tokenizer.ggml.tokens".into(), strings(texts).into()),
        ("tokenizer.ggml.token_type".into(), Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.merges".into(), strings(merges).into()),
        ("tokenizer.ggml.add_bos_token".into(), true.into()),
        ("tokenizer.chat_template".into(), TEMPLATE.into()),
    ];
    keys.extend(ids.map(|(role, id)| (format!("tokenizer.ggml.{role}_token_id"), id.into())));
    Ok(keys)
}

/// The two parts of each word, in the order of ids. The space is a letter of its own here, `Ġ`.
fn words() -> impl Iterator<Item = (String, String)> {
    let letters = (0..N_SYLLABLES).map(|i| {
        let (consonant, vowel) = (CONSONANTS[i / VOWELS.len()], VOWELS[i % VOWELS.len()]);
        (char::from(consonant).to_string(), char::from(vowel).to_string())
    });
    let spaced = |n| every(n).map(|word| (printable(b' ').to_string(), word));
    let longer = |n, space: bool| {
        let start = if space { printable(b' ').to_string() } else { String::new() };
        every(n).flat_map(move |word| {
            let word = format!("{start}{word}");
            every(1).map(move |last| (word.clone(), last))
        })
    };
    letters
        .chain(spaced(1))
        .chain(longer(1, false))
        .chain(longer(1, true))
        .chain(longer(2, false))
        .chain(longer(2, true))
}

/// All words of `n` syllables.
fn every(n: u32) -> impl Iterator<Item = String> {
    (0..N_SYLLABLES.pow(n)).map(move |i| {
        let syllable = |place| i / N_SYLLABLES.pow(place) % N_SYLLABLES;
        (0..n).rev().map(syllable).fold(String::new(), |mut word, s| {
            word.push(char::from(CONSONANTS[s / VOWELS.len()]));
            word.push(char::from(VOWELS[s % VOWELS.len()]));
            word
        })
    })
}

/// The character that stands for a byte in byte-level vocabularies, as GPT-2 has it: itself where it is printable
/// Latin-1, else the next free one from 256.
fn printable(byte: u8) -> char {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_itself(byte) {
        return char::from(byte);
    }
    let others_before = (0..byte).filter(|&byte| !is_itself(byte)).count() as u32;
    // 68 bytes are not printable, so this stays in Latin Extended-A.
    char::from_u32(256 + others_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(MIN, 261);
        assert!(keys(MIN).is_ok() && keys(2000).is_ok());
        for n in [0, MIN - 1, MAX + 1] {
            let error = keys(n).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadRequest);
            let allowed = format!("vocabulary of {n} tokens, allowed {MIN}..={MAX}");
            assert_eq!(error.to_string(), allowed);
        }
        assert_eq!(MIN + words().count() - 2 * N_SYLLABLES.pow(3), MIN + 2 * (105 + 105 * 105));
    }

    #[test]
    fn words_are_made_of_earlier_tokens() {
        let mut known: std::collections::HashSet<String> =
            (0..=u8::MAX).map(|byte| printable(byte).to_string()).collect();
        assert_eq!(known.len(), 256);
        for (left, right) in words().take(30_000) {
            assert!(known.contains(&left) && known.contains(&right), "{left} {right}");
            assert!(known.insert(format!("{left}{right}")), "{left}{right} comes twice");
        }
    }

    #[test]
    fn bytes_are_written_as_gpt_2_writes_them() {
        assert_eq!([b' ', b'\n', b'a', 0, 0xad].map(printable), ['Ġ', 'Ċ', 'a', 'Ā', 'Ń']);
    }
}
