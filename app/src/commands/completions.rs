//! `karat completions`: what a shell needs to complete karat's commands and flags.

use crate::out::{Controls, Out};
use clap::CommandFactory;
use karat::Config;

/// `eval "$(karat completions bash)"`, or into the folder that your shell reads.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, _: &Config) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "karat", &mut script);
    Ok(Out::new(Controls::Raw).text(&String::from_utf8_lossy(&script))?)
}
