//! `karat run`: one prompt, one answer.

use crate::answering::{AnswerArgs, Given};
use crate::exit::{Code, Failure, failure, say};
use crate::load::{self, LoadArgs, ModelArgs, NamedModel};
use crate::out::{Controls, Out};
use crate::sampling::{Advice, Origins, SamplingArgs, Shown};
use crate::words::{self, Flags, Wanted};
use anyhow::{Context as _, Result};
use karat::{Answer, Config, Finish, Info, Model, Piece, SamplerParams, Timings, text};
use karat::{Probabilities, ProbabilitiesOf, Probable, Told};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use tokenizer::{Chat, Ends, MAX_TEXT_BYTES, Message, Special, Tokenizer};

/// What `karat run` takes.
#[derive(clap::Args)]
#[command(override_usage = "karat run [OPTIONS] [MODEL] [PROMPT]")]
pub(crate) struct Args {
    /// The prompt; with two arguments the first is the model, as for -m, and a lone one that is a .gguf file, a source or
    /// a name of `karat list` is. Without a prompt a pipe is read, or a chat begins; behind a prompt a pipe is added
    #[arg(value_name = "PROMPT", num_args = 0..=2)]
    texts: Vec<OsString>,
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Read the prompt from a file; `-` is standard input, as PROMPT too
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
    /// \n, \t, \r, \", \', \\ and \xHH in the prompt and in --stop are the characters that they stand for
    #[arg(short, long)]
    escape: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    answer: AnswerArgs,
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
    /// With --json or --tokens: how likely each token was, and the N likeliest in its place; natural logarithms of the
    /// model's probabilities
    #[arg(long, visible_alias = "n-probs", value_name = "N")]
    logprobs: Option<usize>,
    /// The probabilities after the samplers in place of the model's
    #[arg(long, requires = "logprobs")]
    post_sampling_probs: bool,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    model: &'a Info,
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    finish: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Logprob>,
    seed: u64,
    /// Each setting by its name, and who says it.
    sampling: BTreeMap<String, Shown>,
    timings: Timings,
}

/// How likely a token was, and the likeliest in its place.
#[derive(serde::Serialize)]
struct Logprob {
    #[serde(flatten)]
    chosen: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

/// A token by itself, with the names of OpenAI's API.
#[derive(serde::Serialize)]
struct TokenLogprob {
    id: u32,
    token: String,
    bytes: Vec<u8>,
    logprob: f64,
}

impl Logprob {
    fn new(tokenizer: &Tokenizer, told: &Told) -> Self {
        let token = |probable: &Probable| {
            let bytes = tokenizer.piece(probable.id).to_vec();
            let token = String::from_utf8_lossy(&bytes).into_owned();
            TokenLogprob { id: probable.id, token, bytes, logprob: probable.log_probability }
        };
        Self { chosen: token(&told.chosen), top_logprobs: told.best.iter().map(token).collect() }
    }
}

/// Generates and prints an answer.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let given = args.prompt.is_some() || args.file.is_some();
    let flags = Flags { model: args.model.model.as_ref(), text: given };
    let Wanted { model, text } = words::sort_out(&args.texts, flags, config)?;
    let Some(prompt) = args.prompt(text.as_ref())? else { return args.chat(model, config) };
    let probabilities = args.output.probabilities()?;
    let grammar = args.answer.grammar()?;
    let model = load::model(model.as_deref(), &args.load.options(), config)?;
    let params = args.sampling.params(model.recommended_sampling())?;
    let origins = args.sampling.origins(Advice::of(&model));
    let prompt = args.encode(&model, &prompt)?;
    let controls = if args.output.raw_output { Controls::Raw } else { Controls::Escaped };
    let mut printer = Printer { out: Out::new(controls), style: args.output.style(), ended: true };
    let tokenizer = model.tokenizer();
    printer.prompt(tokenizer, &prompt)?;
    let mut session = model.session()?.with_sampling(params)?;
    session.set_max_tokens(max_tokens(args.n_predict));
    session.set_probabilities(probabilities);
    let options = args.load.options();
    let given = Given { options: &options, config, grammar, stops: args.stops()?, raw: args.raw };
    args.answer.set(&mut session, given)?;
    let mut stream = session.complete_ids(&prompt)?;
    for piece in stream.by_ref() {
        printer.piece(tokenizer, &piece?)?;
    }
    let answer = stream.answer()?;
    let params = session.sampling();
    let done = Done { model: &model, prompt: &prompt, answer: &answer, params, origins: &origins };
    printer.end(&done)?;
    if answer.finish == Finish::ContextFull {
        let n_ctx = model.info().n_ctx;
        let what = format!(
            "the answer ends here: the context of {n_ctx} is full; -c takes more, and --context-shift goes on"
        );
        say("warning", &what);
    }
    if answer.unclosed {
        say("warning", UNCLOSED);
    }
    if args.output.stats {
        say("stats", &done.stats());
    }
    Ok(())
}

