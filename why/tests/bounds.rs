//! The bounds of ops in f64: the reference is within them in every format and shape, and one wrong element is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "what was measured is shown")]

use gguf::DType;
use graph::cases::{self, Case};
use graph::reference::Reference;
use graph::{Act, Backend, KvType, LoadOptions, Op, Step, Unary};
use std::sync::Arc;
use why::{Here, Measured, Side, Subject, Tolerance, Values, capture, judge};

fn clean(case: &Case, options: LoadOptions, steps: &[Step]) -> Values {
    let graph = Arc::clone(&case.graph);
    let mut loaded = Reference.load(graph, &[&case.file], options, &mut |_| {}).unwrap();
    capture(&mut *loaded, steps, None).unwrap()
}

fn steps(case: &Case) -> [Step; 1] {
    let n = case.prompts[0].len().min(19);
    let mut step = Step::single(&case.prompts[0][..n], 0);
    step.outputs = (0..n as u32).collect();
    [step]
}

fn measure(case: &Case, options: LoadOptions, side: Side<'_>) -> Vec<Measured> {
    let files = [&case.file];
    let subject = Subject { graph: &case.graph, files: &files, options };
    judge(&Reference, subject, side, &mut |_| {}).unwrap()
}

#[test]
fn the_reference_is_within_every_bound() {
    let mut n = 0;
    let others = graph::seams::unmasked().unwrap().into_iter().chain(cases::experts().unwrap());
    for case in cases::all().unwrap().into_iter().chain(others) {
        for options in cases::options() {
            let steps = steps(&case);
            let values = clean(&case, options, &steps);
            for tolerance in [Tolerance::Bits, Tolerance::Rounding] {
                let side = Side { steps: &steps, values: &values, fed: None, tolerance };
                for measured in measure(&case, options, side) {
                    let key = case.graph.key(&case.graph.nodes[measured.node]);
                    assert_eq!(measured.here, Here::Right, "{} {options:?} {key}", case.name);
                    n += measured.elements;
                }
            }
        }
    }
    println!("{n} elements within their bounds");
    assert!(n > 1_000_000, "{n}");
}

/// What a value's element may at least be moved by, as a share of its row's root mean square, and be found.
fn share(case: &Case, op: &Op, kv: KvType) -> f32 {
    match op {
        Op::MatMul { w } if case.graph.weight(*w).dtype == DType::BF16 => 0.2,
        // An activation at a tie may fall to either side.
        Op::MatMul { .. } | Op::MatMulId { .. } => 0.03,
        Op::Attention(_) if kv == KvType::F16 => 0.1,
        // The mean of thousands, in whatever order they are added.
        Op::LayerNorm(_) => 4e-3,
        Op::Glu { act: Act::GeluTanh } | Op::Unary(Unary::GeluTanh) => 0.01,
        Op::Attention(_)
        | Op::Input
        | Op::GetRows { .. }
        | Op::PositionRows { .. }
        | Op::Unary(_)
        | Op::Add
        | Op::Mul
        | Op::SsmConv { .. }
        | Op::AddBias { .. }
        | Op::Route(_)
        | Op::AddId { .. }
        | Op::Weighted
        | Op::SumSlots { .. }
        | Op::Scale { .. }
        | Op::RmsNorm { .. }
        | Op::Rope { .. }
        | Op::Glu { .. }
        | Op::StoreKv { .. }
        | Op::Columns { .. }
        | Op::HeadColumns { .. }
        | Op::JoinHeads { .. }
        | Op::OutputRows
        | Op::Softcap { .. } => 1e-3,
    }
}

/// One element of every value is moved; every op is fed right values. Each is found, and only that element.
#[test]
fn one_wrong_element_is_outside_its_bound() {
    let mut n = 0;
    for case in cases::all().unwrap().into_iter().chain(cases::experts().unwrap()) {
        for options in cases::options() {
            let steps = steps(&case);
            let right = clean(&case, options, &steps);
            let mut wrong = right.clone();
            let mut moved = Vec::new();
            for (i, node) in case.graph.nodes.iter().enumerate() {
                let (Some(v), Some(value)) = (node.output, &mut wrong.steps[0][i]) else {
                    continue;
                };
                let at = value.len() / 2;
                let cols = case.graph.value(v).cols;
                // Of rows of one column the element itself may all but cancel: then all rows say how large such values are.
                let row = if cols == 1 { &value[..] } else { &value[at / cols * cols..][..cols] };
                let rms = (row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32).sqrt();
                if rms.is_finite() && rms > 0.0 {
                    value[at] += rms * share(&case, &node.op, options.kv);
                    moved.push((i, at / cols, at % cols));
                }
            }
            let tolerance = Tolerance::Rounding;
            let side = Side { steps: &steps, values: &wrong, fed: Some(&right), tolerance };
            let measured = measure(&case, options, side);
            for (node, row, col) in moved {
                let key = case.graph.key(&case.graph.nodes[node]);
                let found = measured.iter().find(|m| m.node == node).unwrap();
                let Here::Wrong(wrong) = &found.here else {
                    panic!("{} {options:?} {key}: {:?}", case.name, found.here)
                };
                let worst = &wrong.worst[0];
                assert_eq!((wrong.elements, worst.row, worst.col), (1, row, col), "{key}");
                n += 1;
            }
        }
    }
    println!("{n} single elements found");
    assert!(n > 1000, "{n}");
}
