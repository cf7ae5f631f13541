//! Keeps special tokens out of what users wrote: before rendering, characters that could make one are replaced by
//! private stand-ins, which the tokenizer turns back after it has cut out the template's own special tokens.
//!
//! Texts without special tokens are rendered as they are, so templates that look into a message see what was written.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Chat;
use crate::error::{Error, ErrorKind, Result};
use crate::special::Partition;

/// Stand-ins are taken from the end of the private use plane 15.
const STAND_INS: std::ops::RangeInclusive<u32> = 0xf_0000..=0xf_fffd;

/// The replacement for one prompt.
#[derive(Debug)]
pub(super) struct Guard {
    /// A replaced character and its stand-in.
    stand_ins: BTreeMap<char, char>,
    /// A stand-in and its character.
    originals: BTreeMap<char, char>,
    /// The texts of the special tokens that occur, whole or cut off at an end of a text.
    texts: BTreeMap<String, String>,
}

impl Guard {
    /// Replaces nothing.
    pub(super) fn none() -> Self {
        Self { stand_ins: BTreeMap::new(), originals: BTreeMap::new(), texts: BTreeMap::new() }
    }

    /// What has to be replaced in `chat`.
    pub(super) fn new(partition: &Partition, source: &str, chat: &Chat<'_>) -> Result<Self> {
        let mut guard = Self::none();
        let mut texts: Vec<&str> =
            chat.messages.iter().map(|message| message.content.as_str()).collect();
        chat.tools.into_iter().for_each(|tools| strings(tools, &mut texts));
        for (name, value) in chat.extra.into_iter().flatten() {
            texts.push(name);
            strings(value, &mut texts);
        }
        let occurs = |c: char| source.contains(c) || texts.iter().any(|text| text.contains(c));
        let mut free = STAND_INS.rev().filter_map(char::from_u32).filter(|&c| !occurs(c));
        for &text in &texts {
            let places = dangerous(partition, text);
            if places.is_empty() {
                continue;
            }
            let mut hidden = String::with_capacity(text.len() + 4 * places.len());
            for (at, c) in text.char_indices() {
                let replaced = places.binary_search(&at).is_ok();
                hidden.push(if replaced { guard.stand_in(c, &mut free)? } else { c });
            }
            guard.texts.insert(text.to_owned(), hidden);
        }
        Ok(guard)
    }

    /// The stand-in of `c`, the next free one if it has none yet.
    fn stand_in(&mut self, c: char, free: &mut impl Iterator<Item = char>) -> Result<char> {
        if let Some(&stand_in) = self.stand_ins.get(&c) {
            return Ok(stand_in);
        }
        let stand_in = free.next().ok_or_else(|| {
            Error::new(ErrorKind::Text, "messages: every private use character of plane 15 occurs")
        })?;
        self.stand_ins.insert(c, stand_in);
        self.originals.insert(stand_in, c);
        Ok(stand_in)
    }

    /// `text` with its dangerous characters replaced.
    pub(super) fn hide(&self, text: &str) -> String {
        self.texts.get(text).map_or(text, String::as_str).to_owned()
    }

    /// [`Guard::hide`] for every string in a value.
    pub(super) fn hide_in(&self, value: &Json) -> Json {
        match value {
            Json::String(text) => Json::String(self.hide(text)),
            Json::Array(list) => list.iter().map(|value| self.hide_in(value)).collect(),
            Json::Object(map) => {
                map.iter().map(|(key, value)| (self.hide(key), self.hide_in(value))).collect()
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => value.clone(),
        }
    }

    /// `text` with the original characters, or `None` if it has no stand-ins.
    pub(super) fn restore(&self, text: &str) -> Option<String> {
        if self.originals.is_empty() || !text.chars().any(|c| self.originals.contains_key(&c)) {
            return None;
        }
        Some(text.chars().map(|c| self.originals.get(&c).copied().unwrap_or(c)).collect())
    }
}

/// Collects all strings of a value, keys too.
fn strings<'j>(value: &'j Json, out: &mut Vec<&'j str>) {
    match value {
        Json::String(text) => out.push(text),
        Json::Array(list) => list.iter().for_each(|value| strings(value, out)),
        Json::Object(map) => {
            for (key, value) in map {
                out.push(key);
                strings(value, out);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// Where `text` has a character that must not stay: the first of each special token in it, of one that its end could
/// begin, and the last of one that its beginning could end. The ends count with and without their white space, as
/// templates trim. Sorted byte offsets.
fn dangerous(partition: &Partition, text: &str) -> Vec<usize> {
    let mut places = partition.control_starts(text);
    let trimmed_end = text.trim_end().len();
    let trimmed_start = text.len() - text.trim_start().len();
    for end in [text.len(), trimmed_end] {
        places.extend(partition.control_begun_by_end(&text[..end]));
    }
    for start in [0, trimmed_start] {
        places.extend(
            partition.control_ended_by_start(&text[start..]).into_iter().map(|at| at + start),
        );
    }
    places.sort_unstable();
    places.dedup();
    places
}
