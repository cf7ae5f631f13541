//! `karat perplexity`: how well a model foretells a text, and how far its probabilities are from those of another, by the
//! flags and rules of llama-perplexity. The arithmetic is the library's.

use super::run::{read_file, read_stdin};
use crate::bar::Screen;
use crate::exit::{Code, Failure, say};
use crate::load::{self, ArithmeticName, LoadArgs, NamedModel, positive};
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::perplexity::{
    Base, BaseFile, Chunks, Divergence, Estimate, HellaSwag, Measure, Perplexity, Spread, Watch,
    divergence, hellaswag, hellaswag_options, perplexity, perplexity_saving, questions,
};
use karat::{Config, Existing, Info, Model, Options, Stop};
use std::ffi::OsString;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of a chunk, as llama-perplexity has them.
const DEFAULT_CTX: usize = 512;

/// What `karat perplexity` takes.
#[derive(clap::Args)]
#[command(mut_arg("ctx_size", |arg| {
    arg.help("Tokens of a chunk of the text: those of its second half are counted [default: 512]")
}))]
pub(crate) struct Args {
    #[command(flatten)]
    model: NamedModel,
    #[command(flatten)]
    text: TextArgs,
    /// Let chunks begin N tokens apart, and count the last N of each; a chunk is half of N longer then [default: 0, which
    /// is none]
    #[arg(long, value_name = "N")]
    ppl_stride: Option<usize>,
    /// Read only the first N chunks; -1 is all
    #[arg(long, value_name = "N", default_value = "-1", value_parser = chunks)]
    chunks: Limit,
    /// Take the text for HellaSwag's questions, six lines each (context, number of the right ending from 0, four endings),
    /// and print how many are answered right
    #[arg(long, conflicts_with_all = ["ppl_stride", "chunks", "kl_divergence", "save_all_logits", "against", "against_arithmetic"])]
    hellaswag: bool,
    /// Ask only the first N questions
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = positive, requires = "hellaswag")]
    hellaswag_tasks: usize,
    /// Print one JSON object, with the estimate after each chunk
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(clap::Args)]
struct TextArgs {
    /// Read the text from a file; `-`, and a pipe without it, is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// The text itself
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
}

/// What the model is compared with.
#[derive(clap::Args)]
#[command(next_help_heading = "Comparison")]
struct BaseArgs {
    /// Compare with another model, side by side and without rounding
    #[arg(long, value_name = "MODEL")]
    against: Option<OsString>,
    /// Compare with another arithmetic: of the model, or of the one of --against
    #[arg(long, value_enum, value_name = "ARITHMETIC")]
    against_arithmetic: Option<ArithmeticName>,
    /// Write the probabilities to a file, for --kl-divergence here or in llama-perplexity: 2 bytes for each id of the
    /// vocabulary and token that is counted
    #[arg(
        long, value_name = "FILE", visible_alias = "kl-divergence-base",
        conflicts_with_all = ["against", "against_arithmetic", "ppl_stride"]
    )]
    save_all_logits: Option<PathBuf>,
    /// Compare with the probabilities, and on the text, of the file of --kl-divergence-base
    #[arg(long, requires = "save_all_logits", conflicts_with_all = ["against", "against_arithmetic", "file", "prompt"])]
    kl_divergence: bool,
    /// Replace the file of --save-all-logits
    #[arg(long, conflicts_with = "kl_divergence")]
    force: bool,
}

/// The most chunks that are read, if there is such a bound.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<usize>);

fn chunks(text: &str) -> Result<Limit, String> {
    match text.parse() {
        Ok(-1) => Ok(Limit(None)),
        Ok(1..) => Ok(Limit(text.parse().ok())),
        Ok(i64::MIN..=0) | Err(_) => {
            Err("allowed are whole numbers from 1, and -1 for all".to_owned())
        }
    }
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report<'r> {
    model: &'r Info,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<&'r Info>,
    n_chunks: usize,
    /// Tokens of a chunk.
    n_ctx: usize,
    ppl_stride: Option<usize>,
    seconds: f64,
    #[serde(flatten)]
    figures: &'r Figures,
}

/// The same for questions.
#[derive(serde::Serialize)]
struct HellaSwagReport<'r> {
    model: &'r Info,
    #[serde(flatten)]
    figures: &'r HellaSwag,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Figures {
    Perplexity(Perplexity),
    Divergence(Box<Divergence>),
}

/// What is known of a measurement behind it.
struct Measured<'m> {
    model: &'m Model,
    base: Option<&'m Model>,
    chunks: &'m Chunks,
    figures: Figures,
    seconds: f64,
}

/// Measures and prints.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    match &args.base.save_all_logits {
        _ if args.hellaswag => args.hellaswag(config),
        Some(path) if args.base.kl_divergence => args.against_file(path, config),
        Some(_) | None => args.of_text(config),
    }
}

