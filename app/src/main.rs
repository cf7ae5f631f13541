//! The `karat` binary: people, terminals and exit codes. What could be reused lives in the library crates.
#![forbid(unsafe_code)]

mod bar;
mod commands;
mod exit;
mod interrupt;
mod load;
mod out;
mod sampling;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs GGUF language models.
#[derive(Parser)]
#[command(name = "karat", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

/// llama.cpp's `-ngl` has three letters, which clap would read as `-n gl`.
fn long_ngl(arg: OsString) -> OsString {
    if arg == "-ngl" { "--gpu-layers".into() } else { arg }
}

fn main() -> ExitCode {
    exit::guard(|| {
        // Usage errors and --help end the process here, with 2 and 0.
        let cli = Cli::parse_from(std::env::args_os().map(long_ngl));
        cli.command.run(&karat::Config::from_env())
    })
}
