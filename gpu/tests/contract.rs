//! The contract on every device of the machine: every op, format, arithmetic, cache and cut of the prompts gives the
//! reference's bits. Without a device the tests say so and pass; with `CI` set they fail.
//!
//! `KARAT_GPU_SHARE=n` runs every n-th case, `KARAT_GPU_DEVICE=text` the devices whose name holds the text,
//! `KARAT_GPU_CASE=text,…` the cases whose name holds one of the texts, `KARAT_GPU_ARITHMETIC=name,…` what is run under these
//! arithmetics. With `KARAT_GPU_NEEDS_MATRIX` a device without a matrix unit fails them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "what was skipped, and how much was run, is shown")]

mod few;
mod skip;

use few::Few;
use gguf::DType;
use gpu::record::{Call, GUARD};
use gpu::{Adapter, Api, Gpu};
use graph::cases::{self, Case, Cut, Tapped};
use graph::compare::Recording;
use graph::reference::Reference;
use graph::{Arithmetic, Backend, KvType, LoadOptions};
use skip::say_skipped;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

#[allow(clippy::disallowed_methods, reason = "a test has no app::config")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The devices that are wanted; none with a line that names the test, which is a failure in CI.
fn adapters() -> Vec<Adapter> {
    let wanted = env("KARAT_GPU_DEVICE").unwrap_or_default();
    let mut adapters = gpu::adapters(Api::Any);
    adapters.retain(|adapter| {
        let name = adapter.info().name;
        let is_wanted = name.contains(&wanted);
        if !is_wanted {
            say_skipped(&format!("{name} (KARAT_GPU_DEVICE)"));
        }
        is_wanted
    });
    if adapters.is_empty() {
        assert!(env("CI").is_none(), "no GPU device, not even a software one, and CI is set");
        let thread = std::thread::current();
        say_skipped(&format!("{}: no GPU device", thread.name().unwrap_or("a test")));
    }
    adapters
}

/// The same, opened once for all tests: what one has compiled, no other compiles again.
fn devices() -> Vec<Gpu> {
    static OPENED: OnceLock<Vec<Gpu>> = OnceLock::new();
    OPENED.get_or_init(own_devices).clone()
}

/// The same, opened for a test that loses its devices or asks what they hold.
fn own_devices() -> Vec<Gpu> {
    let open = |adapter: Adapter| {
        let gpu = adapter.open(2).unwrap_or_else(|e| panic!("{}: {e}", adapter.info().name));
        println!("{}: {:?}, {:?}", gpu.name(), gpu.probes(), gpu.matrix());
        let needs = env("KARAT_GPU_NEEDS_MATRIX").is_some();
        assert!(!needs || gpu.matrix().is_some(), "{} has no matrix unit", gpu.name());
        gpu
    };
    adapters().into_iter().map(open).collect()
}

/// Something that runs for a case.
trait Named {
    fn name(&self) -> &str;
}

