//! `karat why`: walks from the file to the ids, and names the op that is wrong.

mod laws;
mod print;
mod server;

use super::run::warn_of_doubled_end;
use crate::bar::Screen;
use crate::exit::{Code, Failure, failure};
use crate::load::{self, LoadArgs, NamedModel};
use crate::out::{Controls, Out};
use anyhow::{Context as _, Result};
use karat::text;
use karat::{Arithmetic, Backend, Config, Existing, Network, Options, Parts};
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tokenizer::{Chat, ChatTemplate, Ends, Message, Special};
use why::{Report, Source, Thoroughness, Trace};

/// The prompt and what follows it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct PromptArgs {
    /// The prompt
    #[arg(short, long, value_name = "TEXT", default_value = "The capital of France is")]
    prompt: String,
    /// Through the model's chat template; otherwise the prompt is taken as it is
    #[arg(long)]
    chat: bool,
    /// Greedy tokens behind the prompt, each a step of its own: many faults show only there
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    pub(crate) n_predict: usize,
}

/// A model and a prompt's ids.
pub(crate) struct Prompted {
    /// File, tokenizer and graph.
    pub(crate) parts: Parts,
    /// At least one.
    pub(crate) ids: Vec<u32>,
}

impl PromptArgs {
    /// The prompt as it was given.
    fn text(&self) -> &str {
        &self.prompt
    }

    /// The prompt in the model's chat template, where that is asked for.
    fn rendered(&self, parts: &Parts) -> Result<Option<String>> {
        if !self.chat {
            return Ok(None);
        }
        let messages = [Message::new("user", self.prompt.as_str())];
        let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
        Ok(Some(ChatTemplate::from_tokenizer(&parts.tokenizer)?.render(&chat)?))
    }

    /// Opens the model and encodes the prompt.
    ///
    /// # Errors
    /// Exit 7 for a prompt without tokens, or a template that refuses it.
    pub(crate) fn open(
        &self,
        model: Option<&OsStr>,
        options: &Options,
        config: &Config,
    ) -> Result<Prompted> {
        let parts = load::parts(model, options, config)?;
        let ids = if self.chat {
            let messages = [Message::new("user", self.prompt.as_str())];
            let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
            ChatTemplate::from_tokenizer(&parts.tokenizer)?.encode(&parts.tokenizer, &chat)?
        } else {
            let ids = parts.tokenizer.encode(&self.prompt, Special::Parse, Ends::Default)?;
            warn_of_doubled_end(&parts.tokenizer, &ids);
            ids
        };
        if ids.is_empty() {
            return Err(failure(Code::Rejected, "prompt: no tokens, allowed 1 and more"));
        }
        Ok(Prompted { parts, ids })
    }
}

/// What `karat why` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: NamedModel,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The side that is trusted: a backend, or a trace [default: cpu]
    #[arg(long, value_name = "BACKEND|TRACE")]
    a: Option<String>,
    /// The side that is judged: a backend, a trace, or the URL of a running server (llama.cpp's, or another with
    /// OpenAI's completions), of which tokens and log-probabilities are compared [default: that of --backend]
    #[arg(long, value_name = "BACKEND|TRACE|URL")]
    b: Option<String>,
    /// Put side A's values in and go on, so that what is wrong behind the first fault is fed rightly
    #[arg(long = "continue")]
    go_on: bool,
    /// Compute every op of side B once more by itself, on the inputs that it had in the stream: where the two differ it
    /// is a race or a shared buffer, or what is computed together differs from what is computed apart
    #[arg(long)]
    isolate: bool,
    /// Run side B N times and compare the bits
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = load::positive)]
    repeat: usize,
    /// Hold one backend, that of --a or --backend, against itself instead, layer by layer and bit by bit: one by one, in chunks, batched with
    /// strangers, after prefix reuse, with other numbers of layers on the GPU
    #[arg(long, conflicts_with_all = ["b", "go_on"])]
    laws: bool,
    /// Print every op, not only what is wrong
    #[arg(long)]
    ops: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write a page with a map of layers and ops, and every value that is wrong
    #[arg(long, value_name = "FILE", conflicts_with = "laws")]
    html: Option<PathBuf>,
    /// Replace a page of this name
    #[arg(long, requires = "html")]
    force: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let model = args.model.name()?;
    let existing = Existing::replaced_if(args.force);
    let page =
        args.html.as_deref().map(|path| karat::output::create(path, existing)).transpose()?;
    let options = if args.laws { laws::options(args)? } else { args.options() };
    let prompted = args.prompt.open(model, &options, config)?;
    let Prompted { parts, ids } = &prompted;
    let mut out = Out::new(Controls::Escaped);
    let mut walk = |what: &str, line: &str| -> Result<()> {
        if !args.json {
            out.line(&format!("{what:<8} {line}"))?;
        }
        Ok(())
    };
    let screen = Screen::default();
    karat::check_tensors(&parts.file, &|event| screen.show(event))?;
    let n = parts.file.tensors().len();
    walk("file", &format!("{}: {n} tensors, no NaN and no infinity", text::path(&parts.path)))?;
    let template = match args.prompt.rendered(parts)? {
        Some(text) => {
            format!("{} characters: {}", text.chars().count(), text::quoted(text.as_bytes()))
        }
        None => "none; --chat puts the prompt in the model's".to_owned(),
    };
    walk("template", &template)?;
    walk("tokens", &format!("{}: {}", ids.len(), list(ids)))?;
    if args.laws {
        return laws::laws(args, parts, ids);
    }
    let mut a = source(args.a.as_deref().unwrap_or("cpu"), args, parts)?;
    let b_name = args.b.clone().unwrap_or_else(|| options.backend.to_string());
    if server::is_url(&b_name) {
        return with_server(&b_name, a, &prompted, args, &config.network);
    }
    let mut b = source(&b_name, args, parts)?;
    let Ids { ids, remarks, said } = agreed([&a, &b], ids, args.go_on)?;
    said.iter().try_for_each(|said| walk("", said))?;
    let steps = why::common_steps(&prompted.parts.graph, &mut a, &b, &ids, args.prompt.n_predict)?;
    let thoroughness = Thoroughness { feed: args.go_on, isolate: args.isolate, runs: args.repeat };
    let heard = |event: karat::Event<'_>| screen.show(event);
    let mut report = parts.compare([&mut a, &mut b], &steps, thoroughness, &heard)?;
    report.remarks.splice(0..0, remarks);
    if let (Some(mut page), Some(path)) = (page, &args.html) {
        let html = why::html(&report, &text::one_line(&again()))?;
        page.write_all(html.as_bytes()).with_context(|| text::path(path))?;
        page.keep()?;
    }
    if args.json {
        Out::new(Controls::Escaped).json(&report)?;
    } else {
        print::print(&report, args.ops, parts, &steps)?;
    }
    verdict(&report)
}

