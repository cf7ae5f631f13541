//! Two backends compared, as a Rust program does it: sides that agree, an op that is wrong, and a side that is not the same
//! in each run, alone, or unobserved.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use graph::cases::{self, Case, Tapped};
use graph::reference::Reference;
use graph::{Backend, LoadOptions, Loaded};
use std::sync::Arc;
use why::{Judged, Report, Source, Subject, Thoroughness, Verdict, common_steps, compare};

const OP: &str = "ffn_out-0:MUL_MAT";

fn case() -> Case {
    let is_whole = |case: &Case| case.graph.nodes.iter().any(|node| case.graph.key(node) == OP);
    cases::decoders().unwrap().into_iter().find(is_whole).unwrap()
}

fn load(case: &Case) -> Box<dyn Loaded> {
    let options = LoadOptions::default();
    Reference.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap()
}

fn live(name: &str, loaded: Box<dyn Loaded>) -> Source {
    Source::Live { name: name.to_owned(), loaded }
}

/// A side that adds 1 to an element of [`OP`] whenever `wrong` says so, which is told how often the op ran before and
/// whether it was isolated.
fn faulty(case: &Case, wrong: impl Fn(usize, bool) -> bool + Send + 'static) -> Source {
    let (graph, mut ran) = (Arc::clone(&case.graph), 0);
    let tapped = Tapped::new(load(case), move |node, isolated, data: &mut [f32]| {
        if graph.key(node) == OP {
            data[0] += if wrong(ran, isolated) { 1.0 } else { 0.0 };
            ran += 1;
        }
    });
    live("faulty", Box::new(tapped))
}

/// The report on a prompt of 12 tokens and two behind it, and what was heard last.
fn report(case: &Case, b: &mut Source, thoroughness: Thoroughness) -> (Report, Judged) {
    let mut a = live("reference", load(case));
    let steps = common_steps(&case.graph, &mut a, b, &case.prompts[0][..12], 2).unwrap();
    let files = [&case.file];
    let subject = Subject { graph: &case.graph, files: &files, options: LoadOptions::default() };
    let mut last = Judged { done: 0, total: 0 };
    let mut heard = |judged: Judged| {
        assert_eq!(judged.done, last.done + 1);
        last = judged;
    };
    let report = compare(subject, [&mut a, b], &steps, thoroughness, &mut heard).unwrap();
    assert_eq!(report.steps, [12, 1, 1]);
    (report, last)
}

fn made(case: &Case) -> usize {
    3 * case.graph.nodes.iter().filter(|node| node.output.is_some()).count()
}

#[test]
fn sides_that_agree_are_right_and_judged_once() {
    let case = case();
    let thorough = Thoroughness { isolate: true, ..Thoroughness::default() };
    let (report, heard) = report(&case, &mut live("other", load(&case)), thorough);
    assert!(report.all_right(), "{:?}", report.remarks);
    assert_eq!(report.sides, ["reference", "other"]);
    assert!(report.ids.iter().all(|[a, b]| a == b && a.is_some()), "{:?}", report.ids);
    assert!(report.capture.is_some());
    assert_eq!(heard, Judged { done: made(&case), total: made(&case) });
}

#[test]
fn a_wrong_op_is_blamed_and_what_runs_unobserved_is_another_thing() {
    let case = case();
    let (report, heard) = report(&case, &mut faulty(&case, |_, _| true), Thoroughness::default());
    let blamed: Vec<String> =
        report.faults().map(|row| format!("{}:{} of {}", row.name, row.op, row.step)).collect();
    assert_eq!(blamed, [0, 1, 2].map(|step| format!("{OP} of {step}")));
    assert!(report.faults().all(|row| row.verdict == Verdict::WrongHere));
    // The fault is in what the tap sees: a production step has none.
    let remark = "fusion or race: unobserved, side B gives other logits in step 0 than observed";
    assert_eq!(report.remarks[0], remark);
    assert_eq!(heard, Judged { done: 2 * made(&case), total: 2 * made(&case) });
}

#[test]
fn fed_with_the_right_values_only_the_op_itself_is_wrong() {
    let case = case();
    let thoroughness = Thoroughness { feed: true, ..Thoroughness::default() };
    let (report, _) = report(&case, &mut faulty(&case, |_, _| true), thoroughness);
    assert_eq!(report.count(Verdict::WrongHere), 3);
    assert!(report.capture.is_none() && report.remarks.is_empty(), "{:?}", report.remarks);
}

#[test]
fn a_second_run_with_other_bits_is_a_race() {
    let case = case();
    // Three steps are the first run.
    let mut b = faulty(&case, |ran, _| ran >= 3);
    let (report, _) = report(&case, &mut b, Thoroughness::default());
    assert_eq!(report.faults().count(), 0);
    assert_eq!(
        report.remarks[0],
        format!("race: run 2 of side B differs from the first at {OP} of step 0")
    );
    let mut b = faulty(&case, |ran, _| ran >= 3);
    let once = Thoroughness { runs: 1, ..Thoroughness::default() };
    assert!(self::report(&case, &mut b, once).0.all_right());
}

#[test]
fn an_op_that_is_another_alone_is_told() {
    let case = case();
    let thoroughness = Thoroughness { isolate: true, runs: 1, feed: false };
    let (report, _) = report(&case, &mut faulty(&case, |_, isolated| isolated), thoroughness);
    let remark =
        format!("race or aliasing: alone, on the same inputs, side B differs at {OP} of step 0");
    assert_eq!(report.remarks, [remark]);
}
