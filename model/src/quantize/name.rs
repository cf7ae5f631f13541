//! What a quantised file is called where nobody says.

use super::file_type::FileType;
use super::recipe::Target;
use std::path::Path;

/// The name of `source` as a file of another type: `m-F16.gguf` becomes `m-Q4_K_M.gguf`, and so does `m.gguf`. The number of a
/// part of a split file goes.
pub fn file_name(source: &Path, target: Target) -> String {
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    let stem = without_part(stem);
    let (stem, mark) = without_type(stem).unwrap_or((stem, '-'));
    format!("{stem}{mark}{target}.gguf")
}

/// A name without `-00001-of-00003` at its end.
fn without_part(stem: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let parts = stem.rsplit_once("-of-").filter(|(_, count)| is_number(count));
    let parts = parts.and_then(|(rest, _)| rest.rsplit_once('-'));
    parts.filter(|(_, number)| is_number(number)).map_or(stem, |(rest, _)| rest)
}

/// A name without the type at its end, and the mark that was before the type.
fn without_type(stem: &str) -> Option<(&str, char)> {
    let (at, mark) = stem.char_indices().rfind(|(_, c)| matches!(c, '-' | '.'))?;
    let (rest, end) = stem.split_at(at);
    let is_type = end[1..].parse::<FileType>().is_ok();
    (is_type && !rest.is_empty()).then_some((rest, mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_the_type() {
        let q4 = Target::Type(FileType::Q4_K_M);
        for (source, expect) in [
            ("smollm2.gguf", "smollm2-Q4_K_M.gguf"),
            ("a/smollm2-F32.gguf", "smollm2-Q4_K_M.gguf"),
            ("SmolLM2-135M-Instruct.q4_1.gguf", "SmolLM2-135M-Instruct.Q4_K_M.gguf"),
            ("big-bf16-00001-of-00003.gguf", "big-Q4_K_M.gguf"),
            ("big-0001-of-0003.gguf", "big-0001-of-0003-Q4_K_M.gguf"),
            ("Qwen3-0.6B.gguf", "Qwen3-0.6B-Q4_K_M.gguf"),
            ("F16.gguf", "F16-Q4_K_M.gguf"),
            ("-F16.gguf", "-F16-Q4_K_M.gguf"),
            ("model", "model-Q4_K_M.gguf"),
            ("größe.F16", "größe.Q4_K_M.gguf"),
        ] {
            assert_eq!(file_name(Path::new(source), q4), expect);
        }
        assert_eq!(file_name(Path::new("m-Q8_0.gguf"), Target::Copy), "m-COPY.gguf");
    }
}
