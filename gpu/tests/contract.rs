//! The contract on every device of the machine: every op, format, arithmetic, cache and cut of the prompts gives the
//! reference's bits. Without a device the tests say so and pass; with `CI` set they fail.
//!
//! `KARAT_GPU_SHARE=n` runs every n-th case, `KARAT_GPU_DEVICE=text` the devices whose name holds the text,
//! `KARAT_GPU_CASE=text` the cases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "what was skipped, and how much was run, is shown")]

mod few;

use few::Few;
use gguf::DType;
use gpu::record::{Call, GUARD};
use gpu::{Api, Gpu};
use graph::cases::{self, Case, Cut, Tapped};
use graph::compare::Recording;
use graph::reference::Reference;
use graph::{Backend, KvType, LoadOptions};
use std::sync::Arc;
use std::time::Instant;

#[allow(clippy::disallowed_methods, reason = "a test has no app::config")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn devices() -> Vec<Gpu> {
    let wanted = env("KARAT_GPU_DEVICE").unwrap_or_default();
    let mut devices = Vec::new();
    for adapter in gpu::adapters(Api::Any) {
        let info = adapter.info();
        if !info.name.contains(&wanted) {
            println!("skipped: {} (KARAT_GPU_DEVICE)", info.name);
            continue;
        }
        let gpu = adapter.open(2).unwrap_or_else(|e| panic!("{}: {e}", info.name));
        println!("{}: {:?}", gpu.name(), gpu.probes());
        devices.push(gpu);
    }
    if devices.is_empty() {
        assert!(env("CI").is_none(), "no GPU device, not even a software one, and CI is set");
        println!("skipped: no GPU device");
    }
    devices
}

fn share(cases: Vec<Case>) -> impl Iterator<Item = Case> {
    let every = env("KARAT_GPU_SHARE").and_then(|n| n.parse().ok()).unwrap_or(1);
    let wanted = env("KARAT_GPU_CASE").unwrap_or_default();
    if every > 1 || !wanted.is_empty() {
        println!("skipped: cases other than one of {every} with \"{wanted}\" in their name");
    }
    cases.into_iter().filter(move |case| case.name.contains(&wanted)).step_by(every)
}

fn record(backend: &dyn Backend, case: &Case, options: LoadOptions, cut: Cut) -> Recording {
    let mut loaded =
        backend.load(Arc::clone(&case.graph), &case.file, options, &mut |_| {}).unwrap();
    let recording =
        case.record(loaded.as_mut(), cut).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    assert!(!recording.is_empty());
    recording
}

/// Runs all cases on all devices and prints the sum for each.
fn check(cases: Vec<Case>, cuts: &[Cut]) {
    let devices = devices();
    let mut runs = vec![(0, 0.0); devices.len()];
    let mut wrong = Vec::new();
    for case in share(cases) {
        if devices.is_empty() {
            return;
        }
        for options in cases::options() {
            let expected = record(&Reference, &case, options, Cut::Batch(512));
            for (gpu, (runs, seconds)) in devices.iter().zip(&mut runs) {
                for &cut in cuts {
                    let start = Instant::now();
                    let got = record(gpu, &case, options, cut);
                    *seconds += start.elapsed().as_secs_f64();
                    *runs += 1;
                    if let Some(difference) = got.first_difference(&expected, &case.graph) {
                        wrong.push(format!(
                            "{}: {} {options:?} {cut:?}: {difference}",
                            gpu.name(),
                            case.name
                        ));
                    }
                }
            }
        }
    }
    for (gpu, (runs, seconds)) in devices.iter().zip(runs) {
        println!("{}: {runs} runs in {seconds:.1} s", gpu.name());
    }
    assert!(wrong.is_empty(), "{} runs differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn products_and_norms_have_the_reference_bits() {
    let products = cases::all().unwrap().into_iter().filter(|c| c.graph.kv_layers.is_empty());
    check(products.collect(), &[Cut::Batch(512)]);
}

#[test]
fn products_of_many_lanes_have_the_reference_bits() {
    for adapter in gpu::adapters(Api::Any) {
        let Some(gpu) = adapter.open_wide(2).unwrap() else {
            println!("skipped: {} has no workgroups of 1024 threads", adapter.info().name);
            continue;
        };
        // Rows of several rounds of blocks, and products of so many rows that each has fewer lanes.
        let mut products = cases::all().unwrap();
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
            products.push(cases::product(dtype, 131 * dtype.block_len(), 48).unwrap());
            products.push(cases::product(dtype, 3 * dtype.block_len(), 8208).unwrap());
        }
        for case in share(products).filter(|case| case.graph.kv_layers.is_empty()) {
            let options = LoadOptions::default();
            let expected = record(&Reference, &case, options, Cut::Batch(512));
            let got = record(&gpu, &case, options, Cut::Chunks(1));
            let difference = got.first_difference(&expected, &case.graph);
            assert_eq!(difference, None, "{}: {}", gpu.name(), case.name);
        }
    }
}

