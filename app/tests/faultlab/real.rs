//! The lab on whole models: made ones of every architecture and format, and SmolLM2 with llama.cpp's traces.

use crate::faults::{Fault, Make, twelve};
use crate::oracle_support::{Oracle, variants};
use crate::side::{WrongReference, doctored, faulty, switched};
use crate::{backends, measure, tell};
use cpu::Cpu;
use gguf::{Access, DType, File};
use graph::cases::Case;
use graph::reference::Reference;
use graph::{Arithmetic, Backend, KvType, LoadOptions, Node, Op, Step};
use model::synth::{Request, Shape, synth};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use why::{Here, Side, Tolerance, Trace, Verdict, capture, combine};

/// The prompt that the traces were recorded of.
const FRANCE: &str = "france";

fn case(path: &Path, ids: Vec<u32>) -> Case {
    let file = File::open(path, Access::Mmap).unwrap();
    let spec = model::spec(&file).unwrap();
    let graph = Arc::new(model::graph(&spec, &file).unwrap());
    let name = path.display().to_string();
    Case { name, graph, file, prompts: vec![ids], first_position: 0 }
}

/// Whether all that a backend computes is right.
fn is_right(backend: &dyn Backend, case: &Case, steps: &[Step]) -> bool {
    let options = LoadOptions::default();
    let mut loaded =
        backend.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
    let values = capture(&mut *loaded, steps, None).unwrap();
    let side = Side { steps, values: &values, fed: None, tolerance: Tolerance::Bits };
    let measured = measure(&Reference, (&case.graph, &case.file, options), side);
    measured.iter().all(|m| m.here == Here::Right)
}

/// Clean runs of a made model of every architecture in turn, in every format.
pub(crate) fn made_models() -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.gguf");
    let mut n = 0;
    for (i, format) in model::synth::Format::names().into_iter().enumerate() {
        for arch in model::arch::ARCHS.iter().skip(i % 4).step_by(4) {
            let shape = model::synth::small(arch.name).unwrap();
            let request = Request {
                arch: arch.name,
                shape: Shape { n_layer: 2, n_vocab: 300, ..shape },
                experts: model::synth::ExpertNumbers::default(),
                format: format.parse().unwrap(),
                seed: 1,
                existing: model::output::Existing::Replace,
                threads: NonZero::new(2).unwrap(),
            };
            synth(&request, &path, |_| ControlFlow::Continue(())).unwrap();
            let case = case(&path, (0..12).map(|i| 7 + i * 13).collect());
            let steps = [Step::single(&case.prompts[0], 0), Step::single(&[9], 12)];
            assert!(is_right(&Cpu::new(2), &case, &steps), "{} in {format}", arch.name);
            n += 1;
        }
    }
    n
}

/// Clean runs of SmolLM2 in every format on every fast backend, and as llama.cpp computed it.
pub(crate) fn real_models() -> usize {
    let Some(oracle) = Oracle::find() else { return 0 };
    let (mut n, backends) = (0, backends());
    for (name, path) in variants(&oracle) {
        let ids = oracle.cases(&name).into_iter().find(|(case, _)| case.ends_with(FRANCE));
        let ids = ids.unwrap().1.tokens;
        let case = case(&path, ids.clone());
        let steps = [Step::single(&ids, 0), Step::single(&[7042], ids.len() as u32)];
        for (backend_name, backend) in backends.iter().skip(1) {
            assert!(is_right(&**backend, &case, &steps), "{name} on {backend_name}");
            n += 1;
        }
    }
    let models: BTreeMap<_, _> = variants(&oracle).into_iter().collect();
    for (name, recorded, arithmetic, kv) in [
        ("Q4_K_M", "Q4_K_M", Arithmetic::Int8, KvType::F16),
        ("Q5_K_M", "Q5_K_M", Arithmetic::Int8, KvType::F16),
        ("Q6_K", "Q6_K", Arithmetic::Int8, KvType::F16),
        ("Q8_0", "Q8_0", Arithmetic::Int8, KvType::F16),
        ("F32", "f32", Arithmetic::F32, KvType::F16),
        ("F32", "f32-noflash-f32kv", Arithmetic::F32, KvType::F32),
    ] {
        let trace = trace(&oracle, recorded);
        let case = case(&models[name], ids(&oracle, name));
        let steps = [Step::single(&case.prompts[0], 0)];
        let values = trace.values(&case.graph, &steps);
        let side =
            Side { steps: &steps, values: &values, fed: None, tolerance: Tolerance::Rounding };
        let options = LoadOptions { arithmetic, kv };
        let measured = measure(&Reference, (&case.graph, &case.file, options), side);
        assert!(measured.iter().all(|m| m.here == Here::Right), "llama.cpp, {recorded}");
        n += 1;
    }
    n
}

fn trace(oracle: &Oracle, name: &str) -> Trace {
    Trace::open(&oracle.dir.join(format!("traces/smollm2-{name}-{FRANCE}.safetensors"))).unwrap()
}

fn ids(oracle: &Oracle, variant: &str) -> Vec<u32> {
    let mut cases = oracle.all_cases();
    cases.find(|(case, _)| *case == format!("{variant}/{FRANCE}")).unwrap().1.tokens
}

