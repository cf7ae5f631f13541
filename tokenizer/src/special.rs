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
/// The remaining fill-in-the-middle marks, before, after and between: control tokens, but no end.
const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
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
    for (given, texts) in [
        (special.fim_pre, FIM_PREFIX),
        (special.fim_suf, FIM_SUFFIX),
        (special.fim_mid, FIM_MIDDLE),
    ] {
        if given.is_none() {
            mark(texts, kinds);
        }
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
    /// The texts that are not cut out of plain text.
    control: Edges,
}

/// Which marks a text may have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Allowed<'a> {
    /// All: a prompt that a template made.
    All,
    /// Those that are text as much as mark.
    UserDefined,
    /// Of those, the ones that are none of a template's.
    Except(&'a TemplateMarks),
}

/// The user-defined marks that a chat template writes itself: what a user writes must not become one of them.
#[derive(Debug, Default)]
pub(crate) struct TemplateMarks {
    /// Indices into [`Partition::marks`].
    marks: BTreeSet<usize>,
    edges: Edges,
}

/// Texts that may begin where another text ends, or end where it begins.
#[derive(Debug, Default)]
struct Edges {
    /// Sorted.
    forward: Vec<String>,
    /// The same texts backward, sorted.
    backward: Vec<String>,
    /// The longest's bytes.
    longest: usize,
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
        let control = Edges::new(marks.iter().filter(|mark| !mark.always).map(|mark| &*mark.text));
        Ok(Self { marks, finder, control })
    }

    /// Cuts `text`: the longest mark first, wherever it occurs, then the next longest in what is left.
    pub(crate) fn cut<'t>(&self, text: &'t str, allowed: Allowed<'_>) -> Vec<Fragment<'t>> {
        let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
        for i in self.occurring(text) {
            let mark = &self.marks[i];
            let is_allowed = match allowed {
                Allowed::All => true,
                Allowed::UserDefined => mark.always,
                Allowed::Except(template) => mark.always && !template.marks.contains(&i),
            };
            if !is_allowed {
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

    /// The user-defined marks in a template's source. White space, words and single signs are user-defined tokens of
    /// some vocabularies, too; they stand in a template as text, not as marks.
    pub(crate) fn template_marks(&self, source: &str) -> TemplateMarks {
        let is_mark = |&i: &usize| self.marks[i].always && looks_like_a_mark(&self.marks[i].text);
        let marks: BTreeSet<usize> = self.occurring(source).into_iter().filter(is_mark).collect();
        let edges = Edges::new(marks.iter().map(|&i| &*self.marks[i].text));
        TemplateMarks { marks, edges }
    }

    /// Of a template's marks those that `is_kept` says by their text.
    pub(crate) fn narrowed(
        &self,
        template: &TemplateMarks,
        is_kept: impl Fn(&str) -> bool,
    ) -> TemplateMarks {
        let kept = template.marks.iter().copied().filter(|&i| is_kept(&self.marks[i].text));
        let marks: BTreeSet<usize> = kept.collect();
        let edges = Edges::new(marks.iter().map(|&i| &*self.marks[i].text));
        TemplateMarks { marks, edges }
    }

    /// Where characters of `text` stand that could make a mark of the control sort or of the template's: the first of each
    /// mark in it, overlapping ones too, of each end of `text` that such a mark begins with, and the last of each beginning
    /// that such a mark ends with. Offsets in bytes, in no order.
    pub(crate) fn dangerous(&self, text: &str, template: &TemplateMarks) -> Vec<usize> {
        let mut places = Vec::new();
        if let Some(finder) = &self.finder {
            let found = finder.find_overlapping_iter(text).filter(|found| {
                let i = found.pattern().as_usize();
                !self.marks[i].always || template.marks.contains(&i)
            });
            places.extend(found.map(|found| found.start()));
        }
        // The ends count with and without their white space, as templates trim.
        let trimmed_end = text.trim_end().len();
        let trimmed_start = text.len() - text.trim_start().len();
        for edges in [&self.control, &template.edges] {
            for end in [text.len(), trimmed_end] {
                places.extend(edges.begun_by_end(&text[..end]));
            }
            for start in [0, trimmed_start] {
                let ended = edges.ended_by_start(&text[start..]);
                places.extend(ended.into_iter().map(|at| at + start));
            }
        }
        places
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

impl Edges {
    fn new<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> Self {
        let mut forward: Vec<String> = texts.clone().map(str::to_owned).collect();
        let mut backward: Vec<String> =
            texts.clone().map(|text| text.chars().rev().collect()).collect();
        forward.sort_unstable();
        backward.sort_unstable();
        Self { forward, backward, longest: texts.map(str::len).max().unwrap_or(0) }
    }

    /// Where the ends of `text` begin that one of these begins with.
    fn begun_by_end(&self, text: &str) -> Vec<usize> {
        let longest = self.longest.min(text.len() + 1);
        let starts = (text.len() + 1 - longest..text.len()).filter(|&at| text.is_char_boundary(at));
        starts.filter(|&at| any_begins_with(&self.forward, text[at..].chars())).collect()
    }

    /// Where the last character is of the beginnings of `text` that one of these ends with.
    fn ended_by_start(&self, text: &str) -> Vec<usize> {
        let last = text.char_indices().take_while(|&(at, c)| at + c.len_utf8() < self.longest);
        let ends = last.filter(|&(at, c)| {
            any_begins_with(&self.backward, text[..at + c.len_utf8()].chars().rev())
        });
        ends.map(|(at, _)| at).collect()
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

/// Whether a token's text is made to be seen as a mark: letters or digits between signs, `<|im_start|>`, `[INST]`.
fn looks_like_a_mark(text: &str) -> bool {
    let is_sign = |c: char| !c.is_alphanumeric() && !c.is_whitespace();
    text.starts_with(is_sign) && text.ends_with(is_sign) && text.contains(char::is_alphanumeric)
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