#[test]
fn attention_of_many_lanes_has_the_reference_bits() {
    // Lavapipe ends every loop of a thread after 65535 rounds of all of them, and fma made of integers takes many: far
    // positions are left to real GPUs, which run these kernels in every other test.
    let mut all = cases::decoders().unwrap();
    all.retain(|case| case.first_position < 1000);
    // Heads that fill tiles, and groups that no workgroup takes at once.
    let plain = cases::Decoder {
        dtype: DType::Q8_0,
        n_head: 8,
        n_head_kv: 2,
        head_dim: 128,
        pairs: graph::RopePairs::Halves,
        window: None,
        softcap: None,
        act: graph::Act::Silu,
        size: 1.0,
        first_position: 0,
    };
    for spec in [
        plain,
        cases::Decoder { n_head: 40, n_head_kv: 1, head_dim: 36, window: Some(37), ..plain },
        cases::Decoder { n_head: 2, head_dim: 196, softcap: Some(3.0), ..plain },
        cases::Decoder { n_head: 3, n_head_kv: 1, head_dim: 256, window: Some(60), ..plain },
        cases::Decoder { n_head: 4, head_dim: 132, first_position: 400, window: Some(99), ..plain },
    ] {
        all.push(cases::decoder(spec).unwrap());
    }
    let all: Vec<Case> = share(all).collect();
    for adapter in gpu::adapters(Api::Any) {
        let Some(gpu) = adapter.open_wide(2).unwrap() else {
            println!("skipped: {} has no workgroups of 1024 threads", adapter.info().name);
            continue;
        };
        let mut runs = 0;
        for case in &all {
            for kv in [KvType::F16, KvType::F32] {
                let options = LoadOptions { kv, ..LoadOptions::default() };
                let expected = record(&Reference, case, options, Cut::Batch(512));
                for cut in [Cut::Batch(512), Cut::Batch(17), Cut::Chunks(30)] {
                    let got = record(&gpu, case, options, cut);
                    let difference = got.first_difference(&expected, &case.graph);
                    assert_eq!(difference, None, "{}: {} {kv:?} {cut:?}", gpu.name(), case.name);
                    runs += 1;
                }
            }
        }
        println!("{}: {runs} runs with many lanes", gpu.name());
    }
}

#[test]
fn decoders_have_the_reference_bits_under_every_cut() {
    let cuts = [Cut::Chunks(512), Cut::Chunks(1), Cut::Chunks(3), Cut::Batch(17), Cut::Batch(512)];
    check(cases::decoders().unwrap(), &cuts);
}

#[test]
fn an_op_alone_gives_what_it_gives_with_its_neighbours() {
    for gpu in devices() {
        for case in share(cases::all().unwrap()) {
            let options = LoadOptions::default();
            let together = record(&gpu, &case, options, Cut::Batch(9));
            let loaded = gpu.load(Arc::clone(&case.graph), &case.file, options, &mut |_| {});
            let mut alone = Tapped::new(loaded.unwrap(), |_, _, _| {}).alone();
            let alone = case.record(&mut alone, Cut::Batch(9)).unwrap();
            let difference = alone.first_difference(&together, &case.graph);
            assert_eq!(difference, None, "{}: {}", gpu.name(), case.name);
        }
    }
}

#[test]
fn three_runs_are_one() {
    for gpu in devices() {
        for case in share(cases::decoders().unwrap()) {
            let options = LoadOptions::default();
            let first = record(&gpu, &case, options, Cut::Batch(512));
            for _ in 0..2 {
                let again = record(&gpu, &case, options, Cut::Batch(512));
                let difference = again.first_difference(&first, &case.graph);
                assert_eq!(difference, None, "{}: {}", gpu.name(), case.name);
            }
        }
    }
}

