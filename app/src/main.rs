//! The `karat` binary: people, terminals and exit codes. What could be reused lives in the library crates.
#![forbid(unsafe_code)]

mod answering;
mod bar;
mod commands;
mod exit;
mod flags;
mod grammar;
mod interrupt;
mod load;
mod out;
mod sampling;
mod shift;
mod speculation;
mod stderr;
mod template;
mod words;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};
use exit::{Code, Failure, say};
use flags::{Renamed, as_typed};
use karat::text::distance;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// What `karat` alone says in a terminal.
const WELCOME: &str = "\
karat run \"Why is the sky blue?\"   answers; the first time, a model of 94 MiB is fetched
karat chat                         talks with you
karat run model.gguf               talks, with a model of yours; karat list has the names of others
karat help                         everything that karat can do
karat help run                     and all about one of them
";

/// Runs GGUF language models.
#[derive(Parser)]
#[command(
    name = "karat",
    bin_name = "karat",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

/// The program's flags. A negative number is a value, never a flag.
fn command_line() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| {
            let takes_value = arg.get_action().takes_values() && !arg.is_positional();
            if takes_value { arg.allow_negative_numbers(true) } else { arg }
        })
    })
}

/// The command, or `None` where help was asked for and has been printed.
fn parse(words: Vec<OsString>) -> anyhow::Result<Option<Cli>> {
    let command = command_line();
    let translated = flags::translate(&command, words)?;
    let help = help_of(&command, &translated.words);
    let typed = Typed { renamed: translated.renamed, help };
    let parsed = command.try_get_matches_from(translated.words);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => {
            translated.notes.iter().for_each(|note| say("note", note));
            Ok(Some(cli))
        }
        Err(error) if !error.use_stderr() => {
            error.print().context("standard output")?;
            Ok(None)
        }
        Err(error) => Err(usage(&error, &typed).into()),
    }
}

/// What was typed, for an error about it.
struct Typed {
    /// Flags of llama.cpp's in place of ours.
    renamed: Vec<Renamed>,
    /// What tells more.
    help: String,
}

/// A usage error in one line, as every other error: what clap says before it shows the usage.
fn usage(error: &clap::Error, typed: &Typed) -> Failure {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::new(Code::Usage, "no command").hint("karat --help");
    }
    let text = error.to_string();
    let said = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let said: Vec<&str> = said
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let (what, tip) = said.split_once(" tip: ").unwrap_or((said, ""));
    let failure = Failure::new(Code::Usage, format!("{what}{}", as_typed(what, &typed.renamed)));
    if is_good(tip, what) {
        return failure.hint(tip);
    }
    failure.hint(typed.help.as_str())
}

/// Whether clap's tip helps: what it thinks of is a slip of the finger away, and not only a word of the same letters.
fn is_good(tip: &str, what: &str) -> bool {
    let quoted =
        |text: &str| text.split('\'').nth(1).map(|word| word.trim_start_matches('-').to_owned());
    match (quoted(what), quoted(tip)) {
        (Some(_), Some(meant)) if tip.starts_with("to pass") => meant.contains(' '),
        (Some(typed), Some(meant)) => {
            let is_part = meant.starts_with(&typed) || typed.starts_with(&meant);
            distance(&typed, &meant) <= 2 || (typed.len() > 1 && is_part)
        }
        (_, _) => !tip.is_empty(),
    }
}

/// What tells more: `karat run --help`.
fn help_of(command: &clap::Command, words: &[OsString]) -> String {
    let found = words.iter().skip(1).find_map(|word| command.find_subcommand(word));
    match found.filter(|found| found.get_name() != "help") {
        Some(found) => format!("karat {} --help", found.get_name()),
        None => "karat help lists the commands".to_owned(),
    }
}

fn main() -> ExitCode {
    exit::guard(|| {
        let words: Vec<OsString> = std::env::args_os().collect();
        let mut stdout = std::io::stdout();
        if words.len() == 1 && stdout.is_terminal() {
            return Ok(stdout.write_all(WELCOME.as_bytes())?);
        }
        match parse(words)? {
            Some(cli) => cli.command.run(&karat::Config::from_env()),
            None => Ok(()),
        }
    })
}
