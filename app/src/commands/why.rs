//! `karat why`: walks from the file to the ids, and names the op that is wrong.

mod server;

use crate::bar::{LoadBar, Unit};
use crate::config::Config;
use crate::exit::{Code, Failure, failure, say};
use crate::load::{self, LoadArgs, ModelArgs, Parts};
use crate::out::{Controls, Out};
use crate::text;
use anyhow::{Context as _, Result};
use graph::{Graph, Loaded, Step};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use tokenizer::{Chat, ChatTemplate, Ends, Message, Special};
use why::{Law, Measured, Report, Row, Side, Tolerance, Trace, Values, Verdict, Wrong};

/// More memory for values than this is refused.
const MOST_BYTES: usize = 4 << 30;
/// Faults that are printed in full.
const SHOWN: usize = 20;

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

    /// Opens the model and encodes the prompt.
    ///
    /// # Errors
    /// Exit 7 for a prompt without tokens, or a template that refuses it.
    pub(crate) fn open(
        &self,
        model: &ModelArgs,
        load: &LoadArgs,
        config: &Config,
    ) -> Result<Prompted> {
        let parts = Parts::open(model.model.as_deref(), load, config, 4096)?;
        let ids = if self.chat {
            let messages = [Message::new("user", self.prompt.as_str())];
            let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
            ChatTemplate::from_tokenizer(&parts.tokenizer)?.encode(&parts.tokenizer, &chat)?
        } else {
            parts.tokenizer.encode(&self.prompt, Special::Parse, Ends::Default)?
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
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// The side that is trusted: a backend, or a trace
    #[arg(long, value_name = "BACKEND|TRACE", default_value = "cpu")]
    a: String,
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
    /// Run side B so many times and compare the bits
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = load::positive)]
    repeat: usize,
    /// Hold --backend against itself instead: cuts, batches, prefix reuse, layers on the GPU
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
    #[command(flatten)]
    load: LoadArgs,
}

/// Where a side's values come from.
enum Source {
    Live(String, Box<dyn Loaded>),
    Recorded(String, Trace),
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Live(name, _) | Self::Recorded(name, _) => name,
        }
    }

    /// karat's own backends owe the reference's bits; nobody else does.
    fn tolerance(&self) -> Tolerance {
        match self {
            Self::Live(..) => Tolerance::Bits,
            Self::Recorded(..) => Tolerance::Rounding,
        }
    }

    fn values(&mut self, graph: &Graph, steps: &[Step], feed: Option<&Values>) -> Result<Values> {
        Ok(match self {
            Self::Live(_, loaded) => why::capture(&mut **loaded, steps, feed)?,
            Self::Recorded(_, trace) => trace.values(graph, steps),
        })
    }
}

/// Values of more than 4 GiB are refused before they are recorded.
pub(crate) fn check_size(graph: &Graph, steps: &[Step]) -> Result<()> {
    let bytes = why::value_bytes(graph, steps);
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let what = format!(
        "the values of {} tokens take {}, allowed {}",
        steps.iter().map(|step| step.tokens.len()).sum::<usize>(),
        text::bytes(bytes as u64),
        text::bytes(MOST_BYTES as u64)
    );
    Err(Failure::new(Code::DoesNotFit, what).hint("a shorter prompt").into())
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let prompted = args.prompt.open(&args.model, &args.load, config)?;
    let Prompted { parts, ids } = &prompted;
    let mut out = Out::new(Controls::Escaped);
    let mut walk = |what: &str, line: &str| -> Result<()> {
        if !args.json {
            out.line(&format!("{what:<8}{line}"))?;
        }
        Ok(())
    };
    load::check_tensors(&parts.file)?;
    let n = parts.file.tensors().len();
    walk("file", &format!("{}: {n} tensors, no NaN and no infinity", text::path(&parts.path)))?;
    walk("tokens", &format!("{}: {}", ids.len(), list(ids)))?;
    if args.laws {
        return laws(args, parts, ids);
    }
    let mut a = source(&args.a, args, parts)?;
    let b_name = args.b.clone().unwrap_or_else(|| args.load.backend_name());
    if server::is_url(&b_name) {
        return with_server(&b_name, a, &prompted, args);
    }
    let mut b = source(&b_name, args, parts)?;
    check_ids(&[&a, &b], ids)?;
    let steps = steps(&mut a, &mut b, ids, args.prompt.n_predict)?;
    check_size(&parts.graph, &steps)?;
    let report = compare((&mut a, &mut b), &steps, parts, args)?;
    if let Some(path) = &args.html {
        let again = std::env::args().collect::<Vec<_>>().join(" ");
        let page = why::html(&report, &text::one_line(&again))?;
        std::fs::write(path, page).with_context(|| text::path(path))?;
    }
    if args.json {
        Out::new(Controls::Escaped).json(&report)?;
    } else {
        print(&report, args.ops, (parts, &steps))?;
    }
    verdict(&report)
}

