//! The contract: every level, thread count, arithmetic, cache and cut of the prompts gives the reference's bits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "what was skipped, and how much was run, is shown")]

use cpu::{Cpu, Level};
use graph::cases::{self, Case, Cut};
use graph::reference::Reference;
use graph::{Arithmetic, Backend, LoadOptions};
use std::io::Write as _;
use std::sync::Arc;

#[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Every `KARAT_CONTRACT_SHARE`-th case only, for emulated machines, where all would take an hour; of those with
/// `KARAT_CONTRACT_CASE` in their name.
fn share(mut cases: Vec<Case>) -> impl Iterator<Item = Case> {
    let every = variable("KARAT_CONTRACT_SHARE").and_then(|n| n.parse().ok()).unwrap_or(1);
    let part = variable("KARAT_CONTRACT_CASE").unwrap_or_default();
    cases.retain(|case| case.name.contains(&part));
    if every > 1 || !part.is_empty() {
        // Past the test harness, which shows what a test prints only if it fails.
        let what = format!("all but one of {every} cases with \"{part}\" in their name");
        let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
    }
    cases.into_iter().step_by(every)
}

/// The levels that are tried with every cut of a prompt. An emulated machine leaves out the scalar one, which takes most of
/// its time: whether cuts matter there is shown where the tests run natively, since it is the same code.
fn levels_for_cuts() -> Vec<Level> {
    let emulated = variable("KARAT_CONTRACT_SHARE").is_some();
    Level::all().into_iter().filter(|level| !emulated || level.name() != "scalar").collect()
}

/// Records one way of running a case and compares it with the reference's recording, every value of every row.
fn check(
    case: &Case,
    options: LoadOptions,
    expected: &graph::compare::Recording,
    way: (&Cpu, Cut),
) {
    let (cpu, cut) = way;
    let mut loaded =
        cpu.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
    let got = case.record(loaded.as_mut(), cut).unwrap();
    assert!(!got.is_empty());
    if let Some(difference) = got.first_difference(expected, &case.graph) {
        panic!("{}: {} {options:?} {cut:?}: {difference}", case.name, cpu.name());
    }
}

/// The cases whose steps read what earlier ones left, or whose rows a backend puts in another order.
fn with_caches() -> Vec<Case> {
    let others = cases::convs().unwrap().into_iter().chain(cases::experts().unwrap());
    let latent = cases::all().unwrap().into_iter().filter(|case| case.name == "latent attention");
    cases::decoders().unwrap().into_iter().chain(others).chain(latent).collect()
}

fn reference(case: &Case, options: LoadOptions, cut: Cut) -> graph::compare::Recording {
    let mut loaded =
        Reference.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
    case.record(loaded.as_mut(), cut).unwrap()
}

#[test]
fn every_level_gives_the_reference_bits() {
    let levels = Level::all();
    println!("levels of this machine: {levels:?}");
    let mut runs = 0;
    let all = cases::all().unwrap().into_iter().chain(cases::experts().unwrap()).collect();
    for case in share(all) {
        for options in case.options() {
            let expected = reference(&case, options, Cut::Batch(512));
            for &level in &levels {
                check(&case, options, &expected, (&Cpu::with_level(1, level), Cut::Batch(512)));
                runs += 1;
            }
        }
    }
    println!("{runs} runs equal the reference bit for bit");
}