impl Named for Case {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for (Case, usize) {
    fn name(&self) -> &str {
        &self.0.name
    }
}

fn share<T: Named>(cases: Vec<T>) -> impl Iterator<Item = T> {
    let every = env("KARAT_GPU_SHARE").and_then(|n| n.parse().ok()).unwrap_or(1);
    let wanted = env("KARAT_GPU_CASE").unwrap_or_default();
    if every > 1 || !wanted.is_empty() {
        say_skipped(&format!("cases other than one of {every} with \"{wanted}\" in their name"));
    }
    let is_wanted = move |name: &str| wanted.split(',').any(|text| name.contains(text));
    cases.into_iter().filter(move |case| is_wanted(case.name())).step_by(every)
}

fn record(backend: &dyn Backend, case: &Case, options: LoadOptions, cut: Cut) -> Recording {
    let mut loaded =
        backend.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
    let recording =
        case.record(loaded.as_mut(), cut).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    assert!(!recording.is_empty());
    recording
}

/// The options that can change a bit of a case, as far as they are wanted.
fn options(case: &Case) -> Vec<LoadOptions> {
    let wanted = env("KARAT_GPU_ARITHMETIC");
    let is_wanted = |options: &LoadOptions| {
        let name = options.arithmetic.name();
        wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|w| w == name))
    };
    case.options().into_iter().filter(is_wanted).collect()
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
        for options in options(&case) {
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

/// No shader computes these yet: the device says so instead of computing something else.
#[test]
fn attention_of_other_kinds_is_refused_by_name() {
    for gpu in devices() {
        for case in graph::seams::unmasked().unwrap() {
            let refused = |node| gpu.supports(&case.graph, node, LoadOptions::default()).err();
            let reasons: Vec<String> = case.graph.nodes.iter().filter_map(refused).collect();
            let is_masked = !case.name.contains(", None, sinks");
            let expected: &[&str] = if is_masked { &[] } else { &["attention without a mask"] };
            assert_eq!(reasons, expected, "{}", case.name);
        }
    }
}

#[test]
fn sinks_have_the_reference_bits_by_rows_and_together() {
    let mut cases = graph::seams::unmasked().unwrap();
    cases.retain(|case| !case.name.contains(", None, sinks"));
    assert_eq!(cases.len(), 2);
    check(cases, &[Cut::Chunks(1), Cut::Batch(512)]);
}

#[test]
fn a_latent_has_the_reference_bits_by_rows_and_together() {
    let mut cases = cases::all().unwrap();
    cases.retain(|case| case.name == "latent attention");
    assert_eq!(cases.len(), 1);
    check(cases, &[Cut::Chunks(1), Cut::Chunks(3), Cut::Batch(512)]);
}

#[test]
fn several_files_are_read_and_indices_checked() {
    for gpu in devices() {
        graph::seams::reads_several_files(&gpu).unwrap();
        graph::seams::checks_indices(&gpu).unwrap();
    }
}

#[test]
fn states_are_kept_and_refused_where_they_do_not_stand() {
    for gpu in devices() {
        graph::seams::keeps_states(&gpu).unwrap();
    }
}

#[test]
fn convolutions_have_the_reference_bits_under_every_cut() {
    let cuts = [Cut::Chunks(512), Cut::Chunks(1), Cut::Chunks(3), Cut::Batch(2), Cut::Batch(512)];
    check(cases::convs().unwrap(), &cuts);
}

#[test]
fn experts_have_the_reference_bits_by_rows_and_together() {
    let cuts = [Cut::Chunks(3), Cut::Batch(512)];
    check(cases::experts().unwrap(), &cuts);
}

#[test]
fn products_and_norms_have_the_reference_bits() {
    let products = cases::all().unwrap().into_iter().filter(|c| c.graph.caches.is_empty());
    check(products.collect(), &[Cut::Batch(512)]);
}

#[test]
fn rows_and_columns_of_awkward_sizes_have_the_reference_bits() {
    check(cases::awkward().unwrap(), &[Cut::Chunks(1024)]);
}

#[test]
fn products_of_many_lanes_have_the_reference_bits() {
    for gpu in devices() {
        let Some(gpu) = gpu.widened() else {
            say_skipped(&format!("{} has no workgroups of 1024 threads", gpu.name()));
            continue;
        };
        // Rows of several rounds of blocks, and products with enough rows that each has fewer lanes.
        let mut products = cases::all().unwrap();
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
            products.push(cases::product(dtype, 131 * dtype.block_len(), 48).unwrap());
            products.push(cases::product(dtype, 3 * dtype.block_len(), 8208).unwrap());
        }
        for case in share(products).filter(|case| case.graph.caches.is_empty()) {
            // In f32 no kernel of a product has lanes to spare.
            let options = options(&case).into_iter().filter(|o| o.arithmetic != Arithmetic::F32);
            for options in options {
                let expected = record(&Reference, &case, options, Cut::Batch(512));
                let got = record(&gpu, &case, options, Cut::Chunks(1));
                let difference = got.first_difference(&expected, &case.graph);
                assert_eq!(difference, None, "{}: {} {options:?}", gpu.name(), case.name);
            }
        }
    }
}

#[test]
fn what_is_larger_than_a_binding_is_taken_in_pieces() {
    for opened in devices() {
        let int16 = LoadOptions { arithmetic: Arithmetic::Int16, ..LoadOptions::default() };
        for (dtype, n, options) in [
            (DType::F32, 256, LoadOptions::default()),
            (DType::Q8_0, 1024, LoadOptions::default()),
            (DType::Q4_K, 1024, LoadOptions::default()),
            (DType::Q4_K, 1024, int16),
        ] {
            // Room for 64 rows of values.
            let binding = 512 * n as u64;
            let gpu = opened.narrowed(binding);
            let case = cases::large(dtype, n).unwrap();
            let weight = &case.graph.weights[0];
            assert!((dtype.row_bytes(weight.n_in) * weight.n_out) as u64 > binding, "{dtype}");
            let expected = record(&Reference, &case, options, Cut::Batch(512));
            for cut in [Cut::Batch(512), Cut::Chunks(1)] {
                let got = record(&gpu, &case, options, cut);
                let difference = got.first_difference(&expected, &case.graph);
                assert_eq!(difference, None, "{}: {} {cut:?}", gpu.name(), case.name);
            }
        }
        // A cache of one layer must fit in a binding, and says so.
        let gpu = opened.narrowed(512 << 10);
        let case = &cases::decoders().unwrap()[0];
        let loaded =
            gpu.load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {});
        let error = loaded.unwrap().new_kv(&graph::Blocks::Each(1000)).err().unwrap();
        assert_eq!(error.kind(), graph::ErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains("binds 524288"), "{error}");
        // Rows that fit in no binding are refused when the model is run, by their width.
        let gpu = opened.narrowed(64 << 10);
        let case = cases::large(DType::Q8_0, 1024).unwrap();
        let loaded =
            gpu.load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {});
        let error = case.record(&mut *loaded.unwrap(), Cut::Chunks(1)).err().unwrap();
        assert!(error.to_string().contains("values of 1024 columns"), "{error}");
    }
}

