//! `karat ps`, which people know from ollama: what karat has in its place.

use crate::exit::{Code, Failure};

/// Takes nothing.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Says why there is nothing to list.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    let what = "ps: karat has no server, and a model is in memory only while a command uses it";
    Err(Failure::new(Code::Usage, what).hint("karat list prints the models of the cache").into())
}