/// The walk against a server ends at its log-probabilities: nobody sees its ops.
fn with_server(
    url: &str,
    a: Source,
    prompted: &Prompted,
    args: &Args,
    network: &Network,
) -> Result<()> {
    let Source::Live { name, mut loaded } = a else {
        return Err(failure(Code::Usage, "--a: with a server as side B a backend, not a trace"));
    };
    if args.html.is_some() || args.go_on || args.isolate {
        let what = "--html, --continue, --isolate: not with a server, whose ops nobody sees";
        return Err(failure(Code::Usage, what));
    }
    let server = server::Server::find(url, network)?;
    let trusted = server::Trusted { name: &name, loaded: &mut *loaded };
    server::run(&server, trusted, &args.prompt, prompted, args.json)
}

impl Args {
    /// The options of karat's own side. Where no arithmetic is asked for it is that of a trace; other engines do not say
    /// theirs, and round activations as ggml does.
    fn options(&self) -> Options {
        let mut options = self.load.options();
        let mut sides = [&self.a, &self.b].into_iter().flatten();
        let other = sides.find(|side| side.parse::<Backend>().is_err());
        if let Some(other) = other.filter(|_| self.load.takes_any_arithmetic()) {
            options.arithmetic = Trace::arithmetic_of(Path::new(other)).unwrap_or(Arithmetic::Int8);
        }
        options
    }
}

/// The command line, for a shell that reads it again.
fn again() -> String {
    let words: Vec<String> =
        std::env::args_os().map(|word| text::shell_word(&word.to_string_lossy())).collect();
    words.join(" ")
}

fn list(ids: &[u32]) -> String {
    let shown: Vec<String> = ids.iter().take(16).map(u32::to_string).collect();
    format!("{}{}", shown.join(" "), if ids.len() > 16 { " …" } else { "" })
}

fn source(side: &str, args: &Args, parts: &Parts) -> Result<Source> {
    if let Ok(name) = side.parse::<Backend>() {
        let options = args.options().with_backend(name);
        let backend = load::backend(&options, parts.graph.n_layers())?;
        return Ok(Source::Live { name: backend.name(), loaded: load::weights(parts, &*backend)? });
    }
    if !side.ends_with(".safetensors") {
        let what = format!("{}: neither a backend nor a trace", text::one_line(side));
        let hint = "cpu, gpu, vulkan, metal, dx12, hybrid-f32, reference, a .safetensors file of karat trace, or a URL";
        return Err(Failure::new(Code::Usage, what).hint(hint).into());
    }
    Ok(Source::Recorded { name: text::one_line(side), trace: Trace::open(Path::new(side))? })
}

/// The prompt's ids as the sides have them.
struct Ids {
    ids: Vec<u32>,
    /// Where a trace has others, and the walk goes on with them.
    remarks: Vec<String>,
    /// What is said of each trace.
    said: Vec<String>,
}

/// Compares the prompt's ids with those of traces. Others are a fault of their own, before any op: tokenizer, template,
/// or only another prompt. The walk ends there, or goes on with the trace's own ids.
fn agreed(sides: [&Source; 2], ids: &[u32], go_on: bool) -> Result<Ids> {
    let mut agreed = Ids { ids: ids.to_vec(), remarks: Vec::new(), said: Vec::new() };
    for side in sides {
        let Source::Recorded { name, trace } = side else { continue };
        let Some(theirs) = trace.tokens() else {
            agreed.said.push(format!("{name} does not tell its ids"));
            continue;
        };
        if theirs.starts_with(ids) {
            agreed.said.push(format!("{name} has the same"));
            continue;
        }
        let at = theirs.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let what = format!(
            "{name}: token {at} is {}, here {}: another prompt, tokenizer or template",
            theirs.get(at).map_or_else(|| "missing".to_owned(), u32::to_string),
            ids.get(at).map_or_else(|| "none".to_owned(), u32::to_string)
        );
        let prompt = theirs.len().saturating_sub(trace.n_steps().saturating_sub(1));
        if !go_on || prompt == 0 {
            let hint = "--continue goes on with the trace's own ids";
            return Err(Failure::new(Code::Device, what).hint(hint).into());
        }
        agreed.ids = theirs[..prompt].to_vec();
        agreed.remarks.push(format!("tokens: {what}"));
    }
    Ok(agreed)
}

/// Exit 0 only if all is right.
fn verdict(report: &Report) -> Result<()> {
    report.summary().map_or(Ok(()), |what| Err(failure(Code::Device, what)))
}
