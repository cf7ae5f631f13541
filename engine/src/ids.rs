//! Token ids as people and programs write them.

use crate::error::{Error, ErrorKind, Result};
use crate::text::{one_line, shortened};
use serde_json::Value;

/// Reads ids: numbers with white space or commas between them, a JSON list of them, or a JSON object that has such a list
/// under `ids`, as `karat tokenize --json` prints it.
///
/// ```
/// assert_eq!(karat::ids::parse("504 3575,\n282")?, [504, 3575, 282]);
/// assert_eq!(karat::ids::parse("[504, 3575, 282]")?, [504, 3575, 282]);
/// # Ok::<(), karat::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Usage`] for what is no id, with its place, and where there is none at all.
pub fn parse(text: &str) -> Result<Vec<u32>> {
    let ids =
        if text.trim_start().starts_with(['[', '{']) { of_json(text)? } else { of_words(text)? };
    if ids.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "ids: none, allowed 1 and more"));
    }
    Ok(ids)
}

/// Whether a word of a command line is meant as ids and not as a model's name: digits and what may stand between and
/// around them.
pub fn are_ids(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_digit() || c.is_whitespace() || ",[]".contains(c);
    word.trim_start().starts_with('{') || (!word.is_empty() && word.chars().all(plain))
}

fn of_words(text: &str) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words.enumerate().map(|(i, word)| word.parse().map_err(|_| no_id(i, word))).collect()
}

fn of_json(text: &str) -> Result<Vec<u32>> {
    let no_json =
        |error: serde_json::Error| Error::new(ErrorKind::Usage, format!("ids: no JSON: {error}"));
    let value: Value = serde_json::from_str(text).map_err(no_json)?;
    let list = value.get("ids").unwrap_or(&value).as_array().ok_or_else(|| {
        Error::new(ErrorKind::Usage, "ids: a JSON object without a list under \"ids\"")
    })?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = list.iter().enumerate();
    ids.map(|(i, value)| id(value).ok_or_else(|| no_id(i, &value.to_string()))).collect()
}

fn no_id(i: usize, found: &str) -> Error {
    let found = one_line(&shortened(found, 40));
    Error::new(
        ErrorKind::Usage,
        format!("ids[{i}]: {found}: no id, allowed are whole numbers from 0"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_they_are_written() {
        for text in [
            "1 22 3",
            "1,22,3",
            " 1,\n22\t3\r\n",
            "[1, 22, 3]",
            "[1,22,3]",
            r#"{"ids": [1, 22, 3], "pieces": []}"#,
        ] {
            assert_eq!(parse(text).unwrap(), [1, 22, 3], "{text}");
        }
        for (text, part) in [
            ("", "ids: none"),
            (" , ", "ids: none"),
            ("[]", "ids: none"),
            ("1 x 3", "ids[1]: x: no id"),
            ("1 -3", "ids[1]: -3"),
            ("4294967296", "ids[0]: 4294967296"),
            ("[1, 2.5]", "ids[1]: 2.5"),
            ("[1, \"2\"]", "ids[1]: \"2\""),
            ("[1, 2", "no JSON"),
            ("{\"tokens\": [1]}", "without a list"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ids_and_models_are_told_apart() {
        for word in ["1", "1,2", "[1,", "2]", "1 2", "{\"ids\":[1]}"] {
            assert!(are_ids(word), "{word}");
        }
        for word in ["", "m.gguf", "qwen3:0.6b", "./1", "1.gguf", "12a"] {
            assert!(!are_ids(word), "{word}");
        }
    }
}
