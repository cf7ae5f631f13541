//! The fault lab: faults of `FAULTS.md`'s classes switched on in the reference, the CPU and the GPU backend; `karat why`
//! must name the op of every one, and the kind of nine in ten. It is a test, and behind the feature `faultlab`, so that
//! no release build can hold a fault. `cargo xtask faultlab` prints the table.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the table is what the lab is run for")]
#![allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]

mod faults;
#[path = "../oracle_support/mod.rs"]
mod oracle_support;
mod real;
mod side;

use cpu::Cpu;
use faults::{DOWN, FAULTS, Fault, X, fault};
use graph::cases::{self, Case};
use graph::reference::Reference;
use graph::{Arithmetic, Backend, Blocks, KvType, LoadOptions, NoTap, Step};
use side::{WrongReference, faulty};
use std::sync::Arc;
use std::time::Instant;
use why::{Here, Measured, Row, Side, Tolerance, Values, Verdict, capture, combine, judge};

/// What is judged, and by whom.
type Subject<'a> = (&'a Arc<graph::Graph>, &'a gguf::File, LoadOptions);

fn measure(oracle: &dyn Backend, subject: Subject<'_>, side: Side<'_>) -> Vec<Measured> {
    let (graph, file, options) = subject;
    let files = [file];
    judge(oracle, why::Subject { graph, files: &files, options }, side, &mut |_| {}).unwrap()
}

/// A prompt of 40 tokens and three behind it.
fn steps(case: &Case) -> Vec<Step> {
    let ids: Vec<u32> = case.prompts[0].iter().copied().cycle().take(43).collect();
    let mut steps = vec![Step::single(&ids[..40], 0)];
    steps[0].outputs = (0..40).collect();
    steps.extend((40..43).map(|i| Step::single(&ids[i..=i], i as u32)));
    steps
}

/// A side of ours, judged by a reference.
fn rows(oracle: &dyn Backend, case: &Case, steps: &[Step], values: &Values) -> Vec<Row> {
    let subject = (&case.graph, &case.file, LoadOptions::default());
    let side = Side { steps, values, fed: None, tolerance: Tolerance::Bits };
    combine(&case.graph, &[], &measure(oracle, subject, side))
}

/// The reference, the CPU and every GPU.
fn backends() -> Vec<(&'static str, Box<dyn Backend>)> {
    let mut all: Vec<(&str, Box<dyn Backend>)> =
        vec![("reference", Box::new(Reference)), ("cpu", Box::new(Cpu::new(2)))];
    match gpu::adapters(gpu::Api::Any).first() {
        Some(adapter) => all.push(("gpu", Box::new(adapter.open(2).unwrap()))),
        None => {
            assert!(std::env::var_os("CI").is_none(), "no GPU device, and CI is set");
            oracle_support::skip::say_skipped("faults on a GPU: there is none");
        }
    }
    all
}

/// A line of the table; whether the kind was named, too.
fn tell(fault: &Fault, backend: &str, (rows, start): (&[Row], Instant)) -> bool {
    let blamed = |row: &&Row| matches!(row.verdict, Verdict::WrongHere | Verdict::ReferenceOff);
    let first = rows.iter().find(blamed);
    let first = first.unwrap_or_else(|| panic!("{}: nothing found", fault.name));
    let key = format!("{}:{}", first.name, first.op);
    let kind = first.wrong.as_ref().unwrap().kind.to_string();
    let right = kind.to_lowercase().contains(&fault.kind.to_lowercase());
    println!(
        "{:<36} {:<5} {backend:<14} {key:<26} {:<13} {kind:<50} {:.2}{}",
        fault.name,
        fault.class,
        first.verdict.name(),
        start.elapsed().as_secs_f64(),
        if right { "" } else { "  <- other kind" }
    );
    assert_eq!(key, fault.op, "{} on {backend}", fault.name);
    right
}

/// Every fault in every backend, and in the reference that judges a right one.
#[test]
fn every_fault_is_found_and_nine_in_ten_are_named() {
    let (mut runs, mut named) = (0, 0);
    let cases: Vec<Arc<Case>> = cases::decoders().unwrap().into_iter().map(Arc::new).collect();
    println!(
        "{:<36} class {:<14} {:<26} {:<13} {:<50} seconds",
        "fault", "backend", "found op", "verdict", "found kind"
    );
    assert!(FAULTS.len() >= 40, "{}", FAULTS.len());
    let backends = backends();
    for fault in FAULTS {
        // Positions of the cases far out are not those of the lab's steps; each fault takes the first that has its op.
        let fits = |case: &&Arc<Case>| {
            case.first_position == 0
                && case.name.contains(fault.only)
                && case.graph.nodes.iter().any(|node| case.graph.key(node) == fault.op)
        };
        let far = |case: &&Arc<Case>| case.name.contains(fault.only);
        let case = cases.iter().find(fits).or_else(|| cases.iter().find(far)).unwrap();
        let steps = steps(case);
        let mut heard = |right: bool| (runs, named) = (runs + 1, named + usize::from(right));
        for (name, backend) in &backends {
            let start = Instant::now();
            let values = faulty(&**backend, case, &steps, &[*fault]);
            let rows = rows(&Reference, case, &steps, &values);
            assert_eq!(rows.iter().filter(|r| r.verdict == Verdict::ReferenceOff).count(), 0);
            heard(tell(fault, name, (&rows, start)));
        }
        // Class K: the CPU backend is right, and what it is judged by is not.
        let start = Instant::now();
        let values = faulty(&Cpu::new(2), case, &steps, &[]);
        let wrong = WrongReference { case: Arc::clone(case), faults: vec![*fault] };
        let rows = rows(&wrong, case, &steps, &values);
        let spared = |row: &Row| matches!(row.verdict, Verdict::Right | Verdict::ReferenceOff);
        assert!(rows.iter().all(spared), "{}: a right side is blamed", fault.name);
        heard(tell(fault, "judge (K)", (&rows, start)));
    }
    println!(
        "{} faults, {runs} runs: the op named in all, the kind in {named} ({:.1} %)",
        FAULTS.len(),
        100.0 * named as f64 / runs as f64
    );
    assert!(named * 10 >= runs * 9, "{named} of {runs} kinds");
}

