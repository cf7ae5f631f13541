//! Hashes remembered at first use: what a model must be whose entry in the catalogue names no hash. As with the keys of
//! SSH, the first fetch is trusted, and a later one must bring the same bytes.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::{here, sha256_hex};
use crate::error::{Error, ErrorKind};
use crate::text::path as show_path;
use model::output::{Existing, any_length, give_name};

/// What a source gave when it was first used.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Known {
    /// The source, down to the file.
    pub(crate) source: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Lower-case hex.
    pub(crate) sha256: String,
}

/// A file for each source, so that two processes never write the same one.
fn file_of(cache_dir: &Path, source: &str) -> PathBuf {
    cache_dir.join("known").join(format!("{}.toml", &sha256_hex(source.as_bytes())[..32]))
}

/// What `source` gave at its first use; `None` before that.
///
/// # Errors
/// [`ErrorKind::Io`] where that was noted and cannot be read.
pub(crate) fn recall(cache_dir: &Path, source: &str) -> Result<Option<Known>, Error> {
    let path = file_of(cache_dir, source);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(here(&path, "cannot be read", &error)),
    };
    let known = toml::from_str::<Known>(&text).ok().filter(|known| known.source == source);
    known.map(Some).ok_or_else(|| {
        let what = format!("{}: not what karat notes of a model's first use", show_path(&path));
        Error::new(ErrorKind::Io, what).with_hint("without the file the next use is the first one")
    })
}

/// Notes what a source gave.
///
/// # Errors
/// [`ErrorKind::Io`] if that cannot be written.
pub(crate) fn remember(cache_dir: &Path, known: &Known) -> Result<(), Error> {
    let path = file_of(cache_dir, &known.source);
    let failed = |error: &io::Error| here(&path, "cannot be written", error);
    let folder = path.parent().unwrap_or(cache_dir);
    fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    let text = toml::to_string(known).map_err(|e| {
        let line = format!("{}: cannot be written as TOML: {e}", show_path(&path));
        Error::new(ErrorKind::Internal, line)
    })?;
    let temp = tempfile::NamedTempFile::new_in(any_length(folder)).map_err(|e| failed(&e))?;
    fs::write(temp.path(), text).map_err(|e| failed(&e))?;
    give_name(temp, &path, Existing::Replace).map(drop).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_is_recalled_by_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known { source: "hf:o/r/x.gguf".to_owned(), size: 7, sha256: "0".repeat(64) };
        assert_eq!(recall(dir.path(), &known.source).unwrap(), None);
        remember(dir.path(), &known).unwrap();
        assert_eq!(recall(dir.path(), &known.source).unwrap(), Some(known.clone()));
        assert_eq!(recall(dir.path(), "hf:o/r/y.gguf").unwrap(), None);
        fs::write(file_of(dir.path(), &known.source), "nonsense").unwrap();
        assert_eq!(recall(dir.path(), &known.source).unwrap_err().kind(), ErrorKind::Io);
    }
}
