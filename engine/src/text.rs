//! Text that is safe to print: control characters and direction marks escaped.

use std::path::Path;

/// Whether printing `c` could move the cursor, colour the screen or reorder a line.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Everything unsafe escaped, line breaks too.
pub fn one_line(text: &str) -> String {
    escape(text, |_| false)
}

/// For output on a terminal: line breaks and tabs stay.
pub fn for_terminal(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && !keep(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// JSON whose texts hold nothing unsafe: `\u009b` instead of the character, which means the same.
pub fn safe_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        // Unsafe characters have at most 16 bits, and stand in strings only.
        if is_unsafe(c) { safe.push_str(&format!("\\u{:04x}", u32::from(c))) } else { safe.push(c) }
    }
    safe
}

/// A path for a message.
pub fn path(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// At most `max` characters, `…` where some were cut.
pub fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The bytes of a token as a quoted string: what is no printable character as `\n`, `\u{…}` or `\xNN`. No two pieces
/// look the same, and pieces put together spell the text.
pub fn quoted(bytes: &[u8]) -> String {
    let mut shown = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => shown.extend(['\\', c]),
                c if is_unsafe(c) => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown.push('"');
    shown
}

/// How a shell takes a word as it is.
struct Shell {
    /// What needs no quotes, beside letters and digits.
    plain: &'static str,
    /// A single quote between single quotes.
    quote: &'static str,
}

const POSIX: Shell = Shell { plain: "-_./:=,@+%", quote: r"'\''" };
const POWERSHELL: Shell = Shell { plain: r"-_./:=+\", quote: "''" };

/// A word as the system's shell reads it back, a POSIX one or PowerShell: quoted where it has anything but plain
/// characters.
pub fn shell_word(word: &str) -> String {
    word_for(if cfg!(windows) { &POWERSHELL } else { &POSIX }, word)
}

fn word_for(shell: &Shell, word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || shell.plain.contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', shell.quote))
}

/// How many characters must be added, left out or changed to make `b` of `a` (Levenshtein's distance).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // The distances of what was read of `a` so far to every beginning of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(one_line("a\n\u{1b}[31m\u{202e}é\t"), "a\\n\\u{1b}[31m\\u{202e}é\\t");
        assert_eq!(for_terminal("a\n\u{1b}[31m\t\r"), "a\n\\u{1b}[31m\t\\r");
        assert_eq!(quoted(b"a\n\"\\\xf0\x9f\xff"), r#""a\n\"\\\xf0\x9f\xff""#);
        assert_eq!(safe_json("\"\u{9b}é\u{202e}\""), "\"\\u009bé\\u202e\"");
        assert_eq!(shortened("aéb", 2), "aé…");
        assert_eq!(shortened("aé", 2), "aé");
    }

    /// What `printf '%s\n' WORD` prints in a shell is the word.
    #[test]
    fn words_for_a_shell() {
        let posix = |word| word_for(&POSIX, word);
        assert_eq!(posix("--temp=0.5"), "--temp=0.5");
        assert_eq!(posix(""), "''");
        assert_eq!(posix("The capital of $FRANCE"), "'The capital of $FRANCE'");
        assert_eq!(posix("it's"), r"'it'\''s'");
        assert_eq!(posix("~/a b"), "'~/a b'");
        let powershell = |word| word_for(&POWERSHELL, word);
        assert_eq!(powershell(r"C:\m\x.gguf"), r"C:\m\x.gguf");
        assert_eq!(powershell("it's $HOME"), "'it''s $HOME'");
        assert_eq!(powershell("a,b"), "'a,b'");
    }

    /// Those of the literature, and one letter more or less.
    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("kitten", "sitting", 3),
            ("saturday", "sunday", 3),
            ("", "abc", 3),
            ("abc", "", 3),
            ("same", "same", 0),
            ("lama3.2", "llama3.2", 1),
            ("é", "e", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(98_362_432), "93.8 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
