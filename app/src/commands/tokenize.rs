//! `karat tokenize`: the ids of a text and the pieces that they stand for.

use super::run::{read_file, read_stdin, warn_of_doubled_end};
use crate::exit::{Code, Failure};
use crate::load::{self, ModelArgs};
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::Config;
use karat::text::quoted;
use std::io::IsTerminal;
use std::path::PathBuf;
use tokenizer::{Ends, Special};

/// What `karat tokenize` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The text; `-`, and a pipe without it, is standard input
    text: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
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
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

/// Prints the ids.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let text = match (&args.text, &args.file) {
        (Some(text), _) if text == "-" => read_stdin()?,
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_file(file)?,
        (None, None) if std::io::stdin().is_terminal() => {
            let failure = Failure::new(Code::Usage, "no text");
            return Err(failure.hint("karat tokenize \"your text\", or a pipe").into());
        }
        (None, None) => read_stdin()?,
    };
    let path = load::resolve(args.model.model.as_deref(), config)?;
    let file = load::open(&path)?;
    let tokenizer = load::tokenizer(&file, &path)?;
    let special = if args.parse_special { Special::Parse } else { Special::AsText };
    let ends = if args.no_bos { Ends::None } else { Ends::Default };
    let ids = tokenizer.encode(&text, special, ends)?;
    if ends == Ends::Default {
        warn_of_doubled_end(&tokenizer, &ids);
    }
    let mut out = Out::new(Controls::Escaped);
    if args.json {
        let piece = |&id: &u32| match std::str::from_utf8(tokenizer.piece(id)) {
            Ok(text) => Piece::Text(text.to_owned()),
            Err(_) => Piece::Bytes(tokenizer.piece(id).to_vec()),
        };
        let pieces = ids.iter().map(piece).collect();
        out.json(&Report { ids, pieces })
    } else if args.ids {
        Ok(out.line(&format!("{ids:?}"))?)
    } else {
        let lines: Vec<String> =
            ids.iter().map(|&id| format!("{id}\t{}\n", quoted(tokenizer.piece(id)))).collect();
        Ok(out.text(&lines.concat())?)
    }
}
