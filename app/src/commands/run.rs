//! `karat run`: one prompt, one answer.

use crate::exit::{Code, Failure, failure, say};
use crate::load::{self, LoadArgs, ModelArgs};
use crate::out::{Controls, Out};
use crate::sampling::SamplingArgs;
use anyhow::{Context as _, Result};
use karat::{Answer, Config, Info, Model, Piece, Timings, text};
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use tokenizer::{Chat, Ends, MAX_TEXT_BYTES, Message, Special, Tokenizer};

/// What `karat run` takes.
#[derive(clap::Args)]
#[command(override_usage = "karat run [OPTIONS] [MODEL] PROMPT")]
pub(crate) struct Args {
    /// The prompt; with two arguments the first is the model, as for -m
    #[arg(value_name = "PROMPT", num_args = 0..=2)]
    texts: Vec<OsString>,
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Read the prompt from a file; `-` and a pipe without any prompt are standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// What the model shall be or do
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Most tokens to generate; -1 goes on until the model ends or the context is full
    #[arg(short = 'n', long, visible_alias = "predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    n_predict: i64,
    /// The prompt as it is, without the chat template; names of special tokens in it are the tokens
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Print ids and the pieces that they stand for, one a line: `prompt` or `text`, id, piece
    #[arg(long, conflicts_with = "json")]
    tokens: bool,
    /// Print one JSON object when the answer is complete
    #[arg(long)]
    json: bool,
    /// Print times and the seed on stderr
    #[arg(long)]
    stats: bool,
    /// Do not escape the model's control characters on a terminal
    #[arg(long)]
    raw_output: bool,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    model: &'a Info,
    text: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    finish: &'static str,
    seed: u64,
    timings: Timings,
}

/// Generates and prints an answer.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let (model, prompt) = args.model_and_prompt()?;
    args.sampling.check()?;
    let model = load::model(model, &args.load.options(), config)?;
    let params = args.sampling.params(model.recommended_sampling())?;
    let seed = params.seed;
    let prompt = args.encode(&model, &prompt)?;
    let controls = if args.output.raw_output { Controls::Raw } else { Controls::Escaped };
    let mut printer = Printer { out: Out::new(controls), style: args.output.style(), ended: true };
    let tokenizer = model.tokenizer();
    printer.prompt(tokenizer, &prompt)?;
    let mut session = model.session()?.with_sampling(params)?;
    session.set_max_tokens(max_tokens(args.n_predict));
    let mut stream = session.complete_ids(&prompt)?;
    for piece in stream.by_ref() {
        printer.piece(tokenizer, &piece?)?;
    }
    let answer = stream.answer()?;
    printer.end(model.info(), &prompt, &answer, seed)?;
    if args.output.stats {
        let Info { load_seconds: load, backend, .. } = model.info();
        let (timings, finish) = (answer.timings(), answer.finish_reason());
        let advice = args.sampling.followed(model.recommended_sampling());
        let advice = if advice.is_empty() { advice } else { format!("; recommended: {advice}") };
        say(
            "stats",
            &format!("loaded in {load:.2} s; {timings}; {finish}; seed {seed}{advice}; {backend}"),
        );
    }
    Ok(())
}

/// Says when a text has a BOS or EOS of its own beside the one that was added.
pub(crate) fn warn_of_doubled_end(tokenizer: &Tokenizer, ids: &[u32]) {
    if let Some(warning) = tokenizer.doubled_end(ids) {
        say("warning", warning);
    }
}

/// -1 is no bound; the parser let nothing else below 0 through.
pub(crate) fn max_tokens(n_predict: i64) -> Option<usize> {
    usize::try_from(n_predict).ok()
}

