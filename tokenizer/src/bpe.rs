//! Byte-level byte-pair encoding: words cut by the pre-tokenizer, bytes as symbols, merges by rank.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::error::{Error, Result, quoted};
use super::ids::{TokenIds, to_id};
use super::merge::{Candidate, Symbol, merge};
use super::pre::{self, Pre};
use super::split::split;
use super::vocab::{MERGES, Vocab};

/// What byte-pair encoding needs besides the tokens' ids.
#[derive(Debug)]
pub(crate) struct Bpe {
    pre: &'static Pre,
    /// The hasher is randomly seeded: a file cannot aim at it.
    merges: HashMap<Pair, Merge>,
    /// The one-byte tokens.
    bytes: [Option<u32>; 256],
}

/// Two tokens side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    left: u32,
    right: u32,
}

/// What becomes of a pair.
#[derive(Clone, Copy, Debug)]
struct Merge {
    /// Lower ranks are merged first.
    rank: u32,
    /// The token that replaces the pair.
    merged: u32,
}

impl Bpe {
    pub(crate) fn new(vocab: &Vocab, ids: &TokenIds, warnings: &mut Vec<String>) -> Result<Self> {
        let name = vocab.pre.as_deref().filter(|name| !name.is_empty()).unwrap_or(pre::DEFAULT);
        let Some(pre) = pre::find(name) else {
            let known: Vec<&str> = pre::names().collect();
            return Err(Error::vocab(format!(
                "tokenizer.ggml.pre: unsupported pre-tokenizer {}; supported: {}",
                quoted(name.as_bytes()),
                known.join(", ")
            )));
        };
        let merges = read_merges(vocab, ids, warnings)?;
        let mut bytes = [None; 256];
        for byte in 0..=255u8 {
            let mut text = [0; 4];
            bytes[usize::from(byte)] = ids.get(printable(byte).encode_utf8(&mut text).as_bytes());
        }
        Ok(Self { pre, merges, bytes })
    }

    pub(crate) fn adds_bos(&self) -> bool {
        self.pre.add_bos
    }

    /// Appends the ids of `text`.
    pub(crate) fn encode(
        &self,
        text: &str,
        ids: &TokenIds,
        unknown: Option<u32>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut scratch = Scratch::default();
        let mut unspelt = None;
        split(text, self.pre.steps, |word| {
            self.encode_word(word, ids, &mut scratch, |found| match (found, unknown) {
                (Ok(id), _) | (Err(_), Some(id)) => out.push(id),
                (Err(byte), None) => unspelt = unspelt.or(Some(byte)),
            })
        });
        match unspelt {
            None => Ok(()),
            Some(byte) => Err(Error::unspelt(byte)),
        }
    }

    /// Calls `emit` with each token of `word`, or with a byte that has none.
    fn encode_word(
        &self,
        word: &str,
        ids: &TokenIds,
        scratch: &mut Scratch,
        mut emit: impl FnMut(Found),
    ) {
        if self.pre.ignore_merges {
            scratch.text.clear();
            scratch.text.extend(word.bytes().map(printable));
            if let Some(id) = ids.get(scratch.text.as_bytes()) {
                emit(Ok(id));
                return;
            }
        }
        let bytes = word.as_bytes();
        scratch.symbols.clear();
        scratch.symbols.extend(
            bytes
                .iter()
                .enumerate()
                .map(|(i, &byte)| Symbol::new(self.bytes[usize::from(byte)], i, i + 1)),
        );
        let candidate = |left: &Symbol, right: &Symbol| {
            let pair = Pair { left: left.id?, right: right.id? };
            let &Merge { rank, merged } = self.merges.get(&pair)?;
            Some(Candidate { priority: Reverse(rank), merged })
        };
        merge(&scratch.symbols, candidate, |symbol| {
            emit(symbol.id.ok_or(bytes[symbol.range().start]))
        });
    }
}

/// A token, or a byte that has none.
type Found = std::result::Result<u32, u8>;

/// Buffers that are used again from word to word.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    text: String,
}

/// The merges by pair. One that names no token can never apply: it is left out, with a warning.
fn read_merges(
    vocab: &Vocab,
    ids: &TokenIds,
    warnings: &mut Vec<String>,
) -> Result<HashMap<Pair, Merge>> {
    let mut merges = HashMap::with_capacity(vocab.merges.len());
    let mut left_out = Vec::new();
    for (i, line) in vocab.merges.iter().enumerate() {
        // The first line of Hugging Face's merges.txt, which some converters copy.
        if line.starts_with(b"#version") {
            left_out.push(i);
            continue;
        }
        let parts = parse_merge(line).map_err(|found| {
            let what = format!("{} {found}; expected \"left right\"", quoted(line));
            Error::vocab(format!("{MERGES}[{i}]: {what}"))
        })?;
        match parts.ids(ids) {
            // llama.cpp keeps the first rank of a pair that is listed twice.
            Some((pair, merged)) => {
                merges.entry(pair).or_insert(Merge { rank: to_id(i), merged });
            }
            None => left_out.push(i),
        }
    }
    if let Some(&first) = left_out.first() {
        warnings.push(format!(
            "{MERGES}: {} of {} name or make something that is no token and never apply, the first is {} at {first}",
            left_out.len(),
            vocab.merges.len(),
            quoted(&vocab.merges[first]),
        ));
    }
    Ok(merges)
}

/// A merge as the file writes it.
struct Parts<'l> {
    left: &'l [u8],
    right: &'l [u8],
}

/// A line's parts; the error says what is wrong with the line.
fn parse_merge(line: &[u8]) -> std::result::Result<Parts<'_>, &'static str> {
    let space = line.iter().skip(1).position(|&byte| byte == b' ').ok_or("is one part")? + 1;
    let (left, right) = (&line[..space], &line[space + 1..]);
    if right.is_empty() {
        return Err("is one part");
    }
    if right.contains(&b' ') {
        return Err("is more than two parts");
    }
    Ok(Parts { left, right })
}

impl Parts<'_> {
    /// The pair and the token that it makes, where all three are tokens.
    fn ids(&self, ids: &TokenIds) -> Option<(Pair, u32)> {
        let pair = Pair { left: ids.get(self.left)?, right: ids.get(self.right)? };
        Some((pair, ids.get(&[self.left, self.right].concat())?))
    }
}

/// The printable character that stands for `byte` in token texts.
pub(crate) fn printable(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // The other 68 bytes follow one another from U+0100 on.
        0..=b' ' => shifted(byte.into()),
        0x7f..=0xa0 => shifted(u32::from(byte) - 0x7f + 33),
        0xad => shifted(67),
    }
}

fn shifted(index: u32) -> char {
    char::from_u32(0x100 + index).unwrap_or_else(|| unreachable!("U+0100 to U+0143 are characters"))
}

/// The byte that `c` stands for, if it stands for one.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    let byte = match code {
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x100 - 33 + 0x7f,
        0x143 => 0xad,
        _ => code,
    };
    u8::try_from(byte).ok().filter(|&byte| printable(byte) == c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_printable_character() {
        let all: std::collections::BTreeSet<char> = (0..=255).map(printable).collect();
        assert_eq!(all.len(), 256);
        for byte in 0..=255 {
            assert_eq!(byte_of(printable(byte)), Some(byte));
        }
        assert_eq!(printable(b' '), 'Ġ');
        assert_eq!(printable(b'\n'), 'Ċ');
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('｜'), None);
    }
}
