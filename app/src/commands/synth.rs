//! `karat synth`: a random model of any shape and format, for benchmarks and tests.

use crate::bar::{LoadBar, Screen, Unit};
use crate::exit::{Code, failure, say};
use crate::interrupt::Answering;
use crate::load::positive;
use anyhow::Result;
use clap::builder::PossibleValuesParser;
use karat::{Existing, text};
use model::synth::{ExpertNumbers, Format, Progress, Report, Request, Shape, synth};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// What `karat synth` takes.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["preset", "arch"]))]
pub(crate) struct Args {
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The shape of a known model; the flags below change parts of it
    #[arg(long, value_name = "NAME", value_parser = presets())]
    preset: Option<String>,
    /// The architecture, with a small shape where there is no preset
    #[arg(long, value_name = "NAME", value_parser = archs())]
    arch: Option<String>,
    /// A mix as for `karat quantize`
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "Q4_K_M")]
    format: Format,
    /// Every matrix in the format, without its mix
    #[arg(long)]
    pure: bool,
    /// Another seed, other weights; the same one, the same bytes on every machine
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Replace a file of this name
    #[arg(long)]
    force: bool,
    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    #[command(flatten)]
    dims: Dims,
}

/// Parts of the shape that are given by hand.
#[derive(clap::Args)]
#[command(next_help_heading = "Shape")]
struct Dims {
    /// Layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Width of the residual stream
    #[arg(long, value_name = "N")]
    embd: Option<usize>,
    /// Width of the feed-forward
    #[arg(long, value_name = "N")]
    ff: Option<usize>,
    /// Query heads
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Key and value heads, a divisor of the query heads
    #[arg(long, value_name = "N")]
    kv_heads: Option<usize>,
    /// Width of a head
    #[arg(long, value_name = "N")]
    head_dim: Option<usize>,
    /// Width of a value head where it is another one
    #[arg(long, value_name = "N")]
    value_dim: Option<usize>,
    /// Experts of a layer
    #[arg(long, value_name = "N")]
    experts: Option<usize>,
    /// Experts that each token has
    #[arg(long, value_name = "N")]
    experts_used: Option<usize>,
    /// Width of an expert
    #[arg(long, value_name = "N")]
    expert_ff: Option<usize>,
    /// Tokens of the vocabulary
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// Positions that the file says it was trained on
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Whether the embedding is the output projection, too
    #[arg(long, value_name = "BOOL")]
    tied: Option<bool>,
}

fn presets() -> PossibleValuesParser {
    model::synth::presets().map(|(_, preset)| preset.name).collect::<Vec<_>>().into()
}

fn archs() -> PossibleValuesParser {
    model::arch::ARCHS.iter().map(|arch| arch.name).collect::<Vec<_>>().into()
}

fn format(name: &str) -> Result<Format, String> {
    name.parse().map_err(|error: model::Error| error.to_string())
}

impl Dims {
    fn apply(&self, shape: Shape) -> Shape {
        let head_dim_v = self.head_dim.unwrap_or(shape.head_dim_v);
        Shape {
            n_layer: self.layers.unwrap_or(shape.n_layer),
            n_embd: self.embd.unwrap_or(shape.n_embd),
            n_ff: self.ff.unwrap_or(shape.n_ff),
            n_head: self.heads.unwrap_or(shape.n_head),
            n_head_kv: self.kv_heads.unwrap_or(shape.n_head_kv),
            head_dim_k: self.head_dim.unwrap_or(shape.head_dim_k),
            head_dim_v: self.value_dim.unwrap_or(head_dim_v),
            n_vocab: self.vocab.unwrap_or(shape.n_vocab),
            n_ctx: self.ctx.unwrap_or(shape.n_ctx),
            tied: self.tied.unwrap_or(shape.tied),
            ..shape
        }
    }

    fn experts(&self) -> ExpertNumbers {
        let &Self { experts: n_expert, experts_used: n_used, expert_ff: n_ff, .. } = self;
        ExpertNumbers { n_expert, n_used, n_ff }
    }
}

/// Architecture and shape by preset, architecture and dimensions, the later ones changing the earlier.
fn shape(args: &Args) -> Result<(String, Shape)> {
    let wanted = |name: &str| args.preset.as_deref() == Some(name);
    let preset = model::synth::presets().find(|(_, preset)| wanted(preset.name));
    let (arch, shape) = match (preset, &args.arch) {
        (Some((_, preset)), Some(arch)) => (arch.clone(), preset.shape),
        (Some((arch, preset)), None) => (arch.to_owned(), preset.shape),
        (None, Some(arch)) => (arch.clone(), model::synth::small(arch)?),
        (None, None) => return Err(failure(Code::Usage, "needs --preset or --arch")),
    };
    Ok((arch, args.dims.apply(shape)))
}

/// A shape that is no model and a name that is taken are the command line's fault.
fn usage(error: model::Error) -> anyhow::Error {
    if error.kind() == model::ErrorKind::BadRequest {
        return failure(Code::Usage, error.to_string());
    }
    error.into()
}

/// Writes the file and says on stderr what it is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (arch, shape) = shape(args)?;
    let screen = Screen::default();
    let threads = karat::usable_threads(args.threads, &|event| screen.show(event));
    let request = Request {
        arch: &arch,
        shape,
        experts: args.dims.experts(),
        format: if args.pure { args.format.pure() } else { args.format },
        seed: args.seed,
        existing: Existing::replaced_if(args.force),
        threads: NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN),
    };
    let report = write(&request, args)?;
    if report.fallbacks > 0 {
        let n = report.fallbacks;
        say(
            "warning",
            &format!("{n} tensors have rows that fit no block of the format and got a related one"),
        );
    }
    let bits = report.bytes as f64 * 8.0 / report.weights.max(1) as f64;
    say(
        "karat",
        &format!(
            "{}: {}, {:.2} M weights of {bits:.2} bits ({arch}, {}, seed {})",
            text::path(&args.output),
            text::bytes(report.bytes),
            report.weights as f64 / 1e6,
            request.format.name(),
            args.seed
        ),
    );
    Ok(())
}

/// With a bar, and so that Ctrl-C leaves no part of the file.
fn write(request: &Request<'_>, args: &Args) -> Result<Report> {
    let answering = Answering::begin();
    let mut bar: Option<LoadBar> = None;
    let progress = |Progress { done, total }| {
        bar.get_or_insert_with(|| LoadBar::new("writing", total, Unit::Weights)).at(done);
        if answering.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    synth(request, &args.output, progress).map_err(usage)
}
