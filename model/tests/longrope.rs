//! longrope: the length of a sequence chooses its factors, whatever the context and however it came to be so long.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LOADS, Tiny, text};
use graph::NoTap;
use model::kv::SeqId;
use model::{
    Engine, EngineOptions, Keep, Request, Sampler, SamplerParams, StopRules, Wanted, Work,
};
use std::ops::ControlFlow;

/// The longest sequence with the short factors; no multiple of a cache block.
const SHORT: usize = 70;
const LEN: usize = 90;

/// A phi3 with these factors for sequences up to [`SHORT`] and beyond.
fn phi3(short: f32, long: f32, n_ctx: usize) -> Engine {
    let mut tiny = Tiny::new("phi3");
    tiny.set("rope.scaling.original_context_length", SHORT as u32);
    for (name, factor) in [("short", short), ("long", long)] {
        let tensor = tiny.tensor(&format!("rope_factors_{name}.weight"));
        tensor.data = [factor; 12].iter().flat_map(|x| x.to_le_bytes()).collect();
    }
    let options = EngineOptions { n_ctx, n_batch: 32, n_seqs: 3, keep: Keep::All };
    tiny.engine(LOADS[0], options)
}

fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The logits after each of `ids` as a prompt of its own, from a model that has the same factors at every length.
fn expected(factor: f32, ids: &[u32]) -> Vec<f32> {
    let mut engine = phi3(factor, factor, LEN);
    let seq = engine.add();
    engine.prefill(seq, ids, &mut go_on).unwrap().unwrap()
}

fn grown(engine: &mut Engine, seq: SeqId, tokens: &[u32]) -> Vec<f32> {
    let work = [Work { seq, tokens, wanted: Wanted::Last }];
    engine.step(&work, &mut NoTap).unwrap().remove(0)
}

#[test]
fn a_sequence_that_grows_past_is_read_again() {
    let ids = text(LEN, 1);
    for n_ctx in [LEN, 512] {
        for cut in [1, 7, 32] {
            let mut engine = phi3(1.0, 2.5, n_ctx);
            let seq = engine.add();
            let mut len = 0;
            for tokens in ids.chunks(cut) {
                let found = grown(&mut engine, seq, tokens);
                len += tokens.len();
                if cut == 1 && !(SHORT - 2..SHORT + 3).contains(&len) {
                    continue;
                }
                let factor = if len <= SHORT { 1.0 } else { 2.5 };
                assert!(found == expected(factor, &ids[..len]), "{len} by {cut}, context {n_ctx}");
            }
        }
    }
    assert_ne!(expected(1.0, &ids), expected(2.5, &ids));
}

#[test]
fn a_prompt_has_the_factors_of_its_whole_length_from_its_first_step() {
    let ids = text(LEN, 1);
    let mut engine = phi3(1.0, 2.5, LEN);
    let seq = engine.add();
    for len in [SHORT, SHORT + 1, 20, LEN] {
        // Each has other factors than the one before.
        let reused = engine.reuse(seq, &ids[..len]).unwrap();
        assert_eq!(reused, 0, "{len}");
        let logits = engine.prefill(seq, &ids[reused..len], &mut go_on).unwrap().unwrap();
        let factor = if len <= SHORT { 1.0 } else { 2.5 };
        assert!(logits == expected(factor, &ids[..len]), "{len}");
    }
    // Both are long: nothing is read again.
    assert_eq!(engine.reuse(seq, &ids[..LEN - 5]).unwrap(), LEN - 6);
    // One that is cut to where it would be short begins anew.
    assert_eq!(engine.truncate(seq, SHORT).unwrap(), 0);
}

#[test]
fn a_prompt_that_was_stopped_leaves_nothing_long() {
    let ids = text(LEN, 1);
    let mut engine = phi3(1.0, 2.5, LEN);
    let seq = engine.add();
    let stopped = engine.prefill(seq, &ids, &mut |_| ControlFlow::Break(())).unwrap();
    assert!(stopped.is_none());
    let len = engine.ids(seq).len();
    assert_eq!(len, 32);
    assert!(grown(&mut engine, seq, &ids[len..=len]) == expected(1.0, &ids[..=len]));
}

#[test]
fn forks_and_batches_of_both_sorts() {
    let (ids, other) = (text(LEN, 1), text(40, 2));
    let mut engine = phi3(1.0, 2.5, LEN);
    let (long, short) = (engine.add(), engine.add());
    engine.prefill(long, &ids[..LEN - 1], &mut go_on).unwrap();
    engine.prefill(short, &other[..39], &mut go_on).unwrap();
    let work = [
        Work { seq: short, tokens: &other[39..], wanted: Wanted::Last },
        Work { seq: long, tokens: &ids[LEN - 1..], wanted: Wanted::Last },
    ];
    let rows = engine.step(&work, &mut NoTap).unwrap();
    assert!(rows[0] == expected(1.0, &other) && rows[1] == expected(2.5, &ids));
    // The short beginning of a long sequence has other keys.
    let fork = engine.fork(long, 64).unwrap();
    assert_eq!(engine.ids(fork).len(), 0);
    assert!(grown(&mut engine, fork, &ids[..5]) == expected(1.0, &ids[..5]));
    engine.remove(fork).unwrap();
    // A short sequence is read again without its fork.
    engine.truncate(short, 0).unwrap();
    engine.prefill(short, &ids[..SHORT], &mut go_on).unwrap();
    let fork = engine.fork(short, 64).unwrap();
    assert_eq!(engine.ids(fork).len(), 64);
    assert!(grown(&mut engine, short, &ids[SHORT..=SHORT]) == expected(2.5, &ids[..=SHORT]));
    assert!(grown(&mut engine, fork, &ids[64..66]) == expected(1.0, &ids[..66]));
}

#[test]
fn a_text_that_passes_is_the_one_of_fresh_prompts() {
    let mut prompt = text(SHORT - 3, 1);
    let stop = StopRules { end_ids: vec![], max_tokens: Some(8) };
    let mut engine = phi3(1.0, 2.5, LEN);
    let request = Request { seq: engine.add(), prompt: &prompt, stop: &stop };
    let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
    let found =
        model::generate(&mut engine, request, &mut sampler, &mut |_| ControlFlow::Continue(()));
    for id in found.unwrap().ids {
        let factor = if prompt.len() <= SHORT { 1.0 } else { 2.5 };
        assert_eq!(id, model::sampler::argmax(&expected(factor, &prompt)), "{}", prompt.len());
        prompt.push(id);
    }
    assert_eq!(prompt.len(), SHORT + 5);
}
