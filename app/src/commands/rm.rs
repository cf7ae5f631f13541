//! `karat rm`: removes a fetched model.

use crate::exit::{Code, Failure, say};
use crate::sources::{self, Found, cache};
use karat::Config;
use karat::text::{bytes, path as show_path};
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Removes files of karat's cache only.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// As `karat list` prints it, or the path of a file in the cache
    name: OsString,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    let models = cache::models_dir(config.cache_dir()?);
    let files = files(&args.name, config)?;
    let mut size = 0;
    for file in &files {
        size += file.metadata().map_err(|e| cache::here(file, "cannot be read", &e))?.len();
    }
    let what = format!(
        "{} ({})",
        files.iter().map(|f| show_path(f)).collect::<Vec<_>>().join(", "),
        bytes(size)
    );
    if !args.yes && !confirmed(&what)? {
        return Err(Failure::new(Code::Usage, "nothing removed").into());
    }
    for file in &files {
        cache::remove(&models, file)?;
    }
    say("removed", &what);
    Ok(())
}

fn files(name: &OsStr, config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    let models = cache::models_dir(config.cache_dir()?);
    let absent = |hint: &str| {
        let shown = show_path(name.as_ref());
        Failure::new(Code::Io, format!("{shown}: not in the cache {}", show_path(&models)))
            .hint(hint.to_owned())
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
    match sources::find(name, config) {
        Ok(Found::Model(model)) => match model.files(config)? {
            files if files.is_empty() => Err(absent("karat list prints what is").into()),
            files => Ok(files),
        },
        Ok(Found::File(path)) => {
            let real = path.canonicalize().map_err(|e| cache::here(&path, "cannot be read", &e))?;
            let all = cache::files(&models)?;
            let inside =
                all.into_iter().filter(|file| file.canonicalize().is_ok_and(|f| f == real));
            let files: Vec<PathBuf> = inside.collect();
            if files.is_empty() {
                Err(absent("karat removes nothing else").into())
            } else {
                Ok(files)
            }
        }
        Err(_) => Err(absent("karat list prints what is").into()),
    }
}

fn confirmed(what: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        let failure = Failure::new(Code::Usage, "rm: there is no terminal to ask on");
        return Err(failure.hint("--yes removes without asking").into());
    }
    write!(std::io::stderr().lock(), "Remove {what}? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