impl Args {
    fn measure(&self) -> Measure {
        let n_ctx = self.load.options().ctx_size.unwrap_or(DEFAULT_CTX);
        let stride = self.ppl_stride.filter(|&stride| stride > 0);
        Measure { n_ctx, stride, max_chunks: self.chunks.0 }
    }

    /// Measures on a text: alone, or beside another model.
    fn of_text(&self, config: &Config) -> Result<()> {
        let measure = self.measure();
        measure.check()?;
        let options = measure.options(&self.load.options());
        let text = self.text.read()?;
        // Found before the work whose result it will hold.
        let existing = Existing::replaced_if(self.base.force);
        let output = self.base.save_all_logits.as_ref();
        let mut output = output.map(|path| karat::output::create(path, existing)).transpose()?;
        let model = load::model(self.model.name()?, &options, config)?;
        let chunks = Chunks::of_text(&model, &text, &measure)?;
        let base = self.base.model(self, &options, config)?;
        let screen = Screen::default();
        let (stop, listener) = (Stop::new(), |event: karat::Event<'_>| screen.show(event));
        let watch = Watch { stop: &stop, listener: &listener };
        let start = Instant::now();
        let figures = match (&mut output, &base) {
            (Some(output), None) => {
                Figures::Perplexity(perplexity_saving(&model, &chunks, output, watch)?)
            }
            (_, Some(base)) => {
                let found = divergence(&model, Base::Model(base), &chunks, watch)?;
                Figures::Divergence(Box::new(found))
            }
            (None, None) => Figures::Perplexity(perplexity(&model, &chunks, watch)?),
        };
        let seconds = start.elapsed().as_secs_f64();
        if let Some(output) = output {
            output.keep()?;
        }
        let (model, base, chunks) = (&model, base.as_ref(), &chunks);
        self.print(&Measured { model, base, chunks, figures, seconds })
    }

    /// Compares with a file.
    fn against_file(&self, path: &Path, config: &Config) -> Result<()> {
        let mut file = BaseFile::open(path)?;
        let n_ctx = file.n_ctx();
        let mut options = self.load.options();
        if let Some(found) = options.ctx_size.filter(|&found| found != n_ctx) {
            let what = format!("-c: {found}, but the file was made with {n_ctx}");
            return Err(Failure::new(Code::Usage, what).hint("leave -c out").into());
        }
        options = Measure { n_ctx, ..Measure::default() }.options(&options);
        let model = load::model(self.model.name()?, &options, config)?;
        let chunks = file.chunks(&model)?.limited(self.chunks.0);
        let screen = Screen::default();
        let (stop, listener) = (Stop::new(), |event: karat::Event<'_>| screen.show(event));
        let watch = Watch { stop: &stop, listener: &listener };
        let start = Instant::now();
        let found = divergence(&model, Base::File(&mut file), &chunks, watch)?;
        let (figures, seconds) =
            (Figures::Divergence(Box::new(found)), start.elapsed().as_secs_f64());
        self.print(&Measured { model: &model, base: None, chunks: &chunks, figures, seconds })
    }

    /// Asks questions.
    fn hellaswag(&self, config: &Config) -> Result<()> {
        let mut questions = questions(&self.text.read()?)?;
        questions.truncate(self.hellaswag_tasks);
        let options = self.load.options();
        let options = hellaswag_options(&options, options.ctx_size.unwrap_or(DEFAULT_CTX));
        let model = load::model(self.model.name()?, &options, config)?;
        let screen = Screen::default();
        let (stop, listener) = (Stop::new(), |event: karat::Event<'_>| screen.show(event));
        let found = hellaswag(&model, &questions, Watch { stop: &stop, listener: &listener })?;
        let mut out = Out::new(Controls::Escaped);
        if self.json {
            return out.json(&HellaSwagReport { model: model.info(), figures: &found });
        }
        let HellaSwag { n_questions, n_right, .. } = found;
        let [accuracy, lowest, highest] =
            [found.accuracy, found.lowest, found.highest].map(|part| 100.0 * part);
        Ok(out.line(&format!(
            "HellaSwag: {accuracy:.2}% [{lowest:.2}%, {highest:.2}%] ({n_right} of {n_questions} right)"
        ))?)
    }

    fn print(&self, measured: &Measured<'_>) -> Result<()> {
        let Measured { model, base, chunks, figures, seconds } = measured;
        let mut out = Out::new(Controls::Escaped);
        if self.json {
            return out.json(&Report {
                model: model.info(),
                base: base.map(Model::info),
                n_chunks: chunks.n_chunks(),
                n_ctx: chunks.chunk_len(),
                ppl_stride: self.measure().stride,
                seconds: *seconds,
                figures,
            });
        }
        let (n, len) = (chunks.n_chunks(), chunks.chunk_len());
        let (read, counted) = (n * len, n * chunks.n_counted());
        let speed = read as f64 / seconds;
        let backend = &model.info().backend;
        let arithmetic = model.info().arithmetic;
        say(
            "perplexity",
            &format!(
                "{n} chunks of {len} tokens, {counted} tokens counted; {seconds:.2} s, {speed:.1} tok/s; {backend}, \
                 {arithmetic}"
            ),
        );
        Ok(out.text(&match figures {
            Figures::Perplexity(found) => perplexity_text(found),
            Figures::Divergence(found) => divergence_text(found),
        })?)
    }
}

impl TextArgs {
    fn read(&self) -> Result<String> {
        let mut text = match (&self.prompt, &self.file) {
            (Some(text), _) => return Ok(text.clone()),
            (None, Some(path)) => read_file(path)?,
            (None, None) if std::io::stdin().is_terminal() => {
                let failure = Failure::new(Code::Usage, "no text");
                return Err(failure.hint("karat perplexity -f FILE, or a pipe").into());
            }
            (None, None) => read_stdin()?,
        };
        // As llama.cpp's -f does.
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }
}

impl BaseArgs {
    /// The model on the other side, if there is one.
    fn model(&self, args: &Args, options: &Options, config: &Config) -> Result<Option<Model>> {
        if self.against.is_none() && self.against_arithmetic.is_none() {
            return Ok(None);
        }
        let mut options = options.clone();
        if let Some(arithmetic) = self.against_arithmetic {
            options.arithmetic = arithmetic.arithmetic();
        }
        let name = self.against.as_deref().or(args.model.name()?);
        Ok(Some(load::model(name, &options, config)?))
    }
}

/// The line of llama-perplexity.
fn perplexity_text(found: &Perplexity) -> String {
    let Estimate { value, error } = found.perplexity;
    format!("Final estimate: PPL = {value:.4} +/- {error:.5}\n")
}

/// The table of llama-perplexity; what would be no more than zeros is written with an exponent.
fn divergence_text(found: &Divergence) -> String {
    let mut text = String::from("====== Perplexity statistics ======\n");
    let mut line = |name: &str, value: String| {
        // A string takes everything.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("Mean PPL(Q)                   ", estimate(found.perplexity));
    line("Mean PPL(base)                ", estimate(found.base_perplexity));
    line("Cor(ln(PPL(Q)), ln(PPL(base)))", format!("{:6.2}%", 100.0 * found.correlation));
    line("Mean ln(PPL(Q)/PPL(base))     ", estimate(found.log_ratio));
    line("Mean PPL(Q)/PPL(base)         ", estimate(found.ratio));
    line("Mean PPL(Q)-PPL(base)         ", estimate(found.difference));
    text.push_str("\n====== KL divergence statistics ======\n");
    text.push_str(&spread_text(&found.kld, "KLD", |value| number(value, 1.0), ""));
    text.push_str("\n====== Token probability statistics ======\n");
    let percent = |value| number(value, 100.0);
    text.push_str(&spread_text(&found.probability_difference, "Δp", percent, "%"));
    let in_percent = |Estimate { value, error }: Estimate| {
        format!("{} ± {} %", number(value, 100.0), number(error, 100.0))
    };
    let _ = writeln!(text, "RMS Δp    : {}", in_percent(found.rms_probability_difference));
    let _ = writeln!(text, "Same top p: {}", in_percent(found.same_top));
    text
}

fn spread_text(spread: &Spread, what: &str, number: impl Fn(f64) -> String, unit: &str) -> String {
    let Estimate { value, error } = spread.mean;
    let gap = if unit.is_empty() { "" } else { " " };
    let mut text = format!("Mean    {what}: {} ± {}{gap}{unit}\n", number(value), number(error));
    let mut line = |name: &str, value: f64| {
        let _ = writeln!(text, "{name:<7} {what}: {}{unit}", number(value));
    };
    line("Maximum", spread.maximum);
    for percentile in &spread.percentiles {
        match percentile.percent {
            50.0 => line("Median", percentile.value),
            percent => line(&format!("{percent:4.1}%"), percentile.value),
        }
    }
    line("Minimum", spread.minimum);
    text
}

fn estimate(Estimate { value, error }: Estimate) -> String {
    format!("{} ± {}", number(value, 1.0), number(error, 1.0))
}

/// With as many decimals as llama-perplexity has, or an exponent where they would show little of it.
fn number(value: f64, factor: f64) -> String {
    let value = value * factor;
    if value != 0.0 && value.abs() < 1e-3 {
        return format!("{value:10.3e}");
    }
    format!("{value:10.6}")
}
