//! `karat trace`: every value of a run in a file, for `karat why` and for people with other tools.

use super::why::{PromptArgs, Prompted};
use crate::bar::Screen;
use crate::exit::say;
use crate::load::{LoadArgs, NamedModel};
use anyhow::Result;
use karat::{Config, Existing, Recording, text};
use std::path::PathBuf;

/// What `karat trace` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: NamedModel,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The file to write, in safetensors format; docs/traces.md tells the layout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace a file of this name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let model = args.model.name()?;
    let mut output = karat::output::create(&args.output, Existing::replaced_if(args.force))?;
    let options = args.load.options();
    let Prompted { parts, ids } = args.prompt.open(model, &options, config)?;
    let screen = Screen::default();
    let listener = |event: karat::Event<'_>| screen.show(event);
    let recording = parts.record(&options, &ids, args.prompt.n_predict, &listener)?;
    output.needs(recording.n_bytes())?;
    let path = text::path(&args.output);
    recording.write(&parts, &mut output).map_err(|error| error.at(&path))?;
    output.keep()?;
    let size = text::bytes(recording.n_bytes());
    let Recording { steps, values } = recording;
    let n: usize = values.steps.iter().flatten().flatten().count();
    say("trace", &format!("{path}: {n} values of {} steps, {size}", steps.len()));
    Ok(())
}
