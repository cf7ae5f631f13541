//! Faults put into a backend are found where they are, and named; clean runs are all right.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the table is what the test is run for")]

use graph::cases::{self, Case, Tapped};
use graph::ops::rope;
use graph::reference::Reference;
use graph::{Backend, Blocks, LoadOptions, Loaded, Node, Op, RopePairs, Step, Tap, Value};
use std::sync::Arc;
use why::{Kind, Side, Subject, Tolerance, Values, Verdict, capture, combine, judge};

/// Where a fault is made.
struct Place<'a> {
    case: &'a Case,
    step: &'a Step,
    /// The step's values so far, by node.
    seen: &'a [Option<Vec<f32>>],
}

/// A side whose value `name:op` is changed: it computes everything else rightly, from the wrong value on.
fn with_fault(
    case: &Case,
    key: &str,
    steps: &[Step],
    fault: impl FnMut(&Place<'_>, &mut [f32]),
) -> Values {
    struct Faulty<'a, F> {
        case: &'a Case,
        key: &'a str,
        step: &'a Step,
        fault: F,
        seen: Vec<Option<Vec<f32>>>,
    }
    impl<F: FnMut(&Place<'_>, &mut [f32])> Tap for Faulty<'_, F> {
        fn wants(&mut self, _: &Node, _: &Value) -> bool {
            true
        }
        fn value(&mut self, node: &Node, _: &Value, data: &mut [f32]) {
            if self.case.graph.key(node) == self.key {
                let Self { case, step, seen, .. } = self;
                (self.fault)(&Place { case, step, seen }, data);
            }
            let at = self.case.graph.nodes.iter().position(|other| other.output == node.output);
            self.seen[at.unwrap()] = Some(data.to_vec());
        }
    }
    let mut loaded = load(case);
    let mut kv = loaded.new_kv(&Blocks::Each(4)).unwrap();
    let mut values = Values::default();
    let n = case.graph.nodes.len();
    let mut tap = Faulty { case, key, step: &steps[0], fault, seen: vec![None; n] };
    for step in steps {
        tap.step = step;
        loaded.run(step, &mut kv, &mut tap).unwrap();
        values.steps.push(std::mem::replace(&mut tap.seen, vec![None; n]));
    }
    values
}

fn load(case: &Case) -> Box<dyn Loaded> {
    Reference
        .load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {})
        .unwrap()
}

/// A prompt and two tokens behind it.
fn steps(case: &Case) -> Vec<Step> {
    let prompt = &case.prompts[0];
    let n = prompt.len().min(20);
    let mut steps = vec![Step::single(&prompt[..n], 0)];
    for i in 0..2 {
        steps.push(Step::single(&[prompt[i]], (n + i) as u32));
    }
    steps
}

fn rows(case: &Case, steps: &[Step], values: &Values, tolerance: Tolerance) -> Vec<why::Row> {
    let files = [&case.file];
    let subject = Subject { graph: &case.graph, files: &files, options: LoadOptions::default() };
    let side = Side { steps, values, fed: None, tolerance };
    let b = judge(&Reference, subject, side, &mut |_| {}).unwrap();
    combine(&case.graph, &[], &b)
}

#[test]
fn clean_runs_are_right_at_either_tolerance() {
    for case in cases::decoders().unwrap().into_iter().chain(cases::convs().unwrap()) {
        let steps = steps(&case);
        let values = capture(&mut *load(&case), &steps, None).unwrap();
        for tolerance in [Tolerance::Bits, Tolerance::Rounding] {
            let rows = rows(&case, &steps, &values, tolerance);
            let made = case.graph.nodes.iter().filter(|node| node.output.is_some()).count();
            assert_eq!(rows.len(), made * steps.len());
            assert!(rows.iter().all(|row| row.verdict == Verdict::Right), "{}", case.name);
        }
    }
}

