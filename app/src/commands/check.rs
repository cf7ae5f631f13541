//! `karat check`: the kernels that a model will use on a device, against the reference.

use crate::check::{self, Kernel};
use crate::exit::{Code, failure};
use crate::load::{LoadArgs, ModelArgs, Parts};
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::Config;
use karat::text::one_line;
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Instant;

/// What `karat check` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
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
    let parts = Parts::open(args.model.model.as_deref(), &args.load, config, 4096)?;
    let (gpu, backend) = args.load.to_check()?;
    let start = Instant::now();
    let kernels = match gpu {
        Some(gpu) => check::run_and_remember(&gpu, &parts.graph, parts.options, config)?,
        None => check::run(&*backend, &parts.graph, parts.options)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let n_wrong = kernels.iter().filter(|kernel| kernel.wrong.is_some()).count();
    if args.json {
        let report = Report { backend: backend.name(), seconds, kernels: &kernels };
        Out::new(Controls::Escaped).json(&report)?;
    } else {
        print(&backend.name(), &kernels, seconds)?;
    }
    if n_wrong > 0 {
        let what = format!("{n_wrong} of {} kernels compute wrong numbers", kernels.len());
        return Err(failure(Code::Device, what));
    }
    Ok(())
}

fn print(backend: &str, kernels: &[Kernel], seconds: f64) -> Result<()> {
    // Colours are escapes, which `Out` would show; nothing printed here comes from a file.
    let mut out = Out::new(Controls::Raw);
    let colours = std::io::stdout().is_terminal();
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
