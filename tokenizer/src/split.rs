//! The pre-tokenizers' regexes as matchers without backtracking: how a text is cut before byte-pair merging.
//! Which model uses which list of matchers is in `pre.rs`.
//!
//! A regex engine would need look-ahead, and with it backtracking: limits, stack and quadratic time on a long run of
//! one character. The regexes in use are alternations of a few shapes, each of which one forward scan decides.

use super::unicode::{Class, class_of};

/// One alternative of a pre-tokenizer's regex. Alternatives are tried in order at each position, the first wins.
pub(crate) enum Alt {
    /// `'s|'t|'re|'ve|'m|'ll|'d`
    Contraction(Case),
    /// `lead? set{1,max} tail`
    Run { lead: Lead, set: Set, max: usize, tail: Tail },
    /// `[^\r\n\p{L}\p{N}]? upper* lower+ suffix? | [^\r\n\p{L}\p{N}]? upper+ lower* suffix?`, where upper is a
    /// letter outside `a-z` and lower a letter outside `A-Z` (so llama.cpp; letters beyond ASCII are both).
    CasedWord(Suffix),
    /// One ASCII punctuation character and ASCII letters.
    PunctuatedWord,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// `\s*[\r\n]+`, and `\s*[\r\n]` alike: both end after the last line break of the white run.
    LineBreaks,
    /// `\s+(?!\S)`
    SpacesBeforeSpace,
    /// `\s+`
    Spaces,
    /// `\s+$`
    SpacesAtEnd,
}

/// Whether a contraction may be in capitals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Any,
}

/// The optional character before a run.
#[derive(Clone, Copy)]
pub(crate) enum Lead {
    None,
    /// ` ?`
    Space,
    /// `\s?`
    White,
    /// `[^\r\n\p{L}\p{N}]?`
    NotWord,
    /// `[^\r\n\p{L}\p{P}\p{S}]?`
    NotLetterOrSign,
}

/// What may follow a run.
#[derive(Clone, Copy)]
pub(crate) enum Tail {
    None,
    /// `[\r\n]*`
    Breaks,
    /// `[\r\n/]*`
    BreaksAndSlashes,
}

/// What may follow a cased word.
#[derive(Clone, Copy)]
pub(crate) enum Suffix {
    None,
    Contraction,
}

/// A character class.
pub(crate) type Set = fn(char, Class) -> bool;

/// Cuts `text` by each regex in turn (the pieces of one are the input of the next) and calls `word` with every piece.
pub(crate) fn split<'t>(text: &'t str, steps: &[&[Alt]], mut word: impl FnMut(&'t str)) {
    let chars: Vec<char> = text.chars().collect();
    let classes: Vec<Class> = chars.iter().map(|&c| class_of(c)).collect();
    let mut ends = vec![chars.len()];
    for step in steps {
        let mut next = Vec::with_capacity(ends.len());
        let mut start = 0;
        for end in ends {
            cut(&Piece::new(&chars[start..end], &classes[start..end]), start, step, &mut next);
            start = end;
        }
        ends = next;
    }
    let mut rest = text;
    let mut start = 0;
    for end in ends {
        let bytes = chars[start..end].iter().map(|c| c.len_utf8()).sum();
        let (piece, after) = rest.split_at(bytes);
        if !piece.is_empty() {
            word(piece);
        }
        rest = after;
        start = end;
    }
}

/// Appends the ends of the pieces of one piece: the matches, and what lies between them.
fn cut(piece: &Piece<'_>, base: usize, alternatives: &[Alt], ends: &mut Vec<usize>) {
    let mut start = 0;
    let mut at = 0;
    while at < piece.chars.len() {
        match alternatives.iter().find_map(|alt| alt.end(piece, at)) {
            Some(end) => {
                if at > start {
                    ends.push(base + at);
                }
                ends.push(base + end);
                (start, at) = (end, end);
            }
            None => at += 1,
        }
    }
    if at > start {
        ends.push(base + at);
    }
}

/// The characters that one regex sees: look-ahead ends where the piece does.
struct Piece<'t> {
    chars: &'t [char],
    classes: &'t [Class],
    /// Where the white run at the end begins.
    trailing: usize,
}