/// What is said of an answer that `--close` could not close.
pub(crate) const UNCLOSED: &str =
    "the answer ends in the middle: no short end of its form was found; -n takes more";

/// An answer, and all that can be told of it.
struct Done<'a> {
    model: &'a Model,
    prompt: &'a [u32],
    answer: &'a Answer,
    params: &'a SamplerParams,
    origins: &'a Origins,
}

impl Done<'_> {
    /// A line for people.
    fn stats(&self) -> String {
        let Info { load_seconds, backend, .. } = self.model.info();
        let (timings, finish) = (self.answer.timings(), self.answer.finish_reason());
        let followed = self.origins.followed(self.params);
        let followed = if followed.is_empty() { followed } else { format!("; {followed}") };
        let seed = self.params.seed;
        format!(
            "loaded in {load_seconds:.2} s; {timings}; {finish}; seed {seed}{followed}; {backend}"
        )
    }

    /// An object for programs.
    fn report(&self) -> Report<'_> {
        let settings = self.origins.settings(self.params).into_iter();
        let tokenizer = self.model.tokenizer();
        Report {
            model: self.model.info(),
            text: &self.answer.text,
            reasoning: &self.answer.thought,
            prompt_ids: self.prompt,
            ids: &self.answer.ids,
            finish: self.answer.finish_reason(),
            logprobs: self.answer.told.iter().map(|told| Logprob::new(tokenizer, told)).collect(),
            seed: self.params.seed,
            sampling: settings.map(|s| (s.name.replace('-', "_"), s)).collect(),
            timings: self.answer.timings(),
        }
    }
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
    /// The prompt, and behind it what comes by a pipe; `None` where a person is there to be asked.
    fn prompt(&self, text: Option<&OsString>) -> Result<Option<String>> {
        let read_stdin = || read_stdin().map(|text| as_prompt(&text));
        let typed = match (text, &self.prompt, &self.file) {
            (Some(text), ..) if text == "-" => return read_stdin().map(Some),
            (Some(text), ..) => {
                text.to_str().ok_or_else(|| failure(Code::Usage, "prompt: not UTF-8"))?.to_owned()
            }
            (None, Some(prompt), _) => prompt.clone(),
            (None, None, Some(file)) if file.as_os_str() == "-" => return read_stdin().map(Some),
            (None, None, Some(file)) => as_prompt(&read_file(file)?),
            (None, None, None) if std::io::stdin().is_terminal() => return Ok(None),
            (None, None, None) => return read_stdin().map(Some),
        };
        let typed = if self.escape { unescape(&typed)? } else { typed };
        if !is_piped() {
            return Ok(Some(typed));
        }
        let piped = read_stdin()?;
        Ok(Some(if piped.is_empty() { typed } else { format!("{typed}\n\n{piped}") }))
    }

    /// The texts that end the answer; -e is for these, too.
    fn stops(&self) -> Result<Vec<String>> {
        let stop = |text: &String| if self.escape { unescape(text) } else { Ok(text.clone()) };
        self.answer.stop.iter().map(stop).collect()
    }

    /// Talks, with the same flags.
    fn chat(&self, model: Option<OsString>, config: &Config) -> Result<()> {
        if self.output.tokens || self.output.json {
            let failure = Failure::new(Code::Usage, "no prompt");
            return Err(failure.hint("karat run \"your prompt\"").into());
        }
        let args = super::chat::Args {
            model: NamedModel::new(model),
            system: self.system.clone(),
            n_predict: self.n_predict,
            stats: self.output.stats,
            raw: self.raw,
            raw_output: self.output.raw_output,
            load: self.load.clone(),
            sampling: self.sampling.clone(),
            answer: self.answer.clone(),
        };
        super::chat::run(&args, config)
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
        let template = match self.answer.template(model)? {
            Some(template) => template,
            None => model.template().map_err(raw)?,
        };
        Ok(template.encode(model.tokenizer(), &chat)?)
    }
}