/// The walk against a server ends at its log-probabilities: nobody sees its ops.
fn with_server(url: &str, a: Source, prompted: &Prompted, args: &Args) -> Result<()> {
    let Source::Live(name, mut loaded) = a else {
        return Err(failure(Code::Usage, "--a: with a server as side B a backend, not a trace"));
    };
    if args.html.is_some() || args.go_on || args.isolate {
        let what = "--html, --continue, --isolate: not with a server, whose ops nobody sees";
        return Err(failure(Code::Usage, what));
    }
    let server = server::Server::find(url)?;
    server::run(&server, (&name, &mut *loaded), (&args.prompt, prompted), args.json)
}

fn list(ids: &[u32]) -> String {
    let shown: Vec<String> = ids.iter().take(16).map(u32::to_string).collect();
    format!("{}{}", shown.join(" "), if ids.len() > 16 { " …" } else { "" })
}

fn source(side: &str, args: &Args, parts: &Parts) -> Result<Source> {
    if let Some(backend) = args.load.backend_named(side, parts.graph.kv_layers.len())? {
        return Ok(Source::Live(backend.name(), parts.load(&*backend)?));
    }
    if !side.ends_with(".safetensors") {
        let what = format!("{}: neither a backend nor a trace", text::one_line(side));
        let hint = "cpu, gpu, vulkan, metal, dx12, hybrid-f32, reference, a .safetensors file of karat trace, or a URL";
        return Err(Failure::new(Code::Usage, what).hint(hint).into());
    }
    Ok(Source::Recorded(text::one_line(side), Trace::open(Path::new(side))?))
}

/// A trace of another prompt is no side.
fn check_ids(sides: &[&Source], ids: &[u32]) -> Result<()> {
    for side in sides {
        if let Source::Recorded(name, trace) = side
            && let Some(theirs) = trace.tokens()
            && !theirs.starts_with(ids)
        {
            let at = theirs.iter().zip(ids).take_while(|(a, b)| a == b).count();
            let what = format!(
                "{name}: token {at} is {}, here {}: another prompt, tokenizer or template",
                theirs.get(at).map_or_else(|| "missing".to_owned(), u32::to_string),
                ids.get(at).map_or_else(|| "none".to_owned(), u32::to_string)
            );
            return Err(failure(Code::Rejected, what));
        }
    }
    Ok(())
}

/// The steps that both sides can do. What follows the prompt is what a trace says, or side A's own greedy choice.
fn steps(a: &mut Source, b: &mut Source, ids: &[u32], n: usize) -> Result<Vec<Step>> {
    let recorded = [&*a, &*b].into_iter().find_map(|side| match side {
        Source::Recorded(_, trace) => Some(trace),
        Source::Live(..) => None,
    });
    if let Some(trace) = recorded {
        let behind = trace.tokens().and_then(|all| all.get(ids.len()..)).unwrap_or(&[]);
        let n = behind.len().min(trace.n_steps().saturating_sub(1)).min(n);
        let mut steps = vec![Step::single(ids, 0)];
        let next = behind[..n].iter().zip(ids.len() as u32..);
        steps.extend(next.map(|(&id, at)| Step::single(&[id], at)));
        return Ok(steps);
    }
    let Source::Live(_, loaded) = a else { return Ok(vec![Step::single(ids, 0)]) };
    Ok(why::greedy(&mut **loaded, ids, n)?)
}