/// A fault in the trusted side is told as that.
#[test]
fn a_wrong_side_a_is_told_apart() {
    let case = Arc::new(cases::decoders().unwrap().remove(0));
    let steps = steps(&case);
    let subject = (&case.graph, &case.file, LoadOptions::default());
    let clean = faulty(&Cpu::new(1), &case, &steps, &[]);
    let wrong = faulty(&Cpu::new(1), &case, &steps, &FAULTS[..1]);
    let of = |values: &Values| {
        let side = Side { steps: &steps, values, fed: None, tolerance: Tolerance::Bits };
        measure(&Reference, subject, side)
    };
    let rows = combine(&case.graph, &of(&wrong), &of(&clean));
    let off: Vec<&Row> = rows.iter().filter(|row| row.verdict != Verdict::Right).collect();
    assert!(off.iter().all(|row| row.verdict == Verdict::ReferenceOff && row.name == "ffn_out-1"));
    assert!(off.iter().all(|row| row.wrong.is_some()), "how A is wrong is told");
    assert_eq!(off.len(), steps.len());
}

/// A side and the reference that are wrong alike are both wrong: f64 says so.
#[test]
fn a_fault_of_the_side_and_the_reference_is_the_side_s() {
    let case = Arc::new(cases::decoders().unwrap().remove(0));
    let steps = steps(&case);
    let values = faulty(&Cpu::new(1), &case, &steps, &FAULTS[..1]);
    let wrong = WrongReference { case: Arc::clone(&case), faults: FAULTS[..1].to_vec() };
    let rows = rows(&wrong, &case, &steps, &values);
    let first = rows.iter().find(|row| row.verdict != Verdict::Right).unwrap();
    assert_eq!((first.verdict, first.name.as_str()), (Verdict::WrongHere, "ffn_out-1"));
    assert_eq!(first.wrong.as_ref().unwrap().kind, why::Kind::Zeros);
}

/// A race is a difference between two runs, and fed rightly the ops behind a fault are right again.
#[test]
fn races_and_feeding() {
    let case = &Arc::new(cases::decoders().unwrap().remove(0));
    let steps = steps(case);
    let racy = fault(
        'C',
        "race",
        (DOWN, ""),
        X(|s, d| {
            if s.calls.is_multiple_of(2) {
                d[0] += 1.0
            }
        }),
    );
    let one = faulty(&Reference, case, &steps, &[racy]);
    let clean = faulty(&Reference, case, &steps, &[]);
    assert!(one != clean);
    let subject = (&case.graph, &case.file, LoadOptions::default());
    let mut loaded = Reference
        .load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {})
        .unwrap();
    let fed = capture(&mut *loaded, &steps, Some(&one)).unwrap();
    let side = Side { steps: &steps, values: &fed, fed: Some(&one), tolerance: Tolerance::Bits };
    assert!(measure(&Reference, subject, side).iter().all(|m| m.here == Here::Right));
}

/// No false alarm: small graphs with every op, made models of every architecture and format, and the real one.
#[test]
fn clean_runs_are_all_right() {
    let mut clean = 0;
    for (name, backend) in backends() {
        for case in cases::decoders().unwrap() {
            for arithmetic in Arithmetic::ALL {
                let options = LoadOptions { arithmetic, kv: KvType::F16 };
                let steps = steps(&case);
                let mut loaded = backend
                    .load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {})
                    .unwrap();
                let values = capture(&mut *loaded, &steps, None).unwrap();
                let side =
                    Side { steps: &steps, values: &values, fed: None, tolerance: Tolerance::Bits };
                let subject = (&case.graph, &case.file, options);
                let measured = measure(&Reference, subject, side);
                assert!(measured.iter().all(|m| m.here == Here::Right), "{name}: {}", case.name);
                // Unobserved, with all that is fused, the logits are the same.
                let mut kv = loaded.new_kv(&Blocks::Each(4)).unwrap();
                for (step, seen) in steps.iter().zip(&values.steps) {
                    let logits = loaded.run(step, &mut kv, &mut NoTap).unwrap();
                    assert_eq!(
                        seen.last().unwrap().as_ref(),
                        Some(&logits),
                        "{name}: {}",
                        case.name
                    );
                }
                clean += 1;
            }
        }
    }
    let (made, real) = (real::made_models(), real::real_models());
    println!(
        "{} clean runs, no false alarm: {clean} of small graphs, {made} of made models of every architecture and \
         format, {real} of SmolLM2 in seven formats, six runs as llama.cpp computed them",
        clean + made + real
    );
    assert!(clean + made >= 50, "{clean} and {made}");
}
