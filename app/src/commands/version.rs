//! `karat version`: the same line as `karat --version`.

use crate::out::{Controls, Out};

/// Takes nothing.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Prints it.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    let line = concat!("karat ", env!("CARGO_PKG_VERSION"));
    Ok(Out::new(Controls::Escaped).line(line)?)
}