fn compare(
    (a, b): (&mut Source, &mut Source),
    steps: &[Step],
    parts: &Parts,
    args: &Args,
) -> Result<Report> {
    let graph = &parts.graph;
    let of_a = a.values(graph, steps, None)?;
    let feed = (args.go_on && matches!(b, Source::Live(..))).then_some(&of_a);
    let of_b = b.values(graph, steps, feed)?;
    let mut remarks = Vec::new();
    for run in 1..args.repeat {
        if let Source::Live(..) = b
            && let Some(key) = first_other(graph, &of_b, &b.values(graph, steps, feed)?)
        {
            remarks
                .push(format!("race: run {} of side B differs from the first at {key}", run + 1));
        }
    }
    if let Source::Live(_, loaded) = &mut *b
        && args.isolate
    {
        let alone = why::capture_alone(&mut **loaded, steps, &of_b)?;
        if let Some(key) = first_other(graph, &of_b, &alone) {
            remarks.push(format!(
                "race or aliasing: alone, on the same inputs, side B differs at {key}"
            ));
        }
    }
    if let (Source::Live(_, loaded), None) = (&mut *b, feed) {
        let free = why::logits(&mut **loaded, steps)?;
        let seen = |step: usize| of_b.steps[step].last().and_then(Option::as_ref);
        let differs = |i: usize| seen(i).is_some_and(|seen| !same(seen, &free[i]));
        if let Some(step) = (0..steps.len()).find(|&step| differs(step)) {
            remarks.push(format!(
                "fusion or race: unobserved, side B gives other logits in step {step} than observed"
            ));
        }
    }
    let judged =
        |values: &Values, fed: Option<&Values>, tolerance: Tolerance, what: &'static str| {
            judge(parts, Side { steps, values, fed, tolerance }, what)
        };
    let of_b = judged(&of_b, feed, b.tolerance(), "judging B")?;
    let of_a = judged(&of_a, None, a.tolerance(), "judging A")?;
    Ok(Report {
        sides: [a.name().to_owned(), b.name().to_owned()],
        steps: steps.iter().map(|step| step.tokens.len()).collect(),
        rows: why::combine(graph, &of_a, &of_b),
        remarks,
    })
}

fn judge(parts: &Parts, side: Side<'_>, what: &'static str) -> Result<Vec<Measured>> {
    let ops = parts.graph.nodes.iter().filter(|node| node.output.is_some()).count();
    let mut bar = LoadBar::new(what, (ops * side.steps.len()) as u64, Unit::Ops);
    let subject = (&parts.graph, &parts.file, parts.options);
    let measured =
        why::judge(&graph::reference::Reference, subject, side, &mut |n| bar.at(n as u64));
    bar.finish();
    Ok(measured?)
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| graph::compare::same_bits(a, b))
}

/// The first value that two runs do not share.
fn first_other(graph: &Graph, one: &Values, other: &Values) -> Option<String> {
    for (s, (one, other)) in one.steps.iter().zip(&other.steps).enumerate() {
        for (i, pair) in one.iter().zip(other).enumerate() {
            if let (Some(one), Some(other)) = pair
                && !same(one, other)
            {
                return Some(format!("{} of step {s}", graph.key(&graph.nodes[i])));
            }
        }
    }
    None
}

/// Exit 0 only if all is right.
fn verdict(report: &Report) -> Result<()> {
    if report.all_right() {
        return Ok(());
    }
    let what = match (report.faults().next(), report.remarks.first()) {
        (Some(row), _) => format!(
            "{} of {} ops wrong, the first {}:{} in step {}",
            report.faults().count(),
            report.rows.len(),
            row.name,
            row.op,
            row.step
        ),
        (None, Some(remark)) => remark.clone(),
        (None, None) => format!("{} values unmeasured", report.count(Verdict::Unmeasured)),
    };
    Err(failure(Code::Device, what))
}

/// Colours, on a terminal only.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn verdict(self, verdict: Verdict) -> String {
        let colour = match verdict {
            Verdict::Right => "32",
            Verdict::WrongHere => "31;1",
            Verdict::Propagated => "33",
            Verdict::ReferenceOff => "35;1",
            Verdict::Unmeasured => "2",
        };
        let name = format!("{:<13}", verdict.name());
        if self.0 { format!("\u{1b}[{colour}m{name}\u{1b}[0m") } else { name }
    }
}

fn print(report: &Report, all: bool, (parts, steps): (&Parts, &[Step])) -> Result<()> {
    // Colours are escapes, which `Out` would show; nothing printed here comes from a file but for checked names.
    let paint = Paint(std::io::stdout().is_terminal());
    let mut out = Out::new(Controls::Raw);
    let [a, b] = &report.sides;
    out.line(&format!("sides   A {a}"))?;
    out.line(&format!("        B {b}"))?;
    let counts: Vec<String> = [
        Verdict::Right,
        Verdict::WrongHere,
        Verdict::Propagated,
        Verdict::ReferenceOff,
        Verdict::Unmeasured,
    ]
    .into_iter()
    .filter(|&verdict| report.count(verdict) > 0)
    .map(|verdict| format!("{} {}", report.count(verdict), verdict.name()))
    .collect();
    let tokens: Vec<String> = report.steps.iter().map(usize::to_string).collect();
    out.line(&format!(
        "ops     {} in steps of {} tokens: {}",
        report.rows.len(),
        tokens.join(" + "),
        counts.join(", ")
    ))?;
    for remark in &report.remarks {
        out.line(&format!("        {remark}"))?;
    }
    for row in report.rows.iter().filter(|_| all) {
        out.line(&line(row, paint))?;
    }
    for row in report.faults().take(if all { 0 } else { SHOWN }) {
        out.line(&line(row, paint))?;
    }
    if let Some(Row { wrong: Some(wrong), name, op, .. }) = report.faults().next() {
        out.line(&format!("\nthe first: {}:{op}", text::one_line(name)))?;
        detail(&mut out, wrong)?;
        let prompt: Vec<u32> = steps[0].tokens.clone();
        let pieces = |id: &u32| text::quoted(parts.tokenizer.piece(*id));
        let near: Vec<String> = prompt.iter().take(8).map(pieces).collect();
        out.line(&format!("  prompt     {}", near.join(" ")))?;
    }
    Ok(())
}