/// What is wrong with one dispatch that runs on copies of its buffers, guarded and poisoned, three times.
fn trespass(gpu: &Gpu, call: &Call) -> Option<String> {
    for poison in [0xffff_ffff, 0x7fc1_2345, 0] {
        let left = gpu.replay(call, poison).unwrap();
        for (i, (words, held)) in left.iter().zip(&call.buffers).enumerate() {
            let inner = &words[GUARD..GUARD + held.len()];
            let (before, behind) = (&words[..GUARD], &words[GUARD + held.len()..]);
            if before.iter().chain(behind).any(|&w| w != poison) {
                return Some(format!("buffer {i}: written out of range"));
            }
            let written = call.written.iter().find(|(at, _)| *at == i);
            let expected = |k: usize| match written {
                Some((_, words)) => words[k].unwrap_or(poison),
                None => held[k],
            };
            if let Some(k) = (0..inner.len()).find(|&k| inner[k] != expected(k)) {
                let (got, want) = (inner[k], expected(k));
                return Some(format!("buffer {i}, word {k}: {got:08x}, expected {want:08x}"));
            }
        }
    }
    None
}

#[test]
fn a_kernel_writes_its_output_and_nothing_else_and_reads_nothing_unwritten() {
    for gpu in devices() {
        let (mut n, mut wrong) = (0, Vec::new());
        let small = |case: &Case| case.first_position == 0 && !case.name.contains("n_in 5");
        for case in share(cases::all().unwrap().into_iter().filter(small).collect()) {
            let no_cache = case.graph.kv_layers.is_empty();
            let options = cases::options().into_iter();
            for options in options.filter(|o| !no_cache || o.kv == KvType::F16) {
                let few = Few::default();
                let (graph, sink) = (Arc::clone(&case.graph), Box::new(few.clone()));
                let mut loaded = gpu.load_recorded(graph, &case.file, options, sink).unwrap();
                case.record(loaded.as_mut(), Cut::Chunks(72)).unwrap();
                case.greedy(loaded.as_mut()).unwrap();
                for call in few.take() {
                    n += 1;
                    let file = call.shader.file;
                    wrong.extend(
                        trespass(&gpu, &call).map(|why| format!("{} {file}: {why}", case.name)),
                    );
                }
            }
        }
        println!("{}: {n} dispatches three times", gpu.name());
        assert!(wrong.is_empty(), "{}:\n{}", gpu.name(), wrong.join("\n"));
    }
}

#[test]
fn a_tap_changes_nothing_and_a_changed_value_is_read() {
    struct Zero(&'static str);
    impl graph::Tap for Zero {
        fn wants(&mut self, _: &graph::Node, value: &graph::Value) -> bool {
            value.name == self.0
        }
        fn value(&mut self, _: &graph::Node, _: &graph::Value, data: &mut [f32]) {
            data.fill(0.0);
        }
    }
    let case = &cases::decoders().unwrap()[0];
    let step = graph::Step::single(&case.prompts[0], 0);
    for gpu in devices() {
        let mut logits = Vec::new();
        // Values that are computed with their neighbours are among them: a sum and its norm, a gated activation.
        for name in ["nothing", "ffn_out-1", "ffn_inp-0", "ffn_norm-0", "ffn_swiglu-1", "Qcur-1"] {
            for backend in [&Reference as &dyn Backend, &gpu] {
                let mut loaded = backend
                    .load(Arc::clone(&case.graph), &case.file, LoadOptions::default(), &mut |_| {})
                    .unwrap();
                let mut kv = loaded.new_kv(4).unwrap();
                let tapped = loaded.run(&step, &mut kv, &mut Zero(name)).unwrap();
                let plain = loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap();
                assert_eq!(tapped == plain, name == "nothing", "{}", backend.name());
                logits.push(tapped);
            }
        }
        for of_name in logits.chunks(2) {
            assert_eq!(of_name[0], of_name[1], "{}", gpu.name());
        }
    }
}

#[test]
fn a_step_that_was_encoded_ahead_is_the_one_that_follows() {
    // A prompt up to a chunk's end, then single tokens: on one cache, on another in between, and from before again.
    let case = &cases::decoders().unwrap()[0];
    let token = |i: u32| vec![case.prompts[0][i as usize % case.prompts[0].len()]];
    let mut steps = vec![(0, 0, (0..61).flat_map(token).collect::<Vec<_>>())];
    steps.extend((61..67).map(|at| (0, at, token(at))));
    steps.extend((0..3).flat_map(|at| [(1, at, token(at + 5)), (0, 67 + at, token(at))]));
    steps.extend((62..66).map(|at| (0, at, token(at + 9))));
    for gpu in devices() {
        let mut logits = Vec::new();
        for backend in [&Reference as &dyn Backend, &gpu] {
            let (graph, options) = (Arc::clone(&case.graph), LoadOptions::default());
            let mut loaded = backend.load(graph, &case.file, options, &mut |_| {}).unwrap();
            let mut caches = [loaded.new_kv(4).unwrap(), loaded.new_kv(4).unwrap()];
            let run = |(cache, at, tokens): &(usize, u32, Vec<u32>)| {
                let step = graph::Step::single(tokens, *at);
                loaded.run(&step, &mut caches[*cache], &mut graph::NoTap).unwrap()
            };
            logits.push(steps.iter().map(run).collect::<Vec<_>>());
        }
        for (i, (got, expected)) in logits[1].iter().zip(&logits[0]).enumerate() {
            assert!(got == expected, "{}: step {i}, {:?}", gpu.name(), &steps[i]);
        }
    }
}

#[test]
fn a_nan_or_infinite_input_reaches_the_logits() {
    struct Poison(f32);
    impl graph::Tap for Poison {
        fn wants(&mut self, _: &graph::Node, value: &graph::Value) -> bool {
            value.name == "attn_norm-0" || value.name == "ffn_norm-1"
        }
        fn value(&mut self, _: &graph::Node, _: &graph::Value, data: &mut [f32]) {
            data[3] = self.0;
        }
    }
    for gpu in devices() {
        for case in share(cases::decoders().unwrap()) {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut loaded = gpu
                    .load(Arc::clone(&case.graph), &case.file, LoadOptions::default(), &mut |_| {})
                    .unwrap();
                let mut kv = loaded.new_kv(4).unwrap();
                let step = graph::Step::single(&case.prompts[1], 0);
                let logits = loaded.run(&step, &mut kv, &mut Poison(bad)).unwrap();
                assert!(
                    logits.iter().any(|l| !l.is_finite()),
                    "{}: {} {bad}",
                    gpu.name(),
                    case.name
                );
            }
        }
    }
}