#[test]
fn every_cut_and_thread_count_gives_the_same_bits() {
    let mut runs = 0;
    for case in share(with_caches()) {
        for options in case.options() {
            let expected = reference(&case, options, Cut::Chunks(512));
            for level in levels_for_cuts() {
                for cut in [Cut::Chunks(512), Cut::Chunks(1), Cut::Chunks(3), Cut::Batch(17)] {
                    check(&case, options, &expected, (&Cpu::with_level(1, level), cut));
                    runs += 1;
                }
            }
            for threads in [2, 3] {
                for cut in [Cut::Chunks(1), Cut::Chunks(3), Cut::Batch(17), Cut::Batch(512)] {
                    check(&case, options, &expected, (&Cpu::new(threads), cut));
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} runs equal the reference bit for bit");
}

/// Each prompt by itself in one step: all its rows go through the same passes.
#[test]
fn awkward_and_tall_rows_give_the_same_bits() {
    let mut runs = 0;
    let cases = cases::awkward().unwrap().into_iter().chain(cases::tall().unwrap());
    for case in share(cases.collect()) {
        for arithmetic in Arithmetic::ALL {
            let options = LoadOptions { arithmetic, ..LoadOptions::default() };
            let expected = reference(&case, options, Cut::Chunks(1024));
            for (i, level) in Level::all().into_iter().enumerate() {
                let cpu = Cpu::with_level(1 + i % 2, level);
                check(&case, options, &expected, (&cpu, Cut::Chunks(1024)));
                runs += 1;
            }
        }
    }
    println!("{runs} runs equal the reference bit for bit");
}

#[test]
fn attention_without_a_mask_and_with_sinks_has_the_reference_bits() {
    for case in graph::seams::unmasked().unwrap() {
        for options in case.options() {
            let expected = reference(&case, options, Cut::Batch(512));
            let masked = !case.name.contains(", None, sinks");
            let cuts = [Cut::Batch(512), Cut::Chunks(512), Cut::Chunks(3)];
            for cut in &cuts[..if masked { 3 } else { 2 }] {
                for level in levels_for_cuts() {
                    check(&case, options, &expected, (&Cpu::with_level(2, level), *cut));
                }
            }
        }
    }
}

/// A token at the end of a long context: its chunks are shared out among threads and merged with the sink.
#[test]
fn a_sink_meets_chunks_that_were_shared_out() {
    let case = &graph::seams::unmasked().unwrap()[2];
    let run = |backend: &dyn Backend| {
        let options = LoadOptions::default();
        let mut loaded =
            backend.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
        let mut kv = loaded.new_kv(&graph::Blocks::Each(16)).unwrap();
        let ids: Vec<u32> = case.prompts[0].iter().copied().cycle().take(900).collect();
        for (i, chunk) in ids.chunks(300).enumerate() {
            let step = graph::Step::single(chunk, 300 * i as u32);
            loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap();
        }
        let step = graph::Step::single(&[3], 900);
        loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap()
    };
    assert_eq!(run(&Cpu::new(2)), run(&Reference));
}

#[test]
fn several_files_are_read_and_indices_checked() {
    for level in Level::all() {
        graph::seams::reads_several_files(&Cpu::with_level(2, level)).unwrap();
        graph::seams::checks_indices(&Cpu::with_level(2, level)).unwrap();
    }
}

#[test]
fn states_are_kept_and_refused_where_they_do_not_stand() {
    for level in Level::all() {
        graph::seams::keeps_states(&Cpu::with_level(2, level)).unwrap();
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
    let mut logits = Vec::new();
    for name in ["nothing", "ffn_out-1"] {
        for backend in [&Reference as &dyn Backend, &Cpu::new(2)] {
            let mut loaded = backend
                .load(Arc::clone(&case.graph), &[&case.file], LoadOptions::default(), &mut |_| {})
                .unwrap();
            let mut kv = loaded.new_kv(&graph::Blocks::Each(4)).unwrap();
            let tapped = loaded.run(&step, &mut kv, &mut Zero(name)).unwrap();
            let plain = loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap();
            assert_eq!(tapped == plain, name == "nothing", "{}", backend.name());
            logits.push(tapped);
        }
    }
    assert_eq!(logits[0], logits[1]);
    assert_eq!(logits[2], logits[3]);
}

/// Ops are put together where no tap looks at what lies between them: the logits are the same.
#[test]
fn what_nobody_sees_is_computed_with_the_same_bits() {
    let mut runs = 0;
    for case in share(cases::all().unwrap()) {
        for options in case.options() {
            let run = |backend: &dyn Backend, tokens: usize| {
                let mut loaded = backend
                    .load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {})
                    .unwrap();
                let mut kv = loaded.new_kv(&graph::Blocks::Each(8)).unwrap();
                let ids: Vec<u32> = case.prompts[0].iter().copied().cycle().take(tokens).collect();
                let mut step = graph::Step::single(&ids, 0);
                step.outputs = (0..tokens as u32).collect();
                let logits = loaded.run(&step, &mut kv, &mut graph::NoTap).unwrap();
                logits.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            for tokens in [1, 2, 3, 5, 23] {
                let expected = run(&Reference, tokens);
                for level in Level::all() {
                    let cpu = Cpu::with_level(1 + tokens % 3, level);
                    assert!(run(&cpu, tokens) == expected, "{} {level:?} {tokens}", case.name);
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} runs equal the reference bit for bit");
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
    for case in cases::decoders().unwrap() {
        for bad in [f32::NAN, f32::INFINITY] {
            for level in Level::all() {
                let cpu = Cpu::with_level(1, level);
                let mut loaded = cpu
                    .load(
                        Arc::clone(&case.graph),
                        &[&case.file],
                        LoadOptions::default(),
                        &mut |_| {},
                    )
                    .unwrap();
                let mut kv = loaded.new_kv(&graph::Blocks::Each(4)).unwrap();
                let step = graph::Step::single(&case.prompts[1], 0);
                let logits = loaded.run(&step, &mut kv, &mut Poison(bad)).unwrap();
                assert!(logits.iter().any(|l| !l.is_finite()), "{} {bad} {level:?}", case.name);
            }
        }
    }
}

#[test]
fn the_reference_agrees_with_itself_under_every_cut() {
    for case in share(with_caches()) {
        let options = LoadOptions::default();
        let expected = reference(&case, options, Cut::Chunks(512));
        for cut in [Cut::Chunks(1), Cut::Chunks(17), Cut::Batch(3)] {
            let got = reference(&case, options, cut);
            let difference = got.first_difference(&expected, &case.graph);
            assert_eq!(difference, None, "{} {cut:?}", case.name);
        }
    }
}
