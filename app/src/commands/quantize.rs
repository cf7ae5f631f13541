//! `karat quantize`: a model in another format.

use crate::bar::{LoadBar, Screen, Unit};
use crate::exit::{Code, failure, say};
use crate::load::{self, positive};
use anyhow::Result;
use karat::text;
use karat::{Config, Existing};
use model::quantize::{FileType, Request, quantize};
use std::ffi::OsString;
use std::num::NonZero;
use std::path::PathBuf;

/// What `karat quantize` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model, as for -m; a quantised one is dequantised first and gets no better by it
    #[arg(value_name = "IN")]
    source: OsString,
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q4_K_M Q5_0 Q5_1 Q4_0 Q4_1, with llama-quantize's mixes
    #[arg(value_name = "TYPE", value_parser = file_type)]
    file_type: FileType,
    /// Replace a file of this name
    #[arg(long)]
    force: bool,
    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
}

fn file_type(name: &str) -> Result<FileType, String> {
    name.parse().map_err(|error: model::Error| error.to_string())
}

/// What is refused is to write over the source, or over what is there.
fn usage(error: model::Error) -> anyhow::Error {
    if error.kind() == model::ErrorKind::BadRequest {
        return failure(Code::Usage, error.to_string());
    }
    error.into()
}

/// Writes the file and says on stderr how large it is.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let path = load::resolve(Some(&args.source), config)?;
    let file = load::open(&path)?;
    let screen = Screen::default();
    let threads = karat::usable_threads(args.threads, &|event| screen.show(event));
    let request = Request {
        file_type: args.file_type,
        existing: Existing::replaced_if(args.force),
        threads: NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN),
    };
    let total = file.tensors().iter().map(gguf::TensorInfo::n_elements).sum();
    let mut bar = LoadBar::new("quantising", total, Unit::Weights);
    let report = quantize(&file, &args.output, request, |now| bar.at(now.done)).map_err(usage)?;
    bar.finish();
    if report.fallbacks > 0 {
        let n = report.fallbacks;
        say(
            "warning",
            &format!("{n} tensors have rows that fit no block of the format and got a related one"),
        );
    }
    let bits = report.bytes_after as f64 * 8.0 / (report.weights.max(1) as f64);
    let (before, after) = (text::bytes(report.bytes_before), text::bytes(report.bytes_after));
    say(
        "karat",
        &format!(
            "{}: {before} became {after}, {bits:.2} bits per weight",
            text::path(&args.output)
        ),
    );
    Ok(())
}
