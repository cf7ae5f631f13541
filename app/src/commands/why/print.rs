//! The report of `karat why` as people read it.

use crate::out::{Controls, Out};
use anyhow::Result;
use graph::Step;
use karat::Parts;
use karat::text;
use std::io::IsTerminal;
use why::{Report, Row, Verdict, Wrong};

/// Faults that are printed in full.
const SHOWN: usize = 20;

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

pub(super) fn print(report: &Report, all: bool, parts: &Parts, steps: &[Step]) -> Result<()> {
    // Colours are escapes, which `Out` would show; nothing printed here comes from a file but for checked names.
    let paint = Paint(std::io::stdout().is_terminal());
    let mut out = Out::new(Controls::Raw);
    let [a, b] = &report.sides;
    out.line(&format!("sides    A {a}"))?;
    out.line(&format!("         B {b}"))?;
    counts(&mut out, report)?;
    ids(&mut out, report, parts)?;
    if let Some(why::Capture { watched, plain }) = report.capture {
        let (ratio, ms) = (watched / plain, |s: f64| s * 1e3);
        out.line(&format!(
            "capture  {ratio:.2} times a plain run of side B: {:.1} ms, {:.1} ms",
            ms(watched),
            ms(plain)
        ))?;
    }
    for remark in &report.remarks {
        out.line(&format!("also     {remark}"))?;
    }
    for row in report.rows.iter().filter(|_| all) {
        out.line(&line(row, paint))?;
    }
    for row in report.faults().take(if all { 0 } else { SHOWN }) {
        out.line(&line(row, paint))?;
    }
    let more = report.faults().count().saturating_sub(SHOWN);
    if more > 0 && !all {
        out.line(&format!("  and {more} more: --ops prints all"))?;
    }
    if let Some(Row { wrong: Some(wrong), name, op, verdict, .. }) = report.faults().next() {
        out.line(&format!("\nthe first: {}:{op}", text::one_line(name)))?;
        if *verdict == Verdict::ReferenceOff {
            out.line(
                "  side B is right; this is side A, or karat's reference, against the op in f64",
            )?;
        }
        detail(&mut out, wrong)?;
        let prompt: Vec<u32> = steps[0].tokens.clone();
        let pieces = |id: &u32| text::quoted(parts.tokenizer.piece(*id));
        let near: Vec<String> = prompt.iter().take(8).map(pieces).collect();
        out.line(&format!("  prompt     {}", near.join(" ")))?;
    }
    Ok(())
}

/// Verdicts, and what was looked at.
fn counts(out: &mut Out, report: &Report) -> Result<()> {
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
    let (checked, elements) = report.checked();
    out.line(&format!(
        "ops      {} in steps of {} tokens: {}",
        report.rows.len(),
        tokens.join(" + "),
        counts.join(", ")
    ))?;
    out.line(&format!(
        "         {checked} of {elements} elements checked, {} %",
        100.0 * checked as f64 / elements.max(1) as f64
    ))?;
    Ok(())
}

/// What each side would go on with.
fn ids(out: &mut Out, report: &Report, parts: &Parts) -> Result<()> {
    let piece = |id: Option<u32>| {
        id.map_or_else(
            || "none".to_owned(),
            |id| format!("{id} {}", text::quoted(parts.tokenizer.piece(id))),
        )
    };
    let differs = report.ids.iter().position(|[a, b]| a != b);
    let said = match differs {
        None => {
            let ids: Vec<String> = report.ids.iter().map(|[a, _]| piece(*a)).collect();
            format!("both sides go on with {}", ids.join(", "))
        }
        Some(step) => {
            let [a, b] = report.ids[step];
            format!("behind step {step} A goes on with {}, B with {}", piece(a), piece(b))
        }
    };
    Ok(out.line(&format!("ids      {said}"))?)
}

fn line(row: &Row, paint: Paint) -> String {
    let what = row.wrong.as_ref().map_or_else(String::new, |wrong| format!("  {wrong}"));
    let name = format!("{}:{}", text::one_line(&row.name), row.op);
    format!("  step {:<3} {name:<28} {}{what}", row.step, paint.verdict(row.verdict))
}

fn detail(out: &mut Out, wrong: &Wrong) -> Result<()> {
    out.line(&format!("  kind       {} ({})", wrong.kind, wrong.sureness))?;
    out.line(&format!("  elements   {} wrong, {} not finite", wrong.elements, wrong.not_finite))?;
    for worst in &wrong.worst {
        out.line(&format!(
            "  [{:>4}, {:>5}] {:>15}, right {:>15}; in f64 {:>16} ± {}",
            worst.row, worst.col, worst.found, worst.right, worst.exact, worst.bound
        ))?;
    }
    Ok(())
}
