//! Classes of code points as the pre-tokenizers' regexes name them (`\p{L}`, `\p{N}`, `\s`, …).
//! The table is pinned to one Unicode version: ids must not change when a dependency is updated.

use super::unicode_table::RUNS;

/// The part of a general category that pre-tokenizers look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Letter, `\p{L}`.
    L,
    /// Mark, `\p{M}`.
    M,
    /// Number, `\p{N}`.
    N,
    /// Punctuation, `\p{P}`.
    P,
    /// Symbol, `\p{S}`.
    S,
    /// White space, `\s`; it wins over the category (only control characters and separators are white).
    Space,
    /// Everything else: other control characters, formats, surrogates, private use, unassigned.
    O,
}

/// The class of `c`.
pub(crate) fn class_of(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::L,
        '0'..='9' => Class::N,
        // The White_Space property has not changed since Unicode 6.3, so std's table is as good as a pinned one.
        _ if c.is_whitespace() => Class::Space,
        _ => {
            let next = RUNS.partition_point(|&(first, _)| first <= c as u32);
            RUNS[next - 1].1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        use Class::*;
        let cases = [
            ('é', L),
            ('中', L),
            ('ǅ', L),
            ('\u{301}', M),
            ('٣', N),
            ('½', N),
            ('_', P),
            ('¿', P),
            ('$', S),
            ('😀', S),
            ('\u{a0}', Space),
            ('\u{85}', Space),
            ('\u{3000}', Space),
            ('\u{200b}', O),
            ('\u{200d}', O),
            ('\u{1c}', O),
            ('\0', O),
            ('\u{e000}', O),
            ('\u{10ffff}', O),
            // Assigned in Unicode 15.1 and in 16.0.
            ('\u{2ebf0}', L),
            ('\u{10d40}', O),
        ];
        for (c, class) in cases {
            assert_eq!(class_of(c), class, "U+{:04X}", c as u32);
        }
    }

    #[test]
    fn ascii_shortcuts_agree_with_the_table() {
        for c in (0..128u8).map(char::from).filter(char::is_ascii_alphanumeric) {
            let next = RUNS.partition_point(|&(first, _)| first <= c as u32);
            assert_eq!(class_of(c), RUNS[next - 1].1);
        }
    }
}
