//! Two sides over the same steps: what they compute, whether they compute it again, and what is to be said of each op.

use super::{Args, Source};
use crate::bar::{LoadBar, Unit};
use anyhow::Result;
use graph::{Graph, Loaded, Step};
use karat::Parts;
use std::time::Instant;
use why::{Capture, Measured, Report, Side, Values};

/// Runs of side B where more than one is wanted: the best of them is what watching costs.
const RUNS: usize = 4;
/// How the remark begins on a side that is not what it seems.
const FREE: &str = "fusion or race: unobserved, side B gives";

/// The report. `remarks` is what the walk has found so far.
pub(super) fn compare(
    (a, b): (&mut Source, &mut Source),
    (ids, steps): (&[u32], &[Step]),
    (parts, args): (&Parts, &Args),
    mut remarks: Vec<String>,
) -> Result<Report> {
    let graph = &parts.graph;
    let of_a = a.values(graph, steps, None)?;
    let feed = (args.go_on && matches!(b, Source::Live(..))).then_some(&of_a);
    let (of_b, capture) = match &mut *b {
        Source::Live(_, loaded) => live((graph, &mut **loaded), (steps, feed), args, &mut remarks)?,
        Source::Recorded(_, trace) => (trace.values(graph, steps), None),
    };
    let chosen = [of_a.ids(graph.n_vocab), of_b.ids(graph.n_vocab)];
    for (side, name, chosen) in [(&*a, "A", &chosen[0]), (&*b, "B", &chosen[1])] {
        remarks.extend(sampled(side, name, (ids.len(), chosen)));
    }
    let judged = |values: &Values, fed: Option<&Values>, side: &Source, what| {
        judge(parts, Side { steps, values, fed, tolerance: side.tolerance() }, what)
    };
    let measured_b = judged(&of_b, feed, b, "judging B")?;
    let alike = feed.is_none() && a.tolerance() == b.tolerance() && of_a == of_b;
    let measured_a = if alike { measured_b.clone() } else { judged(&of_a, None, a, "judging A")? };
    let [chosen_a, chosen_b] = chosen;
    Ok(Report {
        sides: [a.name().to_owned(), b.name().to_owned()],
        steps: steps.iter().map(|step| step.tokens.len()).collect(),
        rows: why::combine(graph, &measured_a, &measured_b),
        ids: chosen_a.into_iter().zip(chosen_b).map(|(a, b)| [a, b]).collect(),
        capture,
        remarks,
    })
}

/// The values of a backend, and whether it gives them again: with every value captured, each op alone, and unobserved.
fn live(
    (graph, loaded): (&Graph, &mut dyn Loaded),
    (steps, feed): (&[Step], Option<&Values>),
    args: &Args,
    remarks: &mut Vec<String>,
) -> Result<(Values, Option<Capture>)> {
    let values = why::capture(loaded, steps, feed)?;
    // What is made ready at the first run is no cost of watching, and one run may be disturbed.
    let runs = if args.repeat > 1 { args.repeat.max(RUNS) } else { 1 };
    let mut capture = Capture { watched: f64::INFINITY, plain: f64::INFINITY };
    for run in 2..=runs {
        let (again, seconds) = timed(|| why::capture(loaded, steps, feed))?;
        capture.watched = capture.watched.min(seconds);
        if let Some(key) = first_other(graph, &values, &again) {
            remarks.push(format!("race: run {run} of side B differs from the first at {key}"));
            break;
        }
        if feed.is_none() {
            capture.plain = capture.plain.min(unobserved(loaded, (steps, &values), remarks)?);
        }
    }
    if args.isolate {
        let alone = why::capture_alone(loaded, steps, &values)?;
        if let Some(key) = first_other(graph, &values, &alone) {
            remarks.push(format!(
                "race or aliasing: alone, on the same inputs, side B differs at {key}"
            ));
        }
    }
    if feed.is_some() {
        return Ok((values, None));
    }
    if runs < 2 {
        unobserved(loaded, (steps, &values), remarks)?;
    }
    let (picked, chosen) = (why::likeliest(loaded, steps)?, values.ids(graph.n_vocab));
    let other = |i: &usize| chosen[*i].is_some() && chosen[*i] != picked[*i];
    if let Some(step) = (0..steps.len()).find(other) {
        remarks.push(format!(
            "sampling: behind step {step} side B picks {}, its own logits say {}",
            shown(picked[step]),
            shown(chosen[step])
        ));
    }
    Ok((values, capture.plain.is_finite().then_some(capture)))
}

/// Runs the steps as in production, and tells where that gives other logits; the seconds that it took.
fn unobserved(
    loaded: &mut dyn Loaded,
    (steps, values): (&[Step], &Values),
    remarks: &mut Vec<String>,
) -> Result<f64> {
    let (free, seconds) = timed(|| why::logits(loaded, steps))?;
    let seen = |step: usize| values.steps[step].last().and_then(Option::as_ref);
    let differs = |i: &usize| seen(*i).is_some_and(|seen| !same(seen, &free[*i]));
    let said = |remark: &String| remark.starts_with(FREE);
    if let Some(step) = (0..steps.len()).find(differs)
        && !remarks.iter().any(said)
    {
        remarks.push(format!("{FREE} other logits in step {step} than observed"));
    }
    Ok(seconds)
}

fn timed<T>(run: impl FnOnce() -> why::Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let made = run()?;
    Ok((made, start.elapsed().as_secs_f64()))
}

fn shown(id: Option<u32>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

/// Whether a trace went on with what its own logits say.
fn sampled(side: &Source, name: &str, (n, chosen): (usize, &[Option<u32>])) -> Option<String> {
    let Source::Recorded(_, trace) = side else { return None };
    let behind = trace.tokens()?.get(n..)?.iter().zip(chosen).enumerate();
    let other = |(step, (&went, &says)): (usize, (&u32, &Option<u32>))| {
        let says = says.filter(|&says| says != went)?;
        Some(format!(
            "sampling: behind step {step} side {name} went on with {went}, its own logits say {says}"
        ))
    };
    behind.into_iter().find_map(other)
}

fn judge(parts: &Parts, side: Side<'_>, what: &'static str) -> Result<Vec<Measured>> {
    let ops = parts.graph.nodes.iter().filter(|node| node.output.is_some()).count();
    let mut bar = LoadBar::new(what, (ops * side.steps.len()) as u64, Unit::Ops);
    let files = [&parts.file];
    let subject = (&parts.graph, &files[..], parts.options);
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
