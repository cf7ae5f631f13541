//! `karat quantize`: a model in another format.

use crate::bar::{LoadBar, Screen, Unit};
use crate::exit::{Code, failure, say};
use crate::load::{self, positive};
use anyhow::Result;
use karat::sources::{self, Found};
use karat::text;
use karat::{Config, Existing};
use model::quantize::{
    FileType, ImportanceMatrix, Mixing, Named, OutputMatrix, Recipe, Report, Request, Target,
    file_name, quantize,
};
use std::ffi::OsString;
use std::num::NonZero;
use std::path::{Path, PathBuf};

/// The types, for the help.
const TYPES: &str = "\
Types, as in llama-quantize, about from the largest to the smallest:
  F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS
  Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S
  MXFP4 (every matrix), MXFP4_MOE (the experts, the rest in Q8_0),
  COPY (tensors as they are, a split file as one);
  Q5_K, Q4_K and Q3_K stand for Q5_K_M, Q4_K_M and Q3_K_M";

/// What `karat quantize` takes.
#[derive(clap::Args)]
#[command(override_usage = "karat quantize [OPTIONS] <IN> [OUT] <TYPE>", after_help = TYPES)]
pub(crate) struct Args {
    /// The model, as for -m; a quantised one is dequantised first and gets no better by it
    #[arg(value_name = "IN")]
    source: OsString,
    /// OUT, the file to write, and the TYPE, one of the list below; without OUT the file lies beside IN with TYPE in its name,
    /// and in this folder where IN is no file
    // Two in one, as flags may stand between them.
    #[arg(value_name = "TYPE", required = true, num_args = 1..)]
    words: Vec<OsString>,
    /// Replace a file of this name
    #[arg(long)]
    force: bool,
    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    #[command(flatten)]
    formats: Formats,
}

/// llama-quantize's flags that choose formats.
#[derive(clap::Args)]
#[command(next_help_heading = "Formats of tensors")]
struct Formats {
    /// Every matrix in the one format of the type, without its mix
    #[arg(long)]
    pure: bool,
    /// The format of output.weight, such as Q8_0
    #[arg(long, value_name = "FORMAT", value_parser = dtype)]
    output_tensor_type: Option<gguf::DType>,
    /// Leave output.weight as it is
    #[arg(long, conflicts_with = "output_tensor_type")]
    leave_output_tensor: bool,
    /// The format of the embedding
    #[arg(long, value_name = "FORMAT", value_parser = dtype)]
    token_embedding_type: Option<gguf::DType>,
    /// The format of all tensors whose names a regular expression fits, such as attn_v=Q8_0; may be repeated
    #[arg(long, value_name = "PATTERN=FORMAT", value_parser = named)]
    tensor_type: Vec<Named>,
    /// A file of llama-imatrix: how much errors count in each column
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Do not warn of tensors that were quantised before
    #[arg(long)]
    allow_requantize: bool,
}

fn dtype(name: &str) -> Result<gguf::DType, String> {
    name.parse().map_err(|error: gguf::UnknownName| error.to_string())
}

fn named(text: &str) -> Result<Named, String> {
    text.parse().map_err(|error: model::Error| error.to_string())
}

/// What stands behind IN.
struct Words<'a> {
    output: Option<&'a Path>,
    target: Target,
}

impl Args {
    fn words(&self) -> Result<Words<'_>> {
        let bad = |what: String| failure(Code::Usage, what);
        let target = |name: &OsString| -> Result<Target> {
            name.to_string_lossy().parse().map_err(|e: model::Error| bad(e.to_string()))
        };
        match self.words.as_slice() {
            [name] => Ok(Words { output: None, target: target(name)? }),
            [output, name] => {
                let target = target(name)?;
                not_a_type(output)?;
                Ok(Words { output: Some(Path::new(output)), target })
            }
            [_, _, more, ..] => {
                let more = text::one_line(&more.to_string_lossy());
                Err(bad(format!(
                    "{more}: a word too many, allowed IN OUT TYPE; hint: threads are -t N"
                )))
            }
            [] => Err(bad("no TYPE; hint: karat quantize IN Q4_K_M".to_owned())),
        }
    }

    fn recipe(&self, target: Target) -> Recipe<'_> {
        let Formats { pure, leave_output_tensor, output_tensor_type, .. } = self.formats;
        Recipe {
            target,
            mixing: if pure { Mixing::Pure } else { Mixing::Mixed },
            output: match output_tensor_type {
                Some(dtype) => OutputMatrix::As(dtype),
                None if leave_output_tensor => OutputMatrix::Kept,
                None => OutputMatrix::Quantised,
            },
            token_embedding: self.formats.token_embedding_type,
            named: &self.formats.tensor_type,
        }
    }
}

