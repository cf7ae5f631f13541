//! `karat check`: the kernels that a model will use on a device, against the reference.

use crate::bar::Screen;
use crate::exit::{Code, failure};
use crate::load::{self, LoadArgs, NamedModel};
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::check::{self, Kernel, Subject};
use karat::text::one_line;
use karat::{Config, devices};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Instant;

/// What `karat check` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: NamedModel,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    backend: String,
    seconds: f64,
    kernels: &'a [Kernel],
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let options = args.load.options();
    let parts = load::parts(args.model.name()?, &options, config)?;
    let screen = Screen::default();
    let listener = |event: karat::Event<'_>| screen.show(event);
    let gpu = devices::gpu(&options, &listener)?;
    let backend = match &gpu {
        Some(gpu) => Box::new(gpu.clone()),
        None => devices::backend(&options, 0, &listener)?,
    };
    let start = Instant::now();
    let subject = Subject { graph: &parts.graph, load: parts.options };
    let kernels = match &gpu {
        Some(gpu) => check::run_and_remember(gpu, subject, config, &listener)?,
        None => check::run(&*backend, subject, &listener)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let n_wrong = kernels.iter().filter(|kernel| kernel.wrong.is_some()).count();
    if args.json {
        let report = Report { backend: backend.name(), seconds, kernels: &kernels };
        Out::new(Controls::Escaped).json(&report)?;
    } else {
        let colours = std::io::stdout().is_terminal() && !config.no_colours;
        print(&backend.name(), &kernels, seconds, colours)?;
    }
    if n_wrong > 0 {
        let what = format!("{n_wrong} of {} kernels compute wrong numbers", kernels.len());
        return Err(failure(Code::Device, what));
    }
    Ok(())
}

fn print(backend: &str, kernels: &[Kernel], seconds: f64, colours: bool) -> Result<()> {
    // Colours are escapes, which `Out` would show; nothing printed here comes from a file.
    let mut out = Out::new(Controls::Raw);
    let width = kernels.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0);
    for kernel in kernels {
        let (verdict, colour) =
            if kernel.wrong.is_some() { ("WRONG", "31;1") } else { ("RIGHT", "32") };
        let verdict = if colours {
            format!("\u{1b}[{colour}m{verdict}\u{1b}[0m")
        } else {
            verdict.to_owned()
        };
        let name = one_line(&kernel.name);
        let wrong = kernel.wrong.as_ref().map_or(String::new(), |wrong| format!("  {wrong}"));
        out.line(&format!("{verdict}  {name:<width$}  {:>8} values{wrong}", kernel.values))?;
    }
    let n = kernels.iter().filter(|kernel| kernel.wrong.is_none()).count();
    let line = format!("{}: {n} of {} kernels right", one_line(backend), kernels.len());
    out.line(&format!("{line}, bit for bit, in {seconds:.1} s"))?;
    Ok(())
}
