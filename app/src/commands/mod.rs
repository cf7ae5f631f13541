//! The commands: one file and one line in each of the three lists for each.

mod bench;
mod chat;
mod check;
mod completions;
mod detokenize;
mod devices;
mod inspect;
mod list;
mod perplexity;
mod ps;
mod pull;
mod quantize;
mod rm;
pub(crate) mod run;
mod synth;
mod tokenize;
mod trace;
mod version;
mod why;

use crate::interrupt;
use karat::Config;

/// What karat can do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Answer one prompt
    Run(run::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Print the ids of a text
    Tokenize(tokenize::Args),
    /// Print the text of ids
    Detokenize(detokenize::Args),
    /// Print what a GGUF file holds
    #[command(visible_alias = "show")]
    Inspect(inspect::Args),
    /// Measure tokens a second
    Bench(bench::Args),
    /// Measure how well a model foretells a text, and how far it is from another
    Perplexity(Box<perplexity::Args>),
    /// Fetch a model into the cache
    Pull(pull::Args),
    /// List the models of the cache and the catalogue
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Not a command of karat: it says why
    #[command(hide = true, aliases = ["serve", "server", "start", "stop"])]
    Ps(ps::Args),
    /// List the GPUs, and what their arithmetic is
    Devices(devices::Args),
    /// Test the kernels that a model will use on a device
    Check(check::Args),
    /// Remove a fetched model
    Rm(rm::Args),
    /// Write a model in another format
    Quantize(quantize::Args),
    /// Write a random model of any shape, for benchmarks
    Synth(synth::Args),
    /// Name the op that is wrong, where two backends or a recorded trace disagree
    Why(why::Args),
    /// Record every value of a run, for `karat why`
    Trace(trace::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Print the version
    Version(version::Args),
}

impl Command {
    /// Runs it.
    pub(crate) fn run(&self, config: &Config) -> anyhow::Result<()> {
        interrupt::install()?;
        match self {
            Self::Run(args) => run::run(args, config),
            Self::Chat(args) => chat::run(args, config),
            Self::Tokenize(args) => tokenize::run(args, config),
            Self::Detokenize(args) => detokenize::run(args, config),
            Self::Inspect(args) => inspect::run(args, config),
            Self::Bench(args) => bench::run(args, config),
            Self::Perplexity(args) => perplexity::run(args, config),
            Self::Pull(args) => pull::run(args, config),
            Self::List(args) => list::run(args, config),
            Self::Ps(args) => ps::run(args),
            Self::Devices(args) => devices::run(args),
            Self::Check(args) => check::run(args, config),
            Self::Rm(args) => rm::run(args, config),
            Self::Quantize(args) => quantize::run(args, config),
            Self::Synth(args) => synth::run(args),
            Self::Why(args) => why::run(args, config),
            Self::Trace(args) => trace::run(args, config),
            Self::Completions(args) => completions::run(args, config),
            Self::Version(args) => version::run(args),
        }
    }
}
