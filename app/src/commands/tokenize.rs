//! `karat tokenize`: the ids of a text and the pieces that they stand for.

use super::run::{read_file, read_stdin, warn_of_doubled_end};
use crate::exit::{Code, Failure, failure};
use crate::load::{self, ModelArgs};
use crate::out::{Controls, Out};
use crate::words::{self, Flags, Wanted};
use anyhow::Result;
use karat::Config;
use karat::text::quoted;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::PathBuf;
use tokenizer::{Ends, Special, Tokenizer};

/// What `karat tokenize` takes.
#[derive(clap::Args)]
#[command(override_usage = "karat tokenize [OPTIONS] [MODEL] [TEXT]")]
pub(crate) struct Args {
    /// The text; with two arguments the first is the model, as for -m, and a lone one that is a .gguf file, a source or a
    /// name of `karat list` is. `-`, and a pipe without a text, is standard input
    #[arg(value_name = "TEXT", num_args = 0..=2)]
    texts: Vec<OsString>,
    #[command(flatten)]
    model: ModelArgs,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Print one JSON object: ids and pieces (a piece that is no UTF-8 as a list of bytes)
    #[arg(long, conflicts_with = "ids")]
    json: bool,
    /// Print the ids only, as a list
    #[arg(long)]
    ids: bool,
    /// Without the token that begins a text, and the one that ends it
    #[arg(long)]
    no_bos: bool,
    /// Names of special tokens in the text are the tokens
    #[arg(long)]
    parse_special: bool,
}

#[derive(serde::Serialize)]
struct Report {
    ids: Vec<u32>,
    pieces: Vec<Piece>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
pub(super) enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

/// What each id stands for.
pub(super) fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Piece> {
    let piece = |&id: &u32| match std::str::from_utf8(tokenizer.piece(id)) {
        Ok(text) => Piece::Text(text.to_owned()),
        Err(_) => Piece::Bytes(tokenizer.piece(id).to_vec()),
    };
    ids.iter().map(piece).collect()
}

impl Args {
    /// The text, where `word` is the one that stands without a flag.
    fn text(&self, word: Option<&OsStr>) -> Result<String> {
        match (word, &self.prompt, &self.file) {
            (Some(word), ..) if word == "-" => read_stdin(),
            (Some(word), ..) => {
                let text = word.to_str().map(str::to_owned);
                text.ok_or_else(|| failure(Code::Usage, "text: not UTF-8"))
            }
            (None, Some(prompt), _) => Ok(prompt.clone()),
            (None, None, Some(file)) => read_file(file),
            (None, None, None) if std::io::stdin().is_terminal() => {
                let failure = Failure::new(Code::Usage, "no text");
                Err(failure.hint("karat tokenize \"your text\", or a pipe").into())
            }
            (None, None, None) => read_stdin(),
        }
    }
}

/// Prints the ids.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let given = args.prompt.is_some() || args.file.is_some();
    let flags = Flags { model: args.model.model.as_ref(), text: given };
    let Wanted { model, text } = words::sort_out(&args.texts, flags, config)?;
    let text = args.text(text.as_deref())?;
    let tokenizer = load::tokenizer_of(model.as_deref(), config)?;
    let special = if args.parse_special { Special::Parse } else { Special::AsText };
    let ends = if args.no_bos { Ends::None } else { Ends::Default };
    let ids = tokenizer.encode(&text, special, ends)?;
    if ends == Ends::Default {
        warn_of_doubled_end(&tokenizer, &ids);
    }
    let mut out = Out::new(Controls::Escaped);
    if args.json {
        let pieces = pieces(&tokenizer, &ids);
        out.json(&Report { ids, pieces })
    } else if args.ids {
        Ok(out.line(&format!("{ids:?}"))?)
    } else {
        let lines: Vec<String> =
            ids.iter().map(|&id| format!("{id}\t{}\n", quoted(tokenizer.piece(id)))).collect();
        Ok(out.text(&lines.concat())?)
    }
}
