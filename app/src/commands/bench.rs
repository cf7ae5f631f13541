//! `karat bench`: tokens a second of a real model, for the prompt and for generation, medians of several runs.

use crate::config::Config;
use crate::load::{Info, LoadArgs, Model, ModelArgs, positive};
use crate::out::{Controls, Out};
use crate::text;
use anyhow::Result;
use graph::NoTap;
use model::{Wanted, Work, sampler::argmax};
use std::ops::ControlFlow;
use std::time::Instant;
use tokenizer::{Ends, Special};

/// What is read in the benchmark; repeated to the wanted length.
const TEXT: &str =
    "The sky is blue because air scatters short waves of light more than long ones. ";

/// What `karat bench` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    n_prompt: usize,
    /// Tokens to generate; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    n_gen: usize,
    /// Runs of each test after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    repetitions: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    model: &'a Info,
    tests: Vec<Test>,
}

/// The runs of one test.
#[derive(serde::Serialize)]
struct Test {
    /// `pp512` or `tg128`, as llama-bench names them.
    name: String,
    /// Tokens a second of each run.
    per_second: Vec<f64>,
    /// Of those.
    median: f64,
}

/// Runs and prints the tests.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let mut load = args.load.clone();
    load.needs(args.n_prompt.max(args.n_gen).saturating_add(1));
    let mut model = Model::load(args.model.model.as_deref(), &load, config)?;
    let mut tests = Vec::new();
    if args.n_prompt > 0 {
        let ids = prompt(&model, args.n_prompt)?;
        tests.push(test(format!("pp{}", args.n_prompt), args, &mut || prefill(&mut model, &ids))?);
    }
    if args.n_gen > 0 {
        tests
            .push(test(format!("tg{}", args.n_gen), args, &mut || decode(&mut model, args.n_gen))?);
    }
    let mut out = Out::new(Controls::Escaped);
    if args.json {
        return out.json(&Report { model: &model.info, tests });
    }
    Ok(out.text(&table(&model.info, &tests))?)
}

fn test(name: String, args: &Args, once: &mut dyn FnMut() -> Result<f64>) -> Result<Test> {
    once()?;
    let per_second = (0..args.repetitions).map(|_| once()).collect::<Result<Vec<f64>>>()?;
    Ok(Test { name, median: median(&per_second), per_second })
}

/// Of an even number the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a.midpoint(*b),
        (None, _) | (_, None) => f64::NAN,
    }
}

/// `n` ids of real text.
fn prompt(model: &Model, n: usize) -> Result<Vec<u32>> {
    let ids = model.tokenizer.encode(TEXT, Special::AsText, Ends::None)?;
    Ok(ids.into_iter().cycle().take(n).collect())
}

fn prefill(model: &mut Model, ids: &[u32]) -> Result<f64> {
    model.engine.truncate(model.seq, 0)?;
    let start = Instant::now();
    model.engine.prefill(model.seq, ids, &mut |_| ControlFlow::Continue(()))?;
    Ok(ids.len() as f64 / start.elapsed().as_secs_f64())
}

/// Greedy from the first token of the text on; an end token is generated like every other.
fn decode(model: &mut Model, n: usize) -> Result<f64> {
    model.engine.truncate(model.seq, 0)?;
    let mut id = prompt(model, 1)?.first().copied().unwrap_or_default();
    let start = Instant::now();
    for _ in 0..n {
        let work = [Work { seq: model.seq, tokens: &[id], wanted: Wanted::Last }];
        id = argmax(model.engine.step(&work, &mut NoTap)?.first().map_or(&[], Vec::as_slice));
    }
    Ok(n as f64 / start.elapsed().as_secs_f64())
}

/// Markdown, as llama-bench prints it.
fn table(info: &Info, tests: &[Test]) -> String {
    let mut table = String::from(
        "| model | size | params | backend | test | tok/s (median) | lowest | highest |\n\
         |---|---:|---:|---|---:|---:|---:|---:|\n",
    );
    for test in tests {
        let lowest = test.per_second.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = test.per_second.iter().copied().fold(0.0, f64::max);
        table.push_str(&format!(
            "| {} | {} | {:.2} M | {} | {} | {:.1} | {lowest:.1} | {highest:.1} |\n",
            text::one_line(&info.name),
            text::bytes(info.weight_bytes),
            info.n_params as f64 / 1e6,
            info.backend,
            test.name,
            test.median,
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