#[test]
fn shaders_with_checks_have_the_reference_bits() {
    // The checks bound every index and loop. Where they change nothing, nothing was out of bounds.
    let cases = share(cases::all().unwrap()).step_by(3);
    let cases: Vec<Case> = cases.filter(|case| case.first_position == 0).collect();
    for gpu in devices() {
        let gpu = gpu.checked();
        for (i, case) in cases.iter().enumerate() {
            let options = cases::options()[i % cases::options().len()];
            let expected = record(&Reference, case, options, Cut::Batch(512));
            for cut in [Cut::Batch(512), Cut::Chunks(1)] {
                let got = record(&gpu, case, options, cut);
                let difference = got.first_difference(&expected, &case.graph);
                assert_eq!(difference, None, "{}: {} {cut:?}", gpu.name(), case.name);
            }
        }
        println!("{}: {} cases with checks", gpu.name(), cases.len());
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
        mask: graph::Mask::Causal,
        sinks: false,
        softcap: None,
        act: graph::Act::Silu,
        size: 1.0,
        first_position: 0,
        long_rope: false,
    };
    for spec in [
        plain,
        cases::Decoder {
            n_head: 40,
            n_head_kv: 1,
            head_dim: 36,
            mask: graph::Mask::Window(37),
            ..plain
        },
        cases::Decoder { n_head: 2, head_dim: 196, softcap: Some(3.0), ..plain },
        cases::Decoder { n_head: 16, head_dim: 68, sinks: true, ..plain },
        cases::Decoder {
            n_head: 3,
            n_head_kv: 1,
            head_dim: 256,
            mask: graph::Mask::Window(60),
            ..plain
        },
        cases::Decoder {
            n_head: 4,
            head_dim: 132,
            first_position: 400,
            mask: graph::Mask::Window(99),
            ..plain
        },
    ] {
        all.push(cases::decoder(spec).unwrap());
    }
    let all: Vec<Case> = share(all).collect();
    for gpu in devices() {
        let Some(gpu) = gpu.widened() else {
            say_skipped(&format!("{} has no workgroups of 1024 threads", gpu.name()));
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
            let loaded = gpu.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {});
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
        let small = cases::all().unwrap().into_iter().filter(small).map(|case| (case, 72));
        // Every format's product is the same kernel but for how weights are read.
        let of_all = |case: &Case| {
            ["decoder", "Q8_0", "Q6_K", "F16"].iter().any(|name| case.name.contains(name))
        };
        let awkward = cases::awkward().unwrap().into_iter().filter(of_all).map(|c| (c, 1024));
        for (case, at_once) in share(small.chain(awkward).collect()) {
            let options = options(&case).into_iter();
            // What a dispatch touches is a matter of its kernel, parameters and grid: one that the case has had under other
            // options is the same dispatch.
            let few = Few::default();
            for options in options.filter(|o| at_once == 72 || o.kv == KvType::F16) {
                let (graph, sink) = (Arc::clone(&case.graph), Box::new(few.clone()));
                let mut loaded = gpu.load_recorded(graph, &[&case.file], options, sink).unwrap();
                case.record(loaded.as_mut(), Cut::Chunks(at_once)).unwrap();
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
                    .load(
                        Arc::clone(&case.graph),
                        &[&case.file],
                        LoadOptions::default(),
                        &mut |_| {},
                    )
                    .unwrap();
                let mut kv = loaded.new_kv(&graph::Blocks::Each(4)).unwrap();
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
            let mut loaded = backend.load(graph, &[&case.file], options, &mut |_| {}).unwrap();
            let mut caches = [
                loaded.new_kv(&graph::Blocks::Each(4)).unwrap(),
                loaded.new_kv(&graph::Blocks::Each(4)).unwrap(),
            ];
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
            for options in options(&case).into_iter().filter(|o| o.arithmetic != Arithmetic::F32) {
                for bad in [f32::NAN, f32::INFINITY] {
                    let (graph, files) = (Arc::clone(&case.graph), [&case.file]);
                    let mut loaded = gpu.load(graph, &files, options, &mut |_| {}).unwrap();
                    let mut kv = loaded.new_kv(&graph::Blocks::Each(4)).unwrap();
                    let step = graph::Step::single(&case.prompts[1], 0);
                    let logits = loaded.run(&step, &mut kv, &mut Poison(bad)).unwrap();
                    let found = logits.iter().any(|l| !l.is_finite());
                    assert!(found, "{}: {} {options:?} {bad}", gpu.name(), case.name);
                }
            }
        }
    }
}

#[test]
fn the_likeliest_id_is_the_reference_s() {
    let mut all = cases::decoders().unwrap();
    all.truncate(3);
    all.push(cases::likeliest().unwrap());
    all.push(cases::masked(|id| id % 3 == 0).unwrap());
    all.push(cases::masked(|id| id != 4999).unwrap());
    all.push(cases::masked(|_| true).unwrap());
    for gpu in devices() {
        let mut invalid = 0;
        for case in &all {
            let greedy = |backend: &dyn Backend| {
                let (graph, options) = (Arc::clone(&case.graph), LoadOptions::default());
                let mut loaded = backend.load(graph, &[&case.file], options, &mut |_| {}).unwrap();
                case.greedy(&mut *loaded).unwrap()
            };
            let expected = greedy(&Reference);
            invalid += expected.iter().filter(|best| best.invalid.is_some()).count();
            for (got, expected) in greedy(&gpu).iter().zip(&expected) {
                let bad = |best: &graph::Best| best.invalid.map(|(id, v)| (id, v.to_bits()));
                assert_eq!(bad(got), bad(expected), "{}: {}", gpu.name(), case.name);
                let same = got.id == expected.id || expected.invalid.is_some();
                assert!(same, "{}: {}: {got:?} {expected:?}", gpu.name(), case.name);
            }
        }
        assert!(invalid > 3);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let case = &cases::decoders().unwrap()[0];
    for gpu in devices() {
        let load = |options| {
            gpu.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap()
        };
        let mut loaded = load(LoadOptions::default());
        let error = loaded.new_kv(&graph::Blocks::Each(1 << 40)).err().unwrap();
        assert_eq!(error.kind(), graph::ErrorKind::OutOfMemory, "{error}");
        // The device goes on after a refusal.
        let mut kv = loaded.new_kv(&graph::Blocks::Each(2)).unwrap();
        let step = graph::Step::single(&case.prompts[1], 0);
        assert_eq!(
            loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap().len(),
            case.graph.n_vocab
        );
        let empty = graph::Step::default();
        assert!(loaded.run(&empty, &mut kv, &mut graph::NoTap).unwrap().is_empty());
        // Tokens without logits are stored all the same.
        let silent = graph::Step { outputs: Vec::new(), ..step.clone() };
        assert!(loaded.run(&silent, &mut kv, &mut graph::NoTap).unwrap().is_empty());
        assert!(loaded.run_greedy(&silent, &mut kv).unwrap().is_empty());
        // A cache of another backend.
        let other = Reference
            .load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {})
            .unwrap();
        let mut other = other.new_kv(&graph::Blocks::Each(2)).unwrap();
        let error = loaded.run(&step, &mut other, &mut graph::NoTap).unwrap_err();
        assert_eq!(error.kind(), graph::ErrorKind::Step, "{error}");
    }
}

#[test]
fn a_lost_device_is_an_error_of_each_run_and_another_takes_over() {
    let case = &cases::decoders().unwrap()[0];
    let logits = |loaded: &mut dyn graph::Loaded, kv: &mut graph::Kv, position: u32| {
        let token = case.prompts[0][position as usize];
        loaded.run(&graph::Step::single(&[token], position), kv, &mut graph::NoTap)
    };
    let lost = |error: graph::Error| {
        assert_eq!(error.kind(), graph::ErrorKind::DeviceLost, "{error}");
        assert!(error.to_string().contains("lost"), "{error}");
    };
    for gpu in own_devices() {
        let load = |gpu: &Gpu| {
            gpu.load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {})
        };
        let mut before = load(&gpu).unwrap();
        let mut kv = before.new_kv(&graph::Blocks::Each(2)).unwrap();
        let first = logits(&mut *before, &mut kv, 0).unwrap();
        let next = logits(&mut *before, &mut kv, 1).unwrap();
        let start = Instant::now();
        gpu.lose();
        // Again and again, in a step and outside of one: nothing panics, hangs or seems to work.
        for _ in 0..3 {
            lost(logits(&mut *before, &mut kv, 1).unwrap_err());
            lost(before.run_greedy(&graph::Step::single(&[0], 0), &mut kv).unwrap_err());
            lost(before.new_kv(&graph::Blocks::Each(2)).err().unwrap());
            lost(load(&gpu).err().unwrap());
            lost(before.limits().unwrap_err());
        }
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
        let of_name = |adapter: &gpu::Adapter| adapter.info().name == gpu.info().name;
        let again = gpu::adapters(Api::Any).into_iter().find(of_name).unwrap().open(2).unwrap();
        let mut after = load(&again).unwrap();
        let mut kv = after.new_kv(&graph::Blocks::Each(2)).unwrap();
        assert_eq!(logits(&mut *after, &mut kv, 0).unwrap(), first, "{}", gpu.name());
        assert_eq!(logits(&mut *after, &mut kv, 1).unwrap(), next, "{}", gpu.name());
    }
}