/// SmolLM2 in Q4_K_M, with llama.cpp's trace of it, and the seed's twelve faults.
struct Seed {
    case: Arc<Case>,
    steps: Vec<Step>,
    trace: Trace,
    faults: Vec<Fault>,
}

fn seed() -> Option<Seed> {
    let oracle = Oracle::find()?;
    let models: BTreeMap<_, _> = variants(&oracle).into_iter().collect();
    let case = case(&models["Q4_K_M"], ids(&oracle, "Q4_K_M"));
    let steps = vec![Step::single(&case.prompts[0], 0)];
    let graph = Arc::clone(&case.graph);
    let mut from = 0;
    let mut of = |dtype: DType| -> &'static str {
        let has = |node: &Node| {
            let Op::MatMul { w } = node.op else { return false };
            graph.weight(w).dtype == dtype && graph.key(node).starts_with("ffn_out-")
        };
        let at = (from..graph.nodes.len()).find(|&i| has(&graph.nodes[i])).unwrap();
        from = at + 1;
        graph.key(&graph.nodes[at]).leak()
    };
    let faults = twelve(&mut of);
    Some(Seed { case: Arc::new(case), steps, trace: trace(&oracle, "Q4_K_M"), faults })
}

/// Ten of the twelve were shared by both backends. Switched on in both at once they have the same bits, so that holding
/// one against the other finds nothing; llama.cpp's trace names the op.
#[test]
fn what_both_backends_share_is_found_against_llama_cpp() {
    let Some(Seed { case, steps, trace, faults }) = seed() else { return };
    let (options, right) = (LoadOptions::default(), trace.values(&case.graph, &steps));
    let backends = backends();
    for fault in faults.iter().filter(|fault| !fault.name.starts_with("8 ")) {
        let start = Instant::now();
        let on = |backend: &dyn Backend| faulty(backend, &case, &steps, &[*fault]);
        let mut sides = backends.iter().skip(1).map(|(_, backend)| on(&**backend));
        let first = sides.next().unwrap();
        assert!(sides.all(|side| side == first), "{}: both compute the same", fault.name);
        // The reference and the weights and graph that it is given are wrong, too.
        let (graph, file) = doctored(&case, &[*fault]);
        let subject = (&Arc::new(graph), file.as_ref().unwrap_or(&case.file), options);
        let wrong = WrongReference { case: Arc::clone(&case), faults: vec![*fault] };
        let tolerance = Tolerance::Rounding;
        let side = Side { steps: &steps, values: &right, fed: None, tolerance };
        let rows = combine(&case.graph, &[], &measure(&wrong, subject, side));
        // Where weights or graph are wrong llama.cpp is the one that is blamed: what is its kind then is not the fault's.
        tell(&Fault { kind: "", ..*fault }, "all, llama.cpp", (&rows, start));
    }
}

/// All twelve at once, in one run that goes on after each finding: the token ids are compared before any op, and then
/// every op is fed llama.cpp's values. Each is blamed, and nothing else.
#[test]
fn the_twelve_appear_in_one_continued_run() {
    let Some(Seed { case, steps, trace, faults }) = seed() else { return };
    let options = LoadOptions::default();
    let right = trace.values(&case.graph, &steps);
    let (of_ids, of_ops): (Vec<Fault>, Vec<Fault>) =
        faults.iter().partition(|fault| matches!(fault.make, Make::Steps(_)));
    for fault in &of_ids {
        let mut wrong = steps.clone();
        let Make::Steps(edit) = fault.make else { continue };
        edit(&mut wrong);
        let theirs = trace.tokens().unwrap_or(&case.prompts[0]);
        let other = |(ours, theirs): (&u32, &u32)| ours != theirs;
        let at = wrong[0].tokens.iter().zip(theirs).position(other);
        println!("{:<10} {:<36} token {}", "all", fault.name, at.unwrap());
    }
    let mut named = of_ids.len();
    let backends = backends();
    for (name, backend) in &backends {
        let mut loaded = switched(&**backend, (&case, options), &of_ops);
        let values = capture(&mut loaded, &steps, Some(&right)).unwrap();
        let tolerance = Tolerance::Bits;
        let side = Side { steps: &steps, values: &values, fed: Some(&right), tolerance };
        let measured = measure(&Reference, (&case.graph, &case.file, options), side);
        let rows = combine(&case.graph, &[], &measured);
        let mut of = |fault: &Fault| {
            let row = rows.iter().find(|row| format!("{}:{}", row.name, row.op) == fault.op);
            let row = row.unwrap();
            assert_eq!(row.verdict, Verdict::WrongHere, "{} on {name}", fault.name);
            let kind = row.wrong.as_ref().unwrap().kind.to_string();
            named += usize::from(kind.contains(fault.kind));
            println!("{name:<10} {:<36} {:<26} {kind}", fault.name, fault.op);
        };
        of_ops.iter().for_each(&mut of);
        let blamed = rows.iter().filter(|row| row.verdict == Verdict::WrongHere).count();
        assert_eq!(blamed, of_ops.len(), "{name}");
    }
    let all = of_ids.len() + of_ops.len() * backends.len();
    println!("twelve faults at once: all found, {named} of {all} kinds named");
    assert!(faults.len() == 12 && named * 10 >= all * 9, "{named} of {all}");
}