/// The text of a file or pipe as it is meant: the line ends of Windows, and the mark that its editors begin UTF-8 with, are
/// no part of a prompt. Every system takes the same file for the same prompt.
fn as_prompt(text: &str) -> String {
    text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n")
}

/// The text of a file, bounded by what can be encoded; `-` is standard input.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        return read_stdin();
    }
    let shown = text::path(path);
    let file = std::fs::File::open(path).with_context(|| shown.clone())?;
    read_text(file).context(shown)
}

/// Standard input to its end.
pub(crate) fn read_stdin() -> Result<String> {
    read_text(std::io::stdin().lock()).context("standard input")
}

/// Whether standard input is a pipe or a file, and no terminal, device or connection, on which nobody may ever write.
#[cfg(unix)]
fn is_piped() -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;
    let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned() else { return false };
    let kind = std::fs::File::from(stdin).metadata().map(|there| there.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_file())
}

#[cfg(not(unix))]
fn is_piped() -> bool {
    !std::io::stdin().is_terminal()
}

/// What `-e` makes of a text; other backslashes stay, as in llama.cpp.
fn unescape(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let (plain, left): (u8, &[u8]) = match (byte, after) {
            (b'\\', [b'n', left @ ..]) => (b'\n', left),
            (b'\\', [b't', left @ ..]) => (b'\t', left),
            (b'\\', [b'r', left @ ..]) => (b'\r', left),
            (b'\\', [mark @ (b'"' | b'\'' | b'\\'), left @ ..]) => (*mark, left),
            (b'\\', [b'x', high, low, left @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, left),
                (Some(_) | None, _) => (*byte, after),
            },
            (byte, after) => (*byte, after),
        };
        bytes.push(plain);
        rest = left;
    }
    String::from_utf8(bytes).map_err(|_| failure(Code::Usage, "-e: the text is not UTF-8 then"))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
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
    /// Which probabilities are printed.
    fn probabilities(&self) -> Result<Option<Probabilities>> {
        let Some(best) = self.logprobs else { return Ok(None) };
        if self.style() == Style::Text {
            let failure = Failure::new(Code::Usage, "--logprobs: a text has no place for them");
            return Err(failure.hint("--json, or --tokens").into());
        }
        let of = if self.post_sampling_probs {
            ProbabilitiesOf::Sampler
        } else {
            ProbabilitiesOf::Model
        };
        Ok(Some(Probabilities { of, best }))
    }

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
                self.out.said(&piece.thought, &piece.text)?;
                self.ended =
                    if piece.text.is_empty() { self.ended } else { piece.text.ends_with('\n') };
            }
            (Style::Tokens, Some(id)) => {
                let likely = piece.told.as_ref().map(|told| likely(tokenizer, told));
                let (piece, likely) =
                    (text::quoted(tokenizer.piece(id)), likely.unwrap_or_default());
                self.out.line(&format!("text\t{id}\t{piece}{likely}"))?;
            }
            (Style::Tokens, None) | (Style::Json, _) => {}
        }
        Ok(())
    }

    fn end(&mut self, done: &Done<'_>) -> Result<()> {
        match self.style {
            Style::Text if self.ended => Ok(self.out.end_thought()?),
            Style::Text => {
                self.out.end_thought()?;
                Ok(self.out.line("")?)
            }
            Style::Tokens => Ok(()),
            Style::Json => self.out.json(&done.report()),
        }
    }
}

/// Columns for `--tokens`: the token's log-probability, and of each of the likeliest its piece and that.
fn likely(tokenizer: &Tokenizer, told: &Told) -> String {
    let mut columns = format!("\t{:.4}", told.chosen.log_probability);
    for Probable { id, log_probability } in &told.best {
        columns += &format!("\t{}={log_probability:.4}", text::quoted(tokenizer.piece(*id)));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_windows_are_no_part_of_a_prompt() {
        assert_eq!(as_prompt("\u{feff}a\r\n\r\nb"), "a\n\nb");
        assert_eq!(as_prompt("a\rb\u{feff}\n"), "a\rb\u{feff}\n");
    }

    #[test]
    fn escapes_of_a_prompt() {
        let plain = |text| unescape(text).map_err(|error| error.to_string());
        assert_eq!(plain(r#"a\nb\tc\\n\"\'"#).as_deref(), Ok("a\nb\tc\\n\"'"));
        assert_eq!(plain(r"\x41\xc3\xa9\xg1\q\").as_deref(), Ok("Aé\\xg1\\q\\"));
        assert!(plain(r"\xff").is_err());
    }
}