impl Words<'_> {
    /// Where the file goes.
    fn output(&self, args: &Args, path: &Path, config: &Config) -> Result<PathBuf> {
        if let Some(output) = self.output {
            return Ok(output.to_owned());
        }
        let name = file_name(path, self.target);
        Ok(match sources::find(&args.source, config)? {
            Found::File(path) => path.with_file_name(name),
            // Nothing is put among the models that were fetched.
            Found::Remote(_) => name.into(),
        })
    }
}

/// Refuses `karat quantize IN Q4_0 Q8_0`, where a name was forgotten.
fn not_a_type(output: &OsString) -> Result<()> {
    match output.to_str().filter(|name| name.parse::<FileType>().is_ok()) {
        Some(name) => {
            let what =
                format!("OUT: {name} is a type, wanted the name of a file; hint: ./{name} is one");
            Err(failure(Code::Usage, what))
        }
        None => Ok(()),
    }
}

/// What is refused is to write over the source, over what is there, or what the formats do not go with.
fn usage(error: model::Error) -> anyhow::Error {
    if error.kind() == model::ErrorKind::BadRequest {
        return failure(Code::Usage, error.to_string());
    }
    error.into()
}

/// Writes the file and says on stderr how large it is.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let words = args.words()?;
    let path = load::resolve(Some(&args.source), config)?;
    let output = words.output(args, &path, config)?;
    let file = load::open(&path)?;
    let matrix = args.formats.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
    let screen = Screen::default();
    let threads = karat::usable_threads(args.threads, &|event| screen.show(event));
    let request = Request {
        recipe: args.recipe(words.target),
        matrix: matrix.as_ref(),
        existing: Existing::replaced_if(args.force),
        threads: NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN),
    };
    let total = file.tensors().iter().map(gguf::TensorInfo::n_elements).sum();
    let mut bar = LoadBar::new("quantising", total, Unit::Weights);
    let report = quantize(&file, &output, request, |now| bar.at(now.done)).map_err(usage)?;
    bar.finish();
    warn(args, words.target, &report);
    let bits = report.bytes_after as f64 * 8.0 / (report.weights.max(1) as f64);
    let (before, after) = (text::bytes(report.bytes_before), text::bytes(report.bytes_after));
    let output = text::path(&output);
    say("karat", &format!("{output}: {before} became {after}, {bits:.2} bits per weight"));
    Ok(())
}

/// Says where the file is less than its type promises.
fn warn(args: &Args, target: Target, report: &Report) {
    let Report { fallbacks, requantised, unmeasured, .. } = report;
    if *fallbacks > 0 {
        let what = "tensors have rows that fit no block of the format and got a related one";
        say("warning", &format!("{fallbacks} {what}"));
    }
    if *requantised > 0 && !args.formats.allow_requantize {
        let what = "tensors were quantised before, and are worse than from F16 or F32; hint: --allow-requantize says that it is meant";
        say("warning", &format!("{requantised} {what}"));
    }
    if *unmeasured > 0 {
        let what = "tensors are not in the importance matrix, and are quantised without";
        say("warning", &format!("{unmeasured} {what}"));
    }
    if !report.has_its_type && *fallbacks == 0 {
        let what = format!("no tensor became {target}: the model has none that it is for");
        say("warning", &what);
    }
}
