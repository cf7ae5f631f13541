//! The commands: one file and one line in each of the three lists for each.

mod completions;
mod list;
mod pull;
mod rm;

use crate::config::Config;

/// What karat can do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Fetch a model into the cache
    Pull(pull::Args),
    /// List the models of the cache and the catalogue
    List(list::Args),
    /// Remove a fetched model
    Rm(rm::Args),
    /// Print completions for a shell
    Completions(completions::Args),
}

impl Command {
    /// Runs it.
    pub(crate) fn run(&self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Pull(args) => pull::run(args, config),
            Self::List(args) => list::run(args, config),
            Self::Rm(args) => rm::run(args, config),
            Self::Completions(args) => completions::run(args, config),
        }
    }
}
