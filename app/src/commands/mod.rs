//! The commands: one file and one line in each of the three lists for each.

mod completions;

use crate::config::Config;

/// What karat can do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Print completions for a shell
    Completions(completions::Args),
}

impl Command {
    /// Runs it.
    pub(crate) fn run(&self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Completions(args) => completions::run(args, config),
        }
    }
}