impl<'t> Piece<'t> {
    fn new(chars: &'t [char], classes: &'t [Class]) -> Self {
        let trailing = classes.iter().rposition(|&c| c != Class::Space).map_or(0, |last| last + 1);
        Self { chars, classes, trailing }
    }

    fn is(&self, at: usize, set: Set) -> bool {
        at < self.chars.len() && set(self.chars[at], self.classes[at])
    }

    /// The end of the longest run of `set` from `at` on, of at most `max` characters.
    fn run(&self, at: usize, set: Set, max: usize) -> usize {
        let limit = self.chars.len().min(at.saturating_add(max));
        (at..limit).find(|&i| !set(self.chars[i], self.classes[i])).unwrap_or(limit)
    }

    fn contraction(&self, at: usize, case: Case) -> Option<usize> {
        let letter = |i: usize| {
            let c = *self.chars.get(i)?;
            Some(if case == Case::Any { c.to_ascii_lowercase() } else { c })
        };
        if self.chars[at..].first() != Some(&'\'') {
            return None;
        }
        match (letter(at + 1)?, letter(at + 2)) {
            ('s' | 't' | 'm' | 'd', _) => Some(at + 2),
            ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(at + 3),
            _ => None,
        }
    }

    fn cased_word(&self, at: usize, suffix: Suffix) -> Option<usize> {
        let upper: Set = |c, class| class == Class::L && !c.is_ascii_lowercase();
        let lower: Set = |c, class| class == Class::L && !c.is_ascii_uppercase();
        let start = at + usize::from(self.is(at, not_word));
        let uppers = self.run(start, upper, usize::MAX);
        let lowers = self.run(uppers, lower, usize::MAX);
        let end = if lowers > uppers {
            lowers
        } else {
            // Nothing lower follows: `upper*` gives characters back until the last of them is lower as well, and if
            // none is, the second alternative takes the run whole.
            let both = (start..uppers).rev().find(|&i| !self.chars[i].is_ascii());
            both.map_or(uppers, |i| i + 1)
        };
        if end == start {
            return None;
        }
        match suffix {
            Suffix::None => Some(end),
            Suffix::Contraction if end < self.chars.len() => {
                Some(self.contraction(end, Case::Any).unwrap_or(end))
            }
            Suffix::Contraction => Some(end),
        }
    }
}

impl Alt {
    /// Where a match that begins at `at` ends; a match is never empty.
    fn end(&self, piece: &Piece<'_>, at: usize) -> Option<usize> {
        let white = |from| piece.run(from, space, usize::MAX);
        match self {
            Self::Contraction(case) => piece.contraction(at, *case),
            Self::Run { lead, set, max, tail } => {
                let taken = piece.is(at, lead.set()) && piece.is(at + 1, *set);
                let start = at + usize::from(taken);
                let end = piece.run(start, *set, *max);
                (end > start).then(|| piece.run(end, tail.set(), usize::MAX))
            }
            Self::CasedWord(suffix) => piece.cased_word(at, *suffix),
            Self::PunctuatedWord => {
                let ascii_letter: Set = |c, _| c.is_ascii_alphabetic();
                let end = piece.run(at + 1, ascii_letter, usize::MAX);
                (piece.chars[at].is_ascii_punctuation() && end > at + 1).then_some(end)
            }
            Self::ThreeDigits => {
                let digit: Set = |c, _| c.is_ascii_digit();
                (piece.run(at, digit, 3) == at + 3).then_some(at + 3)
            }
            Self::LineBreaks => {
                let last =
                    (at..white(at)).rev().find(|&i| matches!(piece.chars[i], '\r' | '\n'))?;
                Some(last + 1)
            }
            Self::SpacesBeforeSpace => {
                let end = white(at);
                let end = if end == piece.chars.len() { end } else { end.saturating_sub(1) };
                (end > at).then_some(end)
            }
            Self::Spaces => Some(white(at)).filter(|&end| end > at),
            Self::SpacesAtEnd => (at >= piece.trailing).then_some(piece.chars.len()),
        }
    }
}

impl Lead {
    fn set(self) -> Set {
        match self {
            Self::None => |_, _| false,
            Self::Space => |c, _| c == ' ',
            Self::White => space,
            Self::NotWord => not_word,
            Self::NotLetterOrSign => |c, class| {
                !matches!(c, '\r' | '\n') && !matches!(class, Class::L | Class::P | Class::S)
            },
        }
    }
}

