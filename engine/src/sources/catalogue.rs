//! The catalogue: names of models, what their files must be, and where to fetch them. Built in, plus the user's own.
use std::path::Path;

use serde::Deserialize;

use super::source::{Source, safe_name};
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// What `karat run` uses when no model is named.
pub const DEFAULT_MODEL: &str = "smollm2:135m";

const BUILT_IN: &str = include_str!("../catalogue.toml");

/// One model of the catalogue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What the user types.
    pub(crate) name: String,
    /// What its makers call it.
    pub(crate) title: String,
    /// SPDX expression.
    pub(crate) licence: String,
    /// File name in the cache.
    pub(crate) file: String,
    /// Bytes, exact.
    pub(crate) size: u64,
    /// Lower-case hex.
    pub(crate) sha256: String,
    /// Tried in order.
    pub(crate) sources: Vec<Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    model: Vec<TextEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextEntry {
    name: String,
    #[serde(default)]
    title: String,
    licence: String,
    file: String,
    size: u64,
    sha256: String,
    sources: Vec<String>,
}

/// All entries: the user's first, then the built-in ones that the user's do not replace by name.
///
/// # Errors
/// [`ErrorKind::Usage`] naming the file and the entry; [`ErrorKind::Io`] if the user's file cannot be read.
pub(crate) fn load(config: &Config) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    if let Some(path) = config.user_catalogue.as_deref() {
        let shown = crate::text::path(path);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            // Config may name the place where the file would be.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Error::new(ErrorKind::Io, format!("{shown}: cannot be read: {error}")));
            }
        };
        entries = parse(&text, &shown, path.parent().unwrap_or(Path::new(".")))?;
    }
    for entry in parse(BUILT_IN, "built-in catalogue", Path::new("."))? {
        if !entries.iter().any(|e| e.name == entry.name) {
            entries.push(entry);
        }
    }
    for (i, entry) in entries.iter().enumerate() {
        let clash =
            |e: &&Entry| e.file.eq_ignore_ascii_case(&entry.file) && e.sha256 != entry.sha256;
        if let Some(other) = entries[..i].iter().find(clash) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "catalogue: {} and {} both use file {} for different bytes",
                    other.name, entry.name, entry.file
                ),
            )
            .with_hint("give one of them another file name"));
        }
    }
    Ok(entries)
}

fn parse(text: &str, origin: &str, folder: &Path) -> Result<Vec<Entry>, Error> {
    let parsed: Text = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(""));
        let line = before.matches('\n').count() + 1;
        let message = error.message().replace('\n', ", ");
        Error::new(ErrorKind::Usage, format!("{origin}:{line}: {message}"))
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    for raw in parsed.model {
        let what = format!("{origin}: model {:?}", raw.name);
        if entries.iter().any(|e| e.name == raw.name) {
            return Err(Error::new(ErrorKind::Usage, format!("{what}: the name occurs twice")));
        }
        entries.push(check(raw, &what, folder)?);
    }
    Ok(entries)
}

fn check(raw: TextEntry, what: &str, folder: &Path) -> Result<Entry, Error> {
    let refuse = |field: &str, found: &str, allowed: &str| {
        Err(Error::new(
            ErrorKind::Usage,
            format!("{what}: {field}: {:?}, allowed: {allowed}", found),
        ))
    };
    let name_chars = |c: char| c.is_ascii_alphanumeric() || ":._-".contains(c);
    if raw.name.is_empty() || raw.name.starts_with(['-', '.']) || !raw.name.chars().all(name_chars)
    {
        return refuse("name", &raw.name, "letters, digits and : . _ -");
    }
    if ["hf:", "pypi:"].iter().any(|scheme| raw.name.starts_with(scheme)) {
        return refuse("name", &raw.name, "a name that does not begin like a source");
    }
    if !safe_name(&raw.file) || !raw.file.ends_with(".gguf") {
        return refuse("file", &raw.file, "a plain file name ending in .gguf");
    }
    if raw.sha256.len() != 64
        || !raw.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return refuse("sha256", &raw.sha256, "64 lower-case hexadecimal digits");
    }
    if raw.size == 0 || raw.sources.is_empty() {
        return refuse("size, sources", "", "a size over 0 and at least one source");
    }
    let mut sources = Vec::new();
    for text in &raw.sources {
        let source = Source::parse(text)
            .map_err(|e| Error::new(ErrorKind::Usage, format!("{what}: sources: {e}")))?;
        sources.push(match source {
            // A path is meant relative to the catalogue that names it, not to wherever karat was started.
            Source::Path(path) => Source::Path(folder.join(path)),
            other @ (Source::HuggingFace { .. } | Source::Pypi { .. } | Source::Web(_)) => other,
        });
    }
    let title = if raw.title.is_empty() { raw.name.clone() } else { raw.title };
    let TextEntry { name, licence, file, size, sha256, .. } = raw;
    Ok(Entry { name, title, licence, file, size, sha256, sources })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn entry(edit: &str, value: &str) -> String {
        let mut fields = vec![
            ("name", "\"a:1b\"".to_owned()),
            ("licence", "\"MIT\"".to_owned()),
            ("file", "\"a.gguf\"".to_owned()),
            ("size", "7".to_owned()),
            ("sha256", format!("\"{}\"", "0".repeat(64))),
            ("sources", "[\"sub/a.gguf\"]".to_owned()),
        ];
        for field in &mut fields {
            if field.0 == edit {
                field.1 = value.to_owned();
            }
        }
        fields.iter().fold("[[model]]\n".to_owned(), |text, (k, v)| format!("{text}{k} = {v}\n"))
    }

    #[test]
    fn the_built_in_catalogue_holds_the_default_model() {
        let entries = parse(BUILT_IN, "built-in", Path::new(".")).unwrap();
        let default = entries.iter().find(|e| e.name == DEFAULT_MODEL).unwrap();
        assert_eq!(default.size, 98_362_432);
        assert_eq!(default.file, "SmolLM2-135M-Instruct.Q4_1.gguf");
        assert!(matches!(default.sources[0], Source::Pypi { .. }));
        assert!(matches!(default.sources[1], Source::HuggingFace { .. }));
    }

    #[test]
    fn a_path_source_is_relative_to_the_catalogue() {
        let entries = parse(&entry("", ""), "x", Path::new("/etc/karat")).unwrap();
        assert_eq!(entries[0].sources, [Source::Path(PathBuf::from("/etc/karat/sub/a.gguf"))]);
    }

    #[test]
    fn bad_entries_are_refused_by_field() {
        for (field, value) in [
            ("name", "\"\""),
            ("name", "\"hf:x\""),
            ("name", "\"a b\""),
            ("file", "\"../a.gguf\""),
            ("file", "\"a.bin\""),
            ("file", "\"NUL.gguf\""),
            ("size", "0"),
            ("sha256", "\"ABC\""),
            ("sources", "[]"),
            ("sources", "[\"pypi:x\"]"),
        ] {
            let error = parse(&entry(field, value), "cat.toml", Path::new(".")).unwrap_err();
            assert!(error.to_string().contains(field), "{field} {value}: {error}");
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        let twice = entry("", "").repeat(2);
        assert!(
            parse(&twice, "cat.toml", Path::new(".")).unwrap_err().to_string().contains("twice")
        );
        let typo = entry("", "") + "licnce = 1\n";
        let message = parse(&typo, "cat.toml", Path::new(".")).unwrap_err().to_string();
        assert!(message.starts_with("cat.toml:8: ") && message.contains("licnce"), "{message}");
    }
}
