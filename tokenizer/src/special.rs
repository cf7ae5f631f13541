//! Which tokens are marks: kinds corrected by text, the ids that end a generation, and cutting marks out of a text.
//! The lists are llama.cpp's: files often leave these facts out.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem;

use super::error::{Error, Result};
use super::ids::{TokenIds, to_id};
use super::vocab::{SpecialIds, TOKENS, TokenKind, Vocab};

/// Texts that end a generation wherever they are a token.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Fill-in-the-middle marks that end a generation too: padding, repository, file separator.
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY: &[&str] =
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEPARATOR: &[&str] = &["<|file_sep|>"];
/// The remaining fill-in-the-middle marks: control tokens, but no end.
const FIM_OTHER: [&[&str]; 3] = [
    &[
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ],
    &[
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ],
    &[
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ],
];
/// gpt-oss shows these.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Most bytes of all special tokens' texts together: the automaton that finds them takes some 40 times as much. The
/// largest known vocabularies of this sort, with a token for every sound or picture element, have one mebibyte.
const MAX_MARK_BYTES: usize = 8 << 20;

/// Corrects `kinds` by the tokens' texts and says which ids end a generation.
pub(crate) fn end_of_generation(
    ids: &TokenIds,
    special: &SpecialIds,
    kinds: &mut [TokenKind],
) -> BTreeSet<u32> {
    let mut ends = BTreeSet::new();
    let mark = |texts: &[&str], kinds: &mut [TokenKind]| -> Option<u32> {
        let id = texts.iter().find_map(|text| ids.get(text.as_bytes()))?;
        kinds[id as usize] = TokenKind::Control;
        Some(id)
    };
    for (given, texts) in [
        (special.fim_pad, FIM_PAD),
        (special.fim_rep, FIM_REPOSITORY),
        (special.fim_sep, FIM_SEPARATOR),
    ] {
        ends.extend(given.or_else(|| mark(texts, kinds)));
    }
    for texts in FIM_OTHER {
        mark(texts, kinds);
    }
    for text in END_TEXTS {
        ends.extend(mark(&[text], kinds));
    }
    for text in SHOWN {
        if let Some(id) = ids.get(text.as_bytes()) {
            kinds[id as usize] = TokenKind::UserDefined;
        }
    }
    ends.extend([special.eos, special.eot, special.eom].into_iter().flatten());

    let end =
        |ends: &BTreeSet<u32>, text: &str| ids.get(text.as_bytes()).filter(|id| ends.contains(id));
    // o200k_harmony and solar-open end a message, not the answer, with <|end|>.
    let call = end(&ends, "<|call|>").or_else(|| end(&ends, "<|calls|>"));
    let harmony =
        call.is_some() && (end(&ends, "<|return|>").is_some() || end(&ends, "<|flush|>").is_some());
    if harmony && let Some(id) = end(&ends, "<|end|>") {
        ends.remove(&id);
        kinds[id as usize] = TokenKind::UserDefined;
    }
    // Gemma 4 and PLaMo have a </s> that is plain text.
    let plain = end(&ends, "<|tool_response>").or_else(|| end(&ends, "<|plamo:eos|>"));
    if plain.is_some()
        && let Some(id) = end(&ends, "</s>")
    {
        ends.remove(&id);
        kinds[id as usize] = TokenKind::Normal;
    }
    ends
}

/// A part of a text: a mark, or text to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    Token(u32),
    Text(&'t str),
}

/// Finds the tokens that are cut out of a text before it is encoded.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Longest first, then by id.
    marks: Vec<Mark>,
    /// All texts of `marks`, in the same order, to find those that occur at all.
    finder: Option<AhoCorasick>,
    /// The texts that are not cut out of plain text, forward and backward, each sorted; and the longest's bytes.
    control_forward: Vec<String>,
    control_backward: Vec<String>,
    control_longest: usize,
}

#[derive(Debug)]
struct Mark {
    id: u32,
    text: Box<str>,
    /// Cut out even where marks are not parsed.
    always: bool,
    /// White space after it goes with it.
    strip_right: bool,
}

