//! Keeps special tokens out of what users wrote: before rendering, characters that could make one are replaced by
//! private stand-ins, which the tokenizer turns back after it has cut out the template's own special tokens.
//!
//! Texts without special tokens are rendered as they are, so templates that look into a message see what was written.
//!
//! A special token is what the file types so, and every text that stands in the template's own source as a mark: some
//! files type `<|im_start|>` as user-defined, which is cut out of any text. One exception: a user-defined mark that the
//! template looks for (`content.split('</think>')`) stays as it is in what the assistant said, where templates look.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Chat;
use crate::error::{Error, ErrorKind, Result};
use crate::special::{Partition, TemplateMarks};

/// Stand-ins are taken from the end of the private use plane 15.
const STAND_INS: std::ops::RangeInclusive<u32> = 0xf_0000..=0xf_fffd;

/// The replacement for one prompt.
#[derive(Debug)]
pub(super) struct Guard {
    /// A replaced character and its stand-in.
    stand_ins: BTreeMap<char, char>,
    /// A stand-in and its character.
    originals: BTreeMap<char, char>,
    /// What became of the texts that hold a special token, or a part of one at an end.
    texts: BTreeMap<Speaker, BTreeMap<String, String>>,
    /// The user-defined marks of the template.
    template: TemplateMarks,
}

/// Whose text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speaker {
    /// The model's.
    Assistant,
    /// A user's, the system's, a tool's, or that of a variable.
    Other,
}

impl Speaker {
    /// By the role of a message.
    pub(super) fn of(role: &str) -> Self {
        if role == "assistant" { Self::Assistant } else { Self::Other }
    }
}

impl Guard {
    /// Replaces nothing.
    pub(super) fn none() -> Self {
        Self {
            stand_ins: BTreeMap::new(),
            originals: BTreeMap::new(),
            texts: BTreeMap::new(),
            template: TemplateMarks::default(),
        }
    }

    /// What has to be replaced in `chat`.
    pub(super) fn new(partition: &Partition, source: &str, chat: &Chat<'_>) -> Result<Self> {
        let template = partition.template_marks(source);
        let written = partition.narrowed(&template, |mark| !is_looked_for(source, mark));
        let mut guard = Self::none();
        let mut texts = Vec::new();
        for message in chat.messages {
            texts.push((Speaker::of(&message.role), message.content.as_str()));
        }
        let mut others = Vec::new();
        chat.tools.into_iter().for_each(|tools| strings(tools, &mut others));
        for (name, value) in chat.extra.into_iter().flatten() {
            others.push(name);
            strings(value, &mut others);
        }
        texts.extend(others.into_iter().map(|text| (Speaker::Other, text)));
        let occurs = |c: char| source.contains(c) || texts.iter().any(|(_, text)| text.contains(c));
        let mut free = STAND_INS.rev().filter_map(char::from_u32).filter(|&c| !occurs(c));
        for &(speaker, text) in &texts {
            let marks = match speaker {
                Speaker::Assistant => &written,
                Speaker::Other => &template,
            };
            let mut places = partition.dangerous(text, marks);
            if places.is_empty() {
                continue;
            }
            places.sort_unstable();
            let mut hidden = String::with_capacity(text.len() + 4 * places.len());
            for (at, c) in text.char_indices() {
                let replaced = places.binary_search(&at).is_ok();
                hidden.push(if replaced { guard.stand_in(c, &mut free)? } else { c });
            }
            guard.texts.entry(speaker).or_default().insert(text.to_owned(), hidden);
        }
        guard.template = template;
        Ok(guard)
    }

    /// The template's own user-defined marks: restored text must not become one of them.
    pub(super) fn template(&self) -> &TemplateMarks {
        &self.template
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
    pub(super) fn hide(&self, speaker: Speaker, text: &str) -> String {
        let hidden = self.texts.get(&speaker).and_then(|texts| texts.get(text));
        hidden.map_or(text, String::as_str).to_owned()
    }

    /// [`Guard::hide`] for every string in a value.
    pub(super) fn hide_in(&self, value: &Json) -> Json {
        match value {
            Json::String(text) => Json::String(self.hide(Speaker::Other, text)),
            Json::Array(list) => list.iter().map(|value| self.hide_in(value)).collect(),
            Json::Object(map) => map
                .iter()
                .map(|(key, value)| (self.hide(Speaker::Other, key), self.hide_in(value)))
                .collect(),
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

/// Whether a template looks for `mark` in a text, at least at one place: as an argument, `split('</think>')`, or before
/// `in`.
fn is_looked_for(source: &str, mark: &str) -> bool {
    source.match_indices(mark).any(|(at, _)| {
        let Some(before) = source[..at].strip_suffix(['\'', '"']) else { return false };
        let Some(after) = source[at + mark.len()..].strip_prefix(['\'', '"']) else { return false };
        let after = after.trim_start();
        let is_asked = after.starts_with("in ") || after.starts_with("not in ");
        is_asked || is_call(before.trim_end())
    })
}

/// Whether a piece of a template's source ends with a method's name and an opening bracket.
fn is_call(source: &str) -> bool {
    let Some(callee) = source.strip_suffix('(') else { return false };
    let method = callee.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    method.len() < callee.len() && method.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::is_looked_for;

    #[test]
    fn marks_that_a_template_looks_for() {
        let cases = [
            ("{% if '</think>' in content %}", true),
            ("{% if '</think>' not in content %}", true),
            ("{% set content = content.split( \"</think>\" )[-1] %}", true),
            ("{{ '</think>' }}", false),
            ("{{ ('</think>' + content) }}", false),
            ("</think>{{ content }}", false),
            ("{{ content + '\n</think>' }}", false),
        ];
        for (source, expected) in cases {
            assert_eq!(is_looked_for(source, "</think>"), expected, "{source}");
        }
    }
}
