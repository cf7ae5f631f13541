//! `karat trace`: every value of a run in a file, for `karat why` and for people with other tools.

use super::why::{PromptArgs, Prompted};
use crate::bar::Screen;
use crate::exit::say;
use crate::load::{LoadArgs, ModelArgs};
use anyhow::Result;
use karat::{Config, Recording, text};
use std::path::PathBuf;

/// What `karat trace` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The file to write, in safetensors format; docs/traces.md tells the layout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let options = args.load.options();
    let Prompted { parts, ids } = args.prompt.open(&args.model, &options, config)?;
    let screen = Screen::default();
    let listener = |event: karat::Event<'_>| screen.show(event);
    let recording = parts.record(&options, &ids, args.prompt.n_predict, &listener)?;
    recording.write(&parts, &args.output)?;
    let Recording { steps, values } = recording;
    let n: usize = values.steps.iter().flatten().flatten().count();
    let (path, bytes) = (text::path(&args.output), args.output.metadata().map_or(0, |m| m.len()));
    say("trace", &format!("{path}: {n} values of {} steps, {}", steps.len(), text::bytes(bytes)));
    Ok(())
}