impl Args {
    /// The model and the prompt, from wherever they were given.
    fn model_and_prompt(&self) -> Result<(Option<&OsStr>, String)> {
        let named = self.model.model.as_deref();
        let given = self.prompt.is_some() || self.file.is_some();
        let (model, text) = match (self.texts.as_slice(), named, given) {
            ([], named, _) => (named, None),
            ([text], named, false) => (named, Some(text)),
            // `karat run MODEL -p PROMPT`
            ([model], None, true) => (Some(model.as_os_str()), None),
            ([model, text], None, false) => (Some(model.as_os_str()), Some(text)),
            (texts, ..) => {
                let what = format!(
                    "{} arguments beside flags that say the same: which is the prompt?",
                    texts.len()
                );
                return Err(Failure::new(Code::Usage, what).hint("see karat run --help").into());
            }
        };
        let prompt = match (text, &self.prompt, &self.file) {
            (Some(text), ..) => {
                text.to_str().ok_or_else(|| failure(Code::Usage, "prompt: not UTF-8"))?.to_owned()
            }
            (None, Some(prompt), _) => prompt.clone(),
            (None, None, Some(file)) if file.as_os_str() != "-" => read_file(file)?,
            (None, None, file) => read_stdin(file.is_some())?,
        };
        Ok((model, prompt))
    }

    fn encode(&self, model: &Model, prompt: &str) -> Result<Vec<u32>> {
        if self.raw {
            let ids = model.tokenizer().encode(prompt, Special::Parse, Ends::Default)?;
            warn_of_doubled_end(model.tokenizer(), &ids);
            return Ok(ids);
        }
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
        let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
        let raw = |error: karat::Error| error.with_hint("--raw takes the prompt as it is");
        Ok(model.template().map_err(raw)?.encode(model.tokenizer(), &chat)?)
    }
}

/// The text of a file, bounded by what can be encoded.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let shown = text::path(path);
    let file = std::fs::File::open(path).with_context(|| shown.clone())?;
    read_text(file).context(shown)
}

/// Standard input, unless nobody but a person could give it.
pub(crate) fn read_stdin(asked_for: bool) -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() && !asked_for {
        let hint = "karat run \"your prompt\", or karat chat";
        return Err(Failure::new(Code::Usage, "no prompt").hint(hint).into());
    }
    read_text(stdin.lock()).context("standard input")
}

fn read_text(from: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(failure(
            Code::Rejected,
            format!("over {MAX_TEXT_BYTES} bytes, no context is that long"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        failure(Code::Usage, format!("not UTF-8 (byte {})", error.utf8_error().valid_up_to()))
    })?;
    // Files and pipes end with a line break that nobody means.
    Ok(text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text))
        .unwrap_or(&text)
        .to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Text,
    Tokens,
    Json,
}

impl OutputArgs {
    fn style(&self) -> Style {
        match (self.tokens, self.json) {
            (true, _) => Style::Tokens,
            (false, true) => Style::Json,
            (false, false) => Style::Text,
        }
    }
}

/// Prints an answer as it comes.
struct Printer {
    out: Out,
    style: Style,
    /// Whether the cursor is at the beginning of a line.
    ended: bool,
}

impl Printer {
    fn prompt(&mut self, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<()> {
        if self.style == Style::Tokens {
            for &id in prompt {
                self.out.line(&format!("prompt\t{id}\t{}", text::quoted(tokenizer.piece(id))))?;
            }
        }
        Ok(())
    }

    fn piece(&mut self, tokenizer: &Tokenizer, piece: &Piece) -> Result<()> {
        match (self.style, piece.id) {
            (Style::Text, _) => {
                self.out.text(&piece.text)?;
                self.ended =
                    if piece.text.is_empty() { self.ended } else { piece.text.ends_with('\n') };
            }
            (Style::Tokens, Some(id)) => {
                self.out.line(&format!("text\t{id}\t{}", text::quoted(tokenizer.piece(id))))?;
            }
            (Style::Tokens, None) | (Style::Json, _) => {}
        }
        Ok(())
    }

    fn end(&mut self, info: &Info, prompt: &[u32], answer: &Answer, seed: u64) -> Result<()> {
        match self.style {
            Style::Text if self.ended => Ok(()),
            Style::Text => Ok(self.out.line("")?),
            Style::Tokens => Ok(()),
            Style::Json => self.out.json(&Report {
                model: info,
                text: &answer.text,
                prompt_ids: prompt,
                ids: &answer.ids,
                finish: answer.finish_reason(),
                seed,
                timings: answer.timings(),
            }),
        }
    }
}