#[test]
fn a_device_that_does_not_answer_in_time_is_lost() {
    for gpu in own_devices() {
        let error = gpu.hang().unwrap_err();
        assert_eq!(error.kind(), graph::ErrorKind::DeviceLost, "{error}");
        assert!(error.to_string().contains("after 0ns"), "{error}");
    }
}

#[test]
fn loading_and_unloading_leaves_nothing_behind() {
    let case = &cases::decoders().unwrap()[0];
    for gpu in own_devices() {
        let cycle = || {
            let options = LoadOptions::default();
            let loaded = gpu.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {});
            let mut loaded = loaded.unwrap();
            let mut kv = loaded.new_kv(&graph::Blocks::Each(2)).unwrap();
            let step = graph::Step::single(&case.prompts[1], 0);
            loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap();
            gpu.held_bytes().unwrap()
        };
        let (held, left) = (cycle(), gpu.held_bytes().unwrap());
        assert!(left < held, "{left} {held}");
        for _ in 0..50 {
            assert_eq!((cycle(), gpu.held_bytes().unwrap()), (held, left), "{}", gpu.name());
        }
    }
}

#[test]
fn what_a_step_moves_is_counted() {
    let case = cases::decoders().unwrap().into_iter().find(|c| c.name.contains("Q8_0")).unwrap();
    for gpu in devices() {
        let options = LoadOptions::default();
        let mut loaded =
            gpu.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
        let mut kv = loaded.new_kv(&graph::Blocks::Each(4)).unwrap();
        assert_eq!(loaded.traffic(), None);
        let n = 70;
        loaded
            .run(&graph::Step::single(&case.prompts[0][..n], 0), &mut kv, &mut graph::NoTap)
            .unwrap();
        loaded.profile(true);
        let Some(none) = loaded.traffic() else {
            say_skipped(&format!("{} has no timestamps", gpu.name()));
            continue;
        };
        assert_eq!(none, graph::Traffic::default());
        let mut of_steps = Vec::new();
        for at in [0, 1] {
            let step = graph::Step::single(&[case.prompts[0][n + at]], (n + at) as u32);
            loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap();
            of_steps.push(loaded.traffic().unwrap());
        }
        let (one, two) = (of_steps[0], of_steps[1]);
        assert_eq!((one.dispatches * 2, one.weights * 2), (two.dispatches, two.weights));
        assert!(
            one.dispatches >= 30 && one.dispatches < 2 * case.graph.nodes.len() as u64,
            "{one:?}"
        );
        // Two layers store a position and read those from 0 to their own: 3 heads of 24 and 20 elements in f16.
        let position = 3 * (24 + 20) * 2;
        assert_eq!(one.kv, 2 * position * (1 + 71));
        assert_eq!(two.kv - one.kv, 2 * position * (1 + 72));
        // The product writes them, the cap reads and writes them, and they are copied.
        assert_eq!(one.logits, 4 * 101 * 4);
        // All matrices once, in whole tiles of 32 rows; of the table for the embedding one row more.
        let bytes = |w: &graph::Weight| (w.dtype.row_bytes(w.n_in) * w.n_out) as f64;
        let file: f64 = case.graph.weights.iter().map(bytes).sum();
        let more = one.weights as f64 / file;
        assert!(more > 1.0 && more < 1.2, "{more}");
        assert!(one.other > 0 && one.other < 100_000, "{one:?}");
    }
}
