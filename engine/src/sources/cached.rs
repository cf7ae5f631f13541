//! What the cache and the catalogue hold: lists for people, and the way out of the cache.
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::catalogue::Entry;
use super::{Found, Remote, cache, catalogue, find};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::text::path as show_path;

/// A model of the catalogue or of the cache.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// A name of the catalogue, or the source string with which it was fetched.
    pub name: String,
    /// As its makers call it.
    pub title: Option<String>,
    /// SPDX expression.
    pub licence: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Whether that is only about its size: it was never fetched, and the catalogue does not know better.
    pub approximate: bool,
    /// Whether it is in the cache, whole as far as its size tells.
    pub cached: bool,
    /// Whether it is in the cache and has another size than it was fetched with, or must have.
    pub damaged: bool,
    /// The cached file.
    pub path: Option<PathBuf>,
    /// As it must be (catalogue) or as it was when it was fetched.
    pub sha256: Option<String>,
    /// Where the cached file came from.
    pub source: Option<String>,
    /// Where the catalogue would fetch it.
    pub sources: Vec<String>,
}

/// The models of the catalogue, then those that only the cache has.
///
/// # Errors
/// [`ErrorKind::Usage`] for a malformed catalogue and where no cache folder is known; [`ErrorKind::Io`] where the cache
/// cannot be read.
pub fn list(config: &Config) -> Result<Vec<Listed>> {
    let models = cache::models_dir(config.cache_dir()?);
    let mut files = cache::files(&models)?;
    let mut rows = Vec::new();
    for entry in catalogue::load(config)? {
        let path = models.join(&entry.file);
        let there = files.contains(&path);
        files.retain(|file| *file != path);
        rows.push(of_the_catalogue(&entry, there.then_some(path))?);
    }
    for file in files {
        rows.push(outside_the_catalogue(&models, file)?);
    }
    Ok(rows)
}

/// A model of the catalogue; `path` where there is a cached file of it.
fn of_the_catalogue(entry: &Entry, path: Option<PathBuf>) -> Result<Listed> {
    let receipt = path.as_deref().and_then(cache::receipt);
    let exact = Remote::of(entry.clone()).size(path.as_deref().unwrap_or(Path::new("")));
    let found = path.as_deref().map(len).transpose()?;
    let damaged = found.is_some() && exact.is_some() && found != exact;
    let sha256 = entry.content.sha256().map(str::to_owned);
    Ok(Listed {
        name: entry.name.clone(),
        title: Some(entry.title.clone()),
        licence: Some(entry.licence.clone()),
        size: exact.unwrap_or(entry.content.size()),
        approximate: exact.is_none(),
        cached: path.is_some() && !damaged,
        damaged,
        sha256: sha256.or_else(|| receipt.as_ref().map(|r| r.sha256.clone())),
        source: receipt.map(|r| r.source),
        path,
        sources: entry.sources.iter().map(ToString::to_string).collect(),
    })
}

fn len(file: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len())
}

/// A cached file that no entry of the catalogue stands for.
fn outside_the_catalogue(models: &Path, file: PathBuf) -> Result<Listed> {
    let size = len(&file)?;
    let receipt = cache::receipt(&file);
    let damaged = receipt.as_ref().is_some_and(|receipt| receipt.size != size);
    let below = file.strip_prefix(models).unwrap_or(&file).to_string_lossy().into_owned();
    let (name, sha256, source) = match receipt {
        Some(receipt) => (receipt.name, Some(receipt.sha256), Some(receipt.source)),
        None => (below, None, None),
    };
    Ok(Listed {
        name,
        title: None,
        licence: None,
        size,
        approximate: false,
        cached: !damaged,
        damaged,
        path: Some(file),
        sha256,
        source,
        sources: Vec::new(),
    })
}

/// A file of the cache.
pub struct Cached {
    /// Where it is.
    pub path: PathBuf,
    /// What it was fetched as; `None` for a file that came there otherwise.
    pub remote: Option<Remote>,
}

/// The files of the cache, each with the model that it belongs to: what [`Remote::verify`] reads again.
///
/// # Errors
/// As [`list`].
pub fn cached(config: &Config) -> Result<Vec<Cached>> {
    let models = cache::models_dir(config.cache_dir()?);
    let entries = catalogue::load(config)?;
    let with_model = |path: PathBuf| {
        let entry = entries.iter().find(|entry| models.join(&entry.file) == path);
        let remote = match (entry, cache::receipt(&path)) {
            (Some(entry), _) => Some(Remote::of(entry.clone())),
            (None, Some(receipt)) => Some(match find(OsStr::new(&receipt.name), config) {
                Ok(Found::Remote(remote)) => *remote,
                // A name that the catalogue no longer has: the receipt alone says what the file must be.
                Ok(Found::File(_)) | Err(_) => Remote::named(receipt.name),
            }),
            (None, None) => None,
        };
        Cached { path, remote }
    };
    Ok(cache::files(&models)?.into_iter().map(with_model).collect())
}

/// The cached files of a model: by its name, its source string, or the path of a file in the cache.
///
/// # Errors
/// [`ErrorKind::NotFound`] where the cache has none; otherwise as [`list`].
pub fn named(name: &OsStr, config: &Config) -> Result<Vec<PathBuf>> {
    let models = cache::models_dir(config.cache_dir()?);
    let absent = |hint: &str| {
        let shown = show_path(name.as_ref());
        let what = format!("{shown}: not in the cache {}", show_path(&models));
        Error::new(ErrorKind::NotFound, what).with_hint(hint)
    };
    // What was fetched under a name that the catalogue no longer has, and files that came here otherwise.
    let mut others = cache::files(&models)?;
    others.retain(|file| {
        cache::receipt(file).is_some_and(|r| *r.name == *name)
            || file.strip_prefix(&models).is_ok_and(|p| p == name)
    });
    if !others.is_empty() {
        return Ok(others);
    }
    match find(name, config) {
        Ok(Found::Remote(remote)) => match remote.files(config)? {
            files if !files.is_empty() => Ok(files),
            _ => match remote.beginnings(config)? {
                beginnings if beginnings.is_empty() => Err(absent("karat list prints what is")),
                beginnings => Ok(beginnings),
            },
        },
        Ok(Found::File(path)) => {
            let real = path.canonicalize().map_err(|e| cache::here(&path, "cannot be read", &e))?;
            let mut files = cache::files(&models)?;
            files.retain(|file| file.canonicalize().is_ok_and(|f| f == real));
            if files.is_empty() { Err(absent("karat removes nothing else")) } else { Ok(files) }
        }
        Err(_) => Err(absent("karat list prints what is")),
    }
}

/// Removes files of the cache, with what was noted of them.
///
/// # Errors
/// [`ErrorKind::Io`] where one cannot be removed.
pub fn remove(files: &[PathBuf], config: &Config) -> Result<()> {
    let models = cache::models_dir(config.cache_dir()?);
    files.iter().try_for_each(|file| cache::remove(&models, file))
}