impl Tail {
    fn set(self) -> Set {
        match self {
            Self::None => |_, _| false,
            Self::Breaks => |c, _| matches!(c, '\r' | '\n'),
            Self::BreaksAndSlashes => |c, _| matches!(c, '\r' | '\n' | '/'),
        }
    }
}

/// `\s`
fn space(_: char, class: Class) -> bool {
    class == Class::Space
}

/// `[^\r\n\p{L}\p{N}]`
fn not_word(c: char, class: Class) -> bool {
    !matches!(c, '\r' | '\n') && !matches!(class, Class::L | Class::N)
}

#[cfg(test)]
mod tests {
    use super::super::pre;
    use super::*;
    use std::io::Write as _;

    fn pieces<'t>(text: &'t str, pre: &str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        split(text, pre::find(pre).unwrap().steps, |piece| pieces.push(piece));
        pieces
    }

    /// Checks a file of scripts/split_cases.py; returns the number of cases and of pre-tokenizers that are not ours.
    fn check_cases(file: &str) -> (usize, usize) {
        let (mut checked, mut unknown) = (0, std::collections::BTreeSet::new());
        let mut failures = Vec::new();
        for line in file.lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let (name, text) = (case["pre"].as_str().unwrap(), case["text"].as_str().unwrap());
            if pre::find(name).is_none() {
                unknown.insert(name.to_owned());
                continue;
            }
            let expected: Vec<&str> =
                case["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            let found = pieces(text, name);
            if found != expected {
                failures.push(format!(
                    "{name}: {text:?}\n  found    {found:?}\n  expected {expected:?}"
                ));
            }
            checked += 1;
        }
        assert!(
            failures.is_empty(),
            "{} of {checked}:\n{}",
            failures.len(),
            failures[..failures.len().min(40)].join("\n")
        );
        println!("{checked} cases, not ours: {unknown:?}");
        (checked, unknown.len())
    }

    #[test]
    fn llama_cpp_cuts_the_same() {
        let (checked, unknown) = check_cases(include_str!("../tests/data/splits.jsonl"));
        assert!(checked > 300 && unknown == 0, "{checked} {unknown}");
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "tests take their optional inputs from the environment"
    )]
    fn llama_cpp_cuts_many_more_the_same() {
        match std::env::var_os("KARAT_SPLIT_CASES") {
            Some(path) => assert!(check_cases(&std::fs::read_to_string(path).unwrap()).0 > 0),
            // Past the test harness, which shows what a test prints only if it fails.
            None => {
                let _ = writeln!(std::io::stderr(), "skipped: KARAT_SPLIT_CASES is not set");
            }
        }
    }

    /// RELIABILITY row 50: a text of one thing over and over. The bound is for total blow-up: quadratic time would be
    /// hours here. Linear time takes some 20 ms.
    #[test]
    fn row_50_a_mebibyte_of_one_thing_is_cut_in_linear_time() {
        let units = [
            "a",
            "éA",
            " ",
            "\n",
            " \n",
            "0",
            "^",
            "'s",
            "😀",
            "👩\u{200d}",
            "\u{301}",
            "中",
            "\u{3000}",
            "  x",
        ];
        for unit in units {
            let text = unit.repeat((1 << 20) / unit.len());
            for name in pre::kinds() {
                let start = std::time::Instant::now();
                let mut length = 0;
                split(&text, pre::find(name).unwrap().steps, |piece| length += piece.len());
                assert_eq!(length, text.len());
                assert!(
                    start.elapsed().as_secs() < 20,
                    "{name}: {unit:?} took {:?}",
                    start.elapsed()
                );
            }
        }
    }

    #[test]
    fn pieces_join_to_the_text_and_none_is_empty() {
        for name in pre::names() {
            for text in ["", " ", "a", "\n \n", "x  'S\r\n\u{3000}é1234", "\u{0}\u{10ffff}"] {
                let pieces = pieces(text, name);
                assert_eq!(pieces.concat(), text, "{name}");
                assert!(pieces.iter().all(|piece| !piece.is_empty()), "{name}");
            }
        }
    }
}