impl Partition {
    pub(crate) fn new(vocab: &Vocab, kinds: &[TokenKind]) -> Result<Self> {
        let phi3 = is_phi3(vocab.model_name.as_deref());
        let mut marks = Vec::new();
        for (id, (text, kind)) in vocab.tokens.iter().zip(kinds).enumerate() {
            let always = match kind {
                TokenKind::UserDefined => true,
                TokenKind::Control | TokenKind::Unknown => false,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte | TokenKind::Undefined => {
                    continue;
                }
            };
            // A text that is not UTF-8 occurs in no prompt.
            let Some(text) = std::str::from_utf8(text).ok().filter(|text| !text.is_empty()) else {
                continue;
            };
            let strip_right = phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text);
            marks.push(Mark { id: to_id(id), text: text.into(), always, strip_right });
        }
        let bytes: usize = marks.iter().map(|mark: &Mark| mark.text.len()).sum();
        if bytes > MAX_MARK_BYTES {
            return Err(Error::vocab(format!(
                "{TOKENS}: the special tokens' texts have {bytes} bytes in all, at most {MAX_MARK_BYTES} are allowed"
            )));
        }
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.text.len()));
        let finder = if marks.is_empty() { None } else { Some(build_finder(&marks)?) };
        let control = || marks.iter().filter(|mark| !mark.always).map(|mark| &*mark.text);
        let mut control_forward: Vec<String> = control().map(str::to_owned).collect();
        let mut control_backward: Vec<String> =
            control().map(|text| text.chars().rev().collect()).collect();
        control_forward.sort_unstable();
        control_backward.sort_unstable();
        let control_longest = control().map(str::len).max().unwrap_or(0);
        Ok(Self { marks, finder, control_forward, control_backward, control_longest })
    }

    /// Cuts `text`: the longest mark first, wherever it occurs, then the next longest in what is left.
    pub(crate) fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
        for mark in self.occurring(text).into_iter().map(|i| &self.marks[i]) {
            if !(parse_special || mark.always) {
                continue;
            }
            let finder = memmem::Finder::new(mark.text.as_bytes());
            let mut next = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => mark.cut(&finder, text, &mut next),
                    Fragment::Token(_) => next.push(fragment),
                }
            }
            fragments = next;
        }
        fragments
    }

    /// Where marks begin in `text` that are not cut out of plain text. Overlapping ones too.
    pub(crate) fn control_starts(&self, text: &str) -> Vec<usize> {
        let Some(finder) = &self.finder else { return Vec::new() };
        let found = finder.find_overlapping_iter(text);
        found
            .filter(|found| !self.marks[found.pattern().as_usize()].always)
            .map(|found| found.start())
            .collect()
    }

    /// Where the ends of `text` begin that such a mark begins with.
    pub(crate) fn control_begun_by_end(&self, text: &str) -> Vec<usize> {
        let longest = self.control_longest.min(text.len() + 1);
        let starts = (text.len() + 1 - longest..text.len()).filter(|&at| text.is_char_boundary(at));
        starts.filter(|&at| any_begins_with(&self.control_forward, text[at..].chars())).collect()
    }

    /// Where the last character is of the beginnings of `text` that such a mark ends with.
    pub(crate) fn control_ended_by_start(&self, text: &str) -> Vec<usize> {
        let last =
            text.char_indices().take_while(|&(at, c)| at + c.len_utf8() < self.control_longest);
        let ends = last.filter(|&(at, c)| {
            any_begins_with(&self.control_backward, text[..at + c.len_utf8()].chars().rev())
        });
        ends.map(|(at, _)| at).collect()
    }

    /// The marks that occur in `text`, in order: a vocabulary may have thousands, a text has few.
    fn occurring(&self, text: &str) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        if let Some(finder) = &self.finder {
            found
                .extend(finder.find_overlapping_iter(text).map(|found| found.pattern().as_usize()));
        }
        found
    }
}

impl Mark {
    fn cut<'t>(&self, finder: &memmem::Finder<'_>, mut text: &'t str, out: &mut Vec<Fragment<'t>>) {
        while let Some(at) = finder.find(text.as_bytes()) {
            if at > 0 {
                out.push(Fragment::Text(&text[..at]));
            }
            out.push(Fragment::Token(self.id));
            text = &text[at + self.text.len()..];
            if self.strip_right {
                // C's isspace.
                text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
            }
        }
        if !text.is_empty() {
            out.push(Fragment::Text(text));
        }
    }
}

/// Whether a text in a sorted list begins with `beginning`.
fn any_begins_with(sorted: &[String], beginning: impl Iterator<Item = char>) -> bool {
    let beginning: String = beginning.collect();
    let at = sorted.partition_point(|text| *text < beginning);
    sorted.get(at).is_some_and(|text| text.starts_with(&beginning))
}

fn build_finder(marks: &[Mark]) -> Result<AhoCorasick> {
    AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .build(marks.iter().map(|mark| mark.text.as_bytes()))
        .map_err(|e| Error::vocab(format!("{TOKENS}: the special tokens are too many: {e}")))
}

fn is_phi3(name: Option<&str>) -> bool {
    let name = name.unwrap_or_default().to_ascii_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}
