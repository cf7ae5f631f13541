//! `karat detokenize`: the text that ids stand for, the inverse of `karat tokenize`.

use super::run::read_stdin;
use super::tokenize::{Piece, pieces};
use crate::exit::{Code, Failure};
use crate::load::{self, ModelArgs, one_model};
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::Config;
use karat::ids;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use tokenizer::Show;

/// What `karat detokenize` takes.
#[derive(clap::Args)]
#[command(override_usage = "karat detokenize [OPTIONS] [MODEL] [IDS]...")]
pub(crate) struct Args {
    /// The ids: numbers with spaces or commas between them, a JSON list, or what `karat tokenize --json` prints; a first
    /// argument that is none of these is the model, as for -m. `-`, and a pipe without ids, is standard input
    #[arg(value_name = "IDS")]
    words: Vec<OsString>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object: text, ids and pieces (a piece that is no UTF-8 as a list of bytes)
    #[arg(long)]
    json: bool,
    /// Print the names of special tokens, too, and the text with the space that a tokenizer may put before it
    #[arg(long)]
    special: bool,
    /// Do not escape control characters on a terminal
    #[arg(long)]
    raw_output: bool,
}

#[derive(serde::Serialize)]
struct Report {
    text: String,
    ids: Vec<u32>,
    pieces: Vec<Piece>,
}

/// Prints the text.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let Given { model, ids } = args.given()?;
    let ids = ids::parse(&ids)?;
    let tokenizer = load::tokenizer_of(model, config)?;
    let text =
        if args.special { tokenizer.decode(&ids, Show::All)? } else { tokenizer.text_of(&ids)? };
    let controls = if args.raw_output { Controls::Raw } else { Controls::Escaped };
    let mut out = Out::new(controls);
    if args.json {
        let pieces = pieces(&tokenizer, &ids);
        return out.json(&Report { text, ids, pieces });
    }
    Ok(out.line(&text)?)
}

/// The model, and the ids as they were written.
struct Given<'a> {
    model: Option<&'a OsStr>,
    ids: String,
}

impl Args {
    fn given(&self) -> Result<Given<'_>> {
        let is_model =
            |word: &OsString| word.to_str().is_none_or(|word| word != "-" && !ids::are_ids(word));
        let (word, rest) = match self.words.as_slice() {
            [first, rest @ ..] if is_model(first) => (Some(first.as_os_str()), rest),
            words => (None, words),
        };
        let model = one_model(word, self.model.model.as_deref())?;
        let ids = match rest {
            [word] if word == "-" => read_stdin()?,
            [] if std::io::stdin().is_terminal() => {
                let failure = Failure::new(Code::Usage, "no ids");
                return Err(failure.hint("karat detokenize 504 3575, or a pipe").into());
            }
            [] => read_stdin()?,
            words => words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "),
        };
        Ok(Given { model, ids })
    }
}