fn line(row: &Row, paint: Paint) -> String {
    let what = row.wrong.as_ref().map_or_else(String::new, |wrong| {
        format!(
            "  {} ({}), {} wrong, most {:.3e}, NMSE {:.1e}",
            wrong.kind,
            sureness(wrong),
            wrong.elements,
            wrong.max_error,
            wrong.nmse
        )
    });
    let name = format!("{}:{}", text::one_line(&row.name), row.op);
    format!("  step {:<3} {name:<28} {}{what}", row.step, paint.verdict(row.verdict))
}

fn sureness(wrong: &Wrong) -> &'static str {
    match wrong.sureness {
        why::Sureness::Certain => "certain",
        why::Sureness::Likely => "likely",
        why::Sureness::Guess => "a guess",
    }
}

fn detail(out: &mut Out, wrong: &Wrong) -> Result<()> {
    out.line(&format!("  kind       {} ({})", wrong.kind, sureness(wrong)))?;
    out.line(&format!("  elements   {} wrong, {} not finite", wrong.elements, wrong.not_finite))?;
    for worst in &wrong.worst {
        out.line(&format!(
            "  [{:>4}, {:>5}] {:>16}, right {:>16}",
            worst.row, worst.col, worst.found, worst.right
        ))?;
    }
    Ok(())
}

/// `--laws`.
fn laws(args: &Args, parts: &Parts, ids: &[u32]) -> Result<()> {
    let n_layer = parts.graph.kv_layers.len();
    let backend = args.load.backend(n_layer)?;
    let mut loaded = parts.load(&*backend)?;
    let mut out = Out::new(Controls::Escaped);
    let mut rows: Vec<(String, bool)> = Vec::new();
    let mut hear = |law: Law, holds: bool| {
        if !args.json {
            let said = out.line(&format!("law     {:<24}{}", name(law), word(holds)));
            said.unwrap_or_else(|error| say("warning", &error.to_string()));
        }
        rows.push((name(law), holds));
    };
    let mut broken = why::laws(&mut *loaded, ids, &mut hear)?;
    let mut whole = Step::single(ids, 0);
    whole.outputs = (0..ids.len() as u32).collect();
    let steps = [whole];
    for n in [1, n_layer.div_ceil(2)] {
        let Some(split) = args.load.with_gpu_layers(n) else { continue };
        let expected = why::logits(&mut *loaded, &steps)?;
        let mut other = parts.load(&*split.backend(n_layer)?)?;
        let got = why::logits(&mut *other, &steps)?;
        let holds = same(&expected[0], &got[0]);
        hear(Law::GpuLayers(n), holds);
        if !holds {
            broken.push(why::Broken { law: Law::GpuLayers(n), position: 0, col: 0 });
        }
    }
    if args.json {
        let all: Vec<_> = rows
            .iter()
            .map(|(law, holds)| serde_json::json!({"law": law, "holds": holds}))
            .collect();
        let report = serde_json::json!({"backend": backend.name(), "laws": all, "broken": broken});
        Out::new(Controls::Escaped).json(&report)?;
    }
    match broken.first() {
        None => Ok(()),
        Some(first) => {
            let what = format!(
                "{}: {} laws broken, the first {} at position {}, column {}",
                backend.name(),
                broken.len(),
                name(first.law),
                first.position,
                first.col
            );
            Err(failure(Code::Device, what))
        }
    }
}

fn word(holds: bool) -> &'static str {
    if holds { "holds" } else { "BROKEN" }
}

fn name(law: Law) -> String {
    match law {
        Law::Again => "again".to_owned(),
        Law::OneByOne => "one by one".to_owned(),
        Law::Chunks(n) => format!("chunks of {n}"),
        Law::WithStrangers => "batched with strangers".to_owned(),
        Law::PrefixReuse => "after prefix reuse".to_owned(),
        Law::GpuLayers(n) => format!("{n} layers on the GPU"),
    }
}