#[test]
fn the_likeliest_id_is_the_reference_s() {
    let mut all = cases::decoders().unwrap();
    all.truncate(3);
    all.push(cases::likeliest().unwrap());
    for gpu in devices() {
        let mut not_finite = 0;
        for case in &all {
            let greedy = |backend: &dyn Backend| {
                let (graph, options) = (Arc::clone(&case.graph), LoadOptions::default());
                let mut loaded = backend.load(graph, &case.file, options, &mut |_| {}).unwrap();
                case.greedy(&mut *loaded).unwrap()
            };
            let expected = greedy(&Reference);
            not_finite += expected.iter().filter(|best| best.not_finite.is_some()).count();
            for (got, expected) in greedy(&gpu).iter().zip(&expected) {
                let bad = |best: &graph::Best| best.not_finite.map(|(id, v)| (id, v.to_bits()));
                assert_eq!(bad(got), bad(expected), "{}: {}", gpu.name(), case.name);
                let same = got.id == expected.id || expected.not_finite.is_some();
                assert!(same, "{}: {}: {got:?} {expected:?}", gpu.name(), case.name);
            }
        }
        assert!(not_finite > 3);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let case = &cases::decoders().unwrap()[0];
    for gpu in devices() {
        let load =
            |options| gpu.load(Arc::clone(&case.graph), &case.file, options, &mut |_| {}).unwrap();
        let mut loaded = load(LoadOptions::default());
        let error = loaded.new_kv(1 << 40).err().unwrap();
        assert_eq!(error.kind(), graph::ErrorKind::OutOfMemory, "{error}");
        // The device goes on after a refusal.
        let mut kv = loaded.new_kv(2).unwrap();
        let step = graph::Step::single(&case.prompts[1], 0);
        assert_eq!(
            loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap().len(),
            case.graph.n_vocab
        );
        let empty = graph::Step::default();
        assert!(loaded.run(&empty, &mut kv, &mut graph::NoTap).unwrap().is_empty());
        // A cache of another backend.
        let other = Reference
            .load(Arc::clone(&case.graph), &case.file, LoadOptions::default(), &mut |_| {})
            .unwrap();
        let mut other = other.new_kv(2).unwrap();
        let error = loaded.run(&step, &mut other, &mut graph::NoTap).unwrap_err();
        assert_eq!(error.kind(), graph::ErrorKind::Step, "{error}");
    }
}
