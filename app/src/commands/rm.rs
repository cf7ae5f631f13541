//! `karat rm`: removes a fetched model.

use crate::exit::{Code, Failure, say};
use anyhow::Context as _;
use karat::text::{bytes, path as show_path};
use karat::{Config, sources};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};

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
    let files = sources::named(&args.name, config)?;
    let mut size = 0;
    for file in &files {
        size +=
            file.metadata().with_context(|| format!("{}: cannot be read", show_path(file)))?.len();
    }
    let what = format!(
        "{} ({})",
        files.iter().map(|f| show_path(f)).collect::<Vec<_>>().join(", "),
        bytes(size)
    );
    if !args.yes && !confirmed(&what)? {
        return Err(Failure::new(Code::Usage, "nothing removed").into());
    }
    sources::remove(&files, config)?;
    say("removed", &what);
    Ok(())
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