/// Runs a fault in every case that has the value; the first blamed op must be it, and its kind what `is` accepts.
fn found(key: &str, is: impl Fn(&Kind) -> bool, mut fault: impl FnMut(&Place<'_>, &mut [f32])) {
    let mut n = 0;
    for case in cases::decoders().unwrap().into_iter().chain(cases::convs().unwrap()) {
        let Some(node) = case.graph.nodes.iter().find(|node| case.graph.key(node) == key) else {
            continue;
        };
        let steps = steps(&case);
        let values = with_fault(&case, key, &steps, &mut fault);
        let rows = rows(&case, &steps, &values, Tolerance::Bits);
        let first = rows.iter().find(|row| row.verdict != Verdict::Right).unwrap();
        assert_eq!(first.verdict, Verdict::WrongHere, "{}", case.name);
        assert_eq!(format!("{}:{}", first.name, first.op), key, "{}", case.name);
        let wrong = first.wrong.as_ref().unwrap();
        assert!(is(&wrong.kind), "{}: {key}: {} ({:?})", case.name, wrong.kind, node.op);
        // What follows is only touched.
        let last = rows.last().unwrap();
        assert_eq!(last.verdict, Verdict::Propagated, "{}: {}", case.name, last.name);
        let blamed = rows.iter().filter(|row| row.verdict == Verdict::WrongHere);
        assert!(blamed.into_iter().all(|row| format!("{}:{}", row.name, row.op) == key));
        n += 1;
    }
    assert!(n > 0, "no case has {key}");
    println!("{key}: found and named in {n} models");
}

#[test]
fn faults_of_any_op_are_named() {
    found("ffn_out-1:MUL_MAT", |k| *k == Kind::Zeros, |_, data| data.fill(0.0));
    found(
        "ffn_out-0:MUL_MAT",
        |k| matches!(k, Kind::ScaleFactor(by) if (by - 0.125).abs() < 1e-6),
        |_, data| {
            data.iter_mut().for_each(|v| *v *= 0.125);
        },
    );
    found("Vcur-1:MUL_MAT", |k| *k == Kind::NotFinite, |_, data| data[5] = f32::NAN);
    found("ffn_out-1:MUL_MAT", |k| *k == Kind::FewElements, |_, data| data[3] += 1.0);
}

#[test]
fn rope_faults_are_named() {
    let turn = |case: &Case, step: &Step, data: &mut [f32], swap: bool, by: i64| {
        // Turned back, then again with the fault.
        let op = case.graph.nodes.iter().find_map(|node| {
            let Op::Rope { table, head_dim, pairs } = node.op else { return None };
            Some((table, head_dim, pairs))
        });
        let (table, head_dim, pairs) = op.unwrap();
        let table = &case.graph.rope_tables[table];
        let other = match pairs {
            RopePairs::Adjacent => RopePairs::Halves,
            RopePairs::Halves => RopePairs::Adjacent,
        };
        let cols = data.len() / step.tokens.len();
        for (row, &p) in data.chunks_mut(cols).zip(&step.positions) {
            let square = (table.mscale * table.mscale) as f32;
            let angles = rope::angles(&table.freqs, table.mscale, p).into_iter();
            let back: Vec<(f32, f32)> = angles.map(|(c, s)| (c / square, -s / square)).collect();
            rope::rope(row, head_dim, pairs, &back);
            let p = u32::try_from(i64::from(p) + by).unwrap_or(0);
            rope::rope(
                row,
                head_dim,
                if swap { other } else { pairs },
                &rope::angles(&table.freqs, table.mscale, p),
            );
        }
    };
    found(
        "Qcur-0:ROPE",
        |k| *k == Kind::PairOrder,
        |at, data| turn(at.case, at.step, data, true, 0),
    );
    found(
        "Qcur-0:ROPE",
        |k| *k == Kind::Position(1),
        |at, data| turn(at.case, at.step, data, false, 1),
    );
}

/// The convolution at a place, written out: with its weights in reverse order, or without the rows of earlier steps.
fn convolved(at: &Place<'_>, past: &[f32], reverse: bool, data: &mut [f32]) {
    let node = |key: &str| at.case.graph.nodes.iter().position(|n| at.case.graph.key(n) == key);
    let Op::SsmConv { w, .. } = at.case.graph.nodes[node("conv-2:SSM_CONV").unwrap()].op else {
        panic!("no convolution")
    };
    let weight = at.case.graph.weight(w);
    let bytes = at.case.file.data(at.case.file.tensor(&weight.name).unwrap()).unwrap();
    let mut all = vec![0.0; weight.n_in * weight.n_out];
    weight.dtype.dequantize(&bytes, &mut all);
    let x = at.seen[node("bx-2:MUL").unwrap()].as_ref().unwrap();
    let (d_conv, cols) = (weight.n_in, weight.n_out);
    let rows = [past, x].concat();
    for (i, y) in data.iter_mut().enumerate() {
        let (t, c) = (past.len() / cols + i / cols, i % cols);
        *y = 0.0;
        for k in 0..d_conv {
            let back = d_conv - 1 - k;
            let w = all[c * d_conv + if reverse { back } else { k }];
            let x = if back <= t { rows[(t - back) * cols + c] } else { 0.0 };
            *y = graph::math::fma(w, x, *y);
        }
    }
}

#[test]
fn faults_of_a_convolution_are_named() {
    let mut past = Vec::new();
    found(
        "conv-2:SSM_CONV",
        |k| *k == Kind::RowOrder,
        |at, data| {
            if at.step.positions[0] == 0 {
                past.clear();
            }
            convolved(at, &past, true, data);
            let bx = at.case.graph.nodes.iter().position(|n| at.case.graph.key(n) == "bx-2:MUL");
            past.extend(at.seen[bx.unwrap()].as_ref().unwrap());
        },
    );
    found("conv-2:SSM_CONV", |k| *k == Kind::NoState, |at, data| convolved(at, &[], false, data));
    found(
        "y-0:MUL",
        |k| *k == Kind::MissingFactor,
        |at, data| {
            let conv =
                at.case.graph.nodes.iter().position(|n| at.case.graph.key(n) == "conv-0:SSM_CONV");
            data.copy_from_slice(at.seen[conv.unwrap()].as_ref().unwrap());
        },
    );
}

/// The laws hold for the reference; where a layer keeps a state, there is no beginning to use again.
#[test]
fn the_reference_keeps_all_laws() {
    for case in &cases::convs().unwrap()[1..3] {
        let mut heard = Vec::new();
        let broken =
            why::laws(&mut *load(case), &case.prompts[0], &mut |law, _| heard.push(law)).unwrap();
        assert!(broken.is_empty() && heard.len() == 5, "{broken:?} {heard:?}");
        assert!(!heard.contains(&why::Law::PrefixReuse));
    }
    let case = &cases::decoders().unwrap()[0];
    let mut heard = 0;
    let broken =
        why::laws(&mut *load(case), &case.prompts[0], &mut |_, holds| heard += usize::from(holds))
            .unwrap();
    assert_eq!((broken, heard), (vec![], 6));
}

/// A law that is broken is told with the first layer that differs.
#[test]
fn a_broken_law_names_the_layer() {
    let case = &cases::decoders().unwrap()[0];
    let at = case.graph.values.iter().position(|value| value.name == "l_out-0").unwrap();
    let cols = case.graph.values[at].cols;
    // A kernel for one row that is wrong; a text in chunks of three has one row left.
    let mut wrong = Tapped::new(load(case), move |node: &Node, _, data: &mut [f32]| {
        if node.output.is_some_and(|v| v.0 == at) && data.len() == cols {
            data[5] += 1.0;
        }
    });
    let broken = why::laws(&mut wrong, &case.prompts[0], &mut |_, _| {}).unwrap();
    let told = |law, position| why::Broken { law, value: "l_out-0".to_owned(), position, col: 5 };
    assert_eq!(broken, [told(why::Law::Chunks(3), 72), told(why::Law::OneByOne, 0)]);
}

/// What was written is read again, bit for bit.
#[test]
fn a_trace_keeps_every_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let case = &cases::decoders().unwrap()[0];
    let steps = steps(case);
    let values = capture(&mut *load(case), &steps, None).unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    why::Trace::write(&mut file, &case.graph, graph::Arithmetic::Int8, &steps, &values).unwrap();
    let trace = why::Trace::open(&path).unwrap();
    assert_eq!(trace.n_steps(), 3);
    assert_eq!(trace.tokens().unwrap().len(), steps.iter().map(|s| s.tokens.len()).sum::<usize>());
    let again = trace.values(&case.graph, &steps);
    assert!(again == values);
}

#[test]
fn what_differs_alone_is_found() {
    let case = &cases::decoders().unwrap()[0];
    let steps = steps(case);
    let differing = |loaded: &mut dyn Loaded| {
        let stream = capture(loaded, &steps, None).unwrap();
        let alone = why::capture_alone(loaded, &steps, &stream).unwrap();
        let nodes = case.graph.nodes.iter().enumerate();
        let differs = |i: &usize| stream.steps[0][*i] != alone.steps[0][*i];
        let keys = nodes.filter(|(i, _)| differs(i)).map(|(_, node)| case.graph.key(node));
        keys.collect::<Vec<_>>()
    };
    assert_eq!(differing(&mut *load(case)), Vec::<String>::new());
    // Gated activations that are wrong when they may be computed with their neighbours.
    let keys = differing(&mut Tapped::new(load(case), |node, isolates, data| {
        if let Op::Glu { .. } = node.op
            && !isolates
        {
            data[1] += 1.0;
        }
    }));
    assert_eq!(keys, ["ffn_swiglu-0:GLU", "ffn_swiglu-1:GLU"]);
}
