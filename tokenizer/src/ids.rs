//! Token texts to ids.

use std::collections::HashMap;

/// Token texts to ids. The hasher is randomly seeded: a file cannot aim at it.
#[derive(Debug)]
pub(crate) struct TokenIds(HashMap<Box<[u8]>, u32>);

impl TokenIds {
    pub(crate) fn get(&self, text: &[u8]) -> Option<u32> {
        self.0.get(text).copied()
    }

    /// Of texts that occur twice the lowest id counts; empty texts stand for nothing.
    pub(crate) fn new(tokens: &gguf::Strings, warnings: &mut Vec<String>) -> Self {
        let mut ids = HashMap::with_capacity(tokens.len());
        let (mut empty, mut double) = (Vec::new(), Vec::new());
        for (i, text) in tokens.iter().enumerate() {
            if text.is_empty() {
                empty.push(i);
            } else if ids.contains_key(text) {
                double.push(i);
            } else {
                ids.insert(text.into(), to_id(i));
            }
        }
        for (what, found) in [
            ("are empty and never used", empty),
            ("repeat an earlier one and are never used", double),
        ] {
            if let Some(first) = found.first() {
                warnings.push(format!(
                    "tokenizer.ggml.tokens: {} texts {what}, the first at {first}",
                    found.len()
                ));
            }
        }
        Self(ids)
    }
}

/// An index of a checked vocabulary as an id.
pub(crate) fn to_id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or_else(|_| unreachable!("a vocabulary has at most 2^22 tokens"))
}
