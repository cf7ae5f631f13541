//! Sequences of an engine: turns of a chat, shared beginnings, failures and cancellations leave the right state.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LOADS, N_VOCAB, Tiny, text};
use graph::{Graph, Kv, Loaded, NoTap, Step, Tap};
use model::speculate::{Drafter, Guess};
use model::{
    Engine, EngineOptions, ErrorKind, Event, Finish, Generation, Keep, Memory, Request, Sampler,
    SamplerParams, SeqId, StopRules, Wanted, Work,
};
use std::ops::ControlFlow;
use std::sync::Arc;

const OPTIONS: EngineOptions =
    EngineOptions { n_ctx: 300, n_batch: 32, n_seqs: 3, keep: model::Keep::All };

fn engine() -> Engine {
    Tiny::new("qwen2").engine(LOADS[0], OPTIONS)
}

fn prefill(engine: &mut Engine, seq: SeqId, ids: &[u32]) -> Vec<f32> {
    engine.prefill(seq, ids, &mut |_| ControlFlow::Continue(())).unwrap().expect("not cancelled")
}

fn fresh(ids: &[u32]) -> Vec<f32> {
    let mut engine = engine();
    let seq = engine.add();
    prefill(&mut engine, seq, ids)
}

#[test]
fn the_next_turn_computes_only_what_is_new() {
    let mut engine = engine();
    let seq = engine.add();
    let first = text(150, 1);
    prefill(&mut engine, seq, &first);
    // The same beginning, then something else; cut inside a block.
    let second: Vec<u32> = first[..133].iter().copied().chain(text(40, 2)).collect();
    assert_eq!(engine.reuse(seq, &second).unwrap(), 133);
    assert_eq!(prefill(&mut engine, seq, &second[133..]), fresh(&second));
    assert_eq!(engine.ids(seq), second);
    // The very same prompt again: its last id is computed anew, for its logits.
    assert_eq!(engine.reuse(seq, &second).unwrap(), second.len() - 1);
    assert_eq!(prefill(&mut engine, seq, &second[second.len() - 1..]), fresh(&second));
}

/// gemma3 has layers with a window of fewer positions than the text.
#[test]
fn layers_with_a_window_may_keep_only_what_is_seen() {
    let tiny = Tiny::new("gemma3");
    let options = |keep| EngineOptions { n_ctx: 600, n_batch: 32, n_seqs: 1, keep };
    let text = text(500, 3);
    let run = |keep| {
        let mut engine = tiny.engine(LOADS[0], options(keep));
        let seq = engine.add();
        let logits = prefill(&mut engine, seq, &text);
        (engine, seq, logits)
    };
    let ((mut all, a, expected), (mut seen, s, logits)) = (run(Keep::All), run(Keep::Seen));
    assert_eq!(logits, expected);
    assert_eq!(seen.decode(s, 7).unwrap(), all.decode(a, 7).unwrap());
    let memory = |engine: &Engine, keep| Memory::estimate(engine.graph(), LOADS[0], &options(keep));
    assert!(memory(&seen, Keep::Seen).kv < memory(&all, Keep::All).kv);
    // Cut a little, and the window is still there; cut far, and it begins anew.
    assert_eq!(seen.truncate(s, 499).unwrap(), 499);
    let again = prefill(&mut seen, s, &text[499..]);
    assert_eq!(again, expected);
    assert_eq!(seen.truncate(s, 100).unwrap(), 0);
    assert_eq!(prefill(&mut seen, s, &text), expected);
    assert_eq!(all.truncate(a, 100).unwrap(), 100);
}

#[test]
fn generate_reuses_and_says_so() {
    let mut engine = engine();
    let seq = engine.add();
    let stop = StopRules { end_ids: vec![], max_tokens: Some(5) };
    let run = |engine: &mut Engine, seq, prompt: &[u32]| {
        let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
        let mut heard = Vec::new();
        let request = Request { seq, prompt, stop: &stop };
        let text = model::generate(engine, request, &mut sampler, &mut |event| {
            heard.push(event);
            ControlFlow::Continue(())
        });
        (text.unwrap(), heard)
    };
    let prompt = text(70, 1);
    let (text, heard) = run(&mut engine, seq, &prompt);
    assert_eq!((text.n_reused, text.finish), (0, Finish::MaxTokens));
    let wanted: Vec<Event> = [32, 64, 70].map(|done| Event::Prompt { done, total: 70 }).into();
    assert_eq!(heard[..3], wanted);
    assert_eq!(heard[3..], text.ids.iter().map(|&id| Event::Token(id)).collect::<Vec<_>>());
    // The answer becomes a part of the next prompt; its last token was never stored.
    let next: Vec<u32> = prompt.iter().chain(&text.ids).copied().chain([7, 8, 9]).collect();
    let (again, heard) = run(&mut engine, seq, &next);
    assert_eq!(again.n_reused, 74);
    assert_eq!(heard[0], Event::Prompt { done: 78, total: 78 });
    let alone = engine.add();
    assert_eq!(run(&mut engine, alone, &next).0.ids, again.ids);
}

#[test]
fn an_end_token_ends_the_text_and_is_not_part_of_it() {
    let mut engine = engine();
    let prompt = text(9, 1);
    let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
    let mut run = |stop: &StopRules, listen: &mut dyn FnMut(Event) -> ControlFlow<()>| {
        let seq = engine.add();
        let text = model::generate(
            &mut engine,
            Request { seq, prompt: &prompt, stop },
            &mut sampler,
            listen,
        )
        .unwrap();
        engine.remove(seq).unwrap();
        text
    };
    let all =
        run(
            &StopRules { end_ids: vec![], max_tokens: Some(8) },
            &mut |_| ControlFlow::Continue(()),
        );
    let end = all.ids[3];
    let n = all.ids.iter().position(|&id| id == end).unwrap();
    let text = run(&StopRules { end_ids: vec![end], max_tokens: Some(8) }, &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!((text.ids, text.finish), (all.ids[..n].to_vec(), Finish::EndToken(end)));
    let none =
        run(
            &StopRules { end_ids: vec![], max_tokens: Some(0) },
            &mut |_| ControlFlow::Continue(()),
        );
    assert_eq!((none.ids.len(), none.finish), (0, Finish::MaxTokens));
    // A listener may stop at a token.
    let mut left = 2;
    let stopped = run(&StopRules::default(), &mut |event| match event {
        Event::Prompt { .. } => ControlFlow::Continue(()),
        Event::Token(_) => {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    });
    assert_eq!((stopped.ids, stopped.finish), (all.ids[..2].to_vec(), Finish::Stopped));
}

/// The prompt holds all ids but three, and no id may come twice: only those three are left to say. The second prompt is
/// another text: what was said before is forgotten.
#[test]
fn penalties_count_the_prompt_and_not_the_text_before() {
    let mut engine = engine();
    let params = SamplerParams {
        presence_penalty: 100.0,
        penalty_last_n: OPTIONS.n_ctx,
        ..SamplerParams::greedy()
    };
    let mut sampler = Sampler::new(params).unwrap();
    let stop = StopRules { end_ids: vec![], max_tokens: Some(3) };
    for left in [[4, 17, 50], [0, 31, 52]] {
        let prompt: Vec<u32> = (0..N_VOCAB as u32).filter(|id| !left.contains(id)).collect();
        let request = Request { seq: engine.add(), prompt: &prompt, stop: &stop };
        let text =
            model::generate(&mut engine, request, &mut sampler, &mut |_| ControlFlow::Continue(()));
        let mut ids = text.unwrap().ids;
        ids.sort_unstable();
        assert_eq!(ids, left);
    }
}

#[test]
fn a_cancelled_prompt_keeps_what_was_computed() {
    let mut engine = engine();
    let seq = engine.add();
    let ids = text(100, 1);
    let stopped = engine.prefill(seq, &ids, &mut |done| {
        if done >= 64 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(stopped.unwrap().is_none());
    assert_eq!(engine.ids(seq), &ids[..64]);
    assert_eq!(prefill(&mut engine, seq, &ids[64..]), fresh(&ids));
}

#[test]
fn forks_share_a_beginning_and_go_their_own_ways() {
    let mut engine = engine();
    let a = engine.add();
    let common = text(140, 1);
    prefill(&mut engine, a, &common);
    let b = engine.fork(a, 140).unwrap();
    // Whole blocks only.
    assert_eq!(engine.ids(b), &common[..128]);
    let (end_a, end_b) = (text(11, 4), text(23, 5));
    let all_a = [&common[..], &end_a].concat();
    let all_b = [&common[..128], &end_b].concat();
    let work = [
        Work { seq: a, tokens: &end_a, wanted: Wanted::Last },
        Work { seq: b, tokens: &end_b[..21], wanted: Wanted::None },
    ];
    let rows = engine.step(&work, &mut NoTap).unwrap();
    assert_eq!(rows[0], fresh(&all_a));
    assert!(rows[1].is_empty());
    engine.remove(a).unwrap();
    assert_eq!(prefill(&mut engine, b, &end_b[21..]), fresh(&all_b));
}

#[test]
fn steps_that_break_the_rules_are_refused_and_change_nothing() {
    let mut engine = engine();
    let a = engine.add();
    let gone = engine.add();
    engine.remove(gone).unwrap();
    let ids = text(33, 1);
    let item = |seq, tokens| Work { seq, tokens, wanted: Wanted::Last };
    let cases: [Vec<Work<'_>>; 4] = [
        vec![item(a, &ids[..0])],
        vec![item(a, &ids[..1]), item(a, &ids[1..2])],
        vec![item(a, &ids)],
        vec![item(a, &ids[..1]), item(gone, &ids[1..2])],
    ];
    for work in cases {
        assert_eq!(engine.step(&work, &mut NoTap).unwrap_err().kind(), ErrorKind::Usage);
        assert!(engine.ids(a).is_empty());
    }
    assert_eq!(prefill(&mut engine, a, &ids), fresh(&ids));
}

/// A model whose every second step fails, as on a device that is lost for a moment.
struct Flaky {
    inner: Box<dyn Loaded>,
    n: usize,
}

impl Loaded for Flaky {
    fn graph(&self) -> &Arc<Graph> {
        self.inner.graph()
    }

    fn kv_bytes(&self, blocks: &graph::Blocks) -> usize {
        self.inner.kv_bytes(blocks)
    }

    fn new_kv(&self, blocks: &graph::Blocks) -> graph::Result<Kv> {
        self.inner.new_kv(blocks)
    }

    fn stop_with(&mut self, stop: graph::Stop) {
        self.inner.stop_with(stop);
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> graph::Result<Vec<f32>> {
        self.n += 1;
        if self.n.is_multiple_of(2) {
            return Err(graph::Error::new(graph::ErrorKind::DeviceLost, "device lost"));
        }
        self.inner.run(step, kv, tap)
    }
}

#[test]
fn a_failed_step_leaves_every_sequence_as_it_was() {
    use graph::Backend as _;
    let file = Tiny::new("qwen2").file();
    let graph = Arc::new(model::graph(&model::spec(&file).unwrap(), &file).unwrap());
    let inner = graph::reference::Reference.load(graph, &[&file], LOADS[0], &mut |_| {}).unwrap();
    let mut engine = Engine::new(Box::new(Flaky { inner, n: 0 }), OPTIONS).unwrap();
    let seq = engine.add();
    let ids = text(64, 1);
    let work = |tokens| [Work { seq, tokens, wanted: Wanted::Last }];
    engine.step(&work(&ids[..30]), &mut NoTap).unwrap();
    let error = engine.step(&work(&ids[30..60]), &mut NoTap).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert_eq!(engine.ids(seq), &ids[..30]);
    engine.step(&work(&ids[30..60]), &mut NoTap).unwrap();
    engine.step(&work(&ids[60..]), &mut NoTap).unwrap_err();
    assert_eq!(engine.step(&work(&ids[60..]), &mut NoTap).unwrap()[0], fresh(&ids));
}

#[test]
fn memory_is_summed_before_anything_is_allocated() {
    let file = Tiny::new("qwen3").file();
    let graph = model::graph(&model::spec(&file).unwrap(), &file).unwrap();
    let memory = Memory::estimate(&graph, LOADS[0], &OPTIONS);
    // Every tensor of the file, each once.
    assert_eq!(memory.weights, file.tensors().iter().map(|t| t.n_bytes).sum::<u64>());
    // 3 layers × 2 heads × (32 + 32) elements of 2 bytes, in 5 blocks of 64 for each of 3 sequences.
    assert_eq!(memory.kv, 3 * 2 * 64 * 2 * (3 * 5 * 64));
    // At the gate: residual stream, norm, gate, up and their product.
    assert!(memory.work >= 32 * 4 * (96 + 3 * 160), "{memory:?}");

    assert_eq!(model::check_memory(&graph, LOADS[0], &OPTIONS, memory.total()).unwrap(), memory);
    let error = model::check_memory(&graph, LOADS[0], &OPTIONS, memory.total() - 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DoesNotFit);
    assert!(error.to_string().contains("hint: a context of 256 fits"), "{error}");
    let less = EngineOptions { n_ctx: 256, ..OPTIONS };
    assert!(model::check_memory(&graph, LOADS[0], &less, memory.total() - 1).is_ok());
    let error = model::check_memory(&graph, LOADS[0], &OPTIONS, 1000).unwrap_err();
    assert!(error.to_string().contains("no context fits"), "{error}");
    let absurd = EngineOptions {
        n_ctx: usize::MAX,
        n_batch: usize::MAX,
        n_seqs: usize::MAX,
        keep: model::Keep::All,
    };
    assert!(model::check_memory(&graph, LOADS[0], &absurd, u64::MAX - 1).is_err());
}

/// Sequences share the positions of a cache, also those with a state of their own.
#[test]
fn sequences_with_a_state_share_the_positions_of_one() {
    let options = EngineOptions { n_ctx: 256, n_batch: 17, n_seqs: 1, keep: Keep::All };
    let tiny = Tiny::new("lfm2");
    let texts = [text(100, 1), text(90, 2)];
    let alone = texts.each_ref().map(|ids| {
        let mut engine = tiny.engine(LOADS[0], options);
        let seq = engine.add();
        prefill(&mut engine, seq, ids)
    });
    let mut engine = tiny.engine(LOADS[0], options);
    let (a, b) = (engine.add(), engine.add());
    prefill(&mut engine, a, &texts[0][..50]);
    assert_eq!(prefill(&mut engine, b, &texts[1]), alone[1]);
    assert_eq!(prefill(&mut engine, a, &texts[0][50..]), alone[0]);
}

/// Where layers keep a state, a sequence goes on with what was added; one that is cut, for whatever reason, has nothing
/// left, and gives the same bits when it is read again.
#[test]
fn a_state_goes_on_or_is_read_again() {
    let options = EngineOptions { n_ctx: 320, n_batch: 17, n_seqs: 2, keep: Keep::Seen };
    let mut engine = Tiny::new("lfm2").engine(LOADS[0], options);
    let blocks = options.blocks(engine.graph());
    // Keys and values of two heads of 32, 320 positions of both sequences; eight times two states of three rows of 96
    // numbers.
    let expected = 2 * 320 * 2 * (32 + 32) * 2 + 8 * 2 * (3 * 96 * 4);
    assert_eq!(engine.graph().kv_bytes(graph::KvType::F16, &blocks), expected);
    let ids = text(80, 1);
    let read = |engine: &mut Engine, seq, ids: &[u32]| {
        let logits = engine.prefill(seq, ids, &mut |_| ControlFlow::Continue(())).unwrap();
        logits.unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let (a, b) = (engine.add(), engine.add());
    let whole = read(&mut engine, a, &ids);
    read(&mut engine, b, &ids[..70]);
    // The next turn of a chat only adds.
    assert_eq!(engine.reuse(b, &ids).unwrap(), 70);
    assert!(read(&mut engine, b, &ids[70..]) == whole);
    // Another history, the same prompt again, a cut: nothing is left.
    let other = [&ids[..60], &[3, 4]].concat();
    assert_eq!(engine.reuse(b, &other).unwrap(), 0);
    read(&mut engine, b, &other);
    assert_eq!(engine.reuse(a, &ids).unwrap(), 0);
    assert!(engine.ids(a).is_empty() && read(&mut engine, a, &ids) == whole);
    assert_eq!(engine.truncate(a, 64).unwrap(), 0);
    assert!(read(&mut engine, a, &ids) == whole);
    // A fork shares nothing. Once all eight states are taken it cannot begin.
    for _ in 2..8 {
        let short = engine.add();
        read(&mut engine, short, &ids[..1]);
    }
    let fork = engine.fork(a, 64).unwrap();
    assert!(engine.ids(fork).is_empty());
    let error = engine.decode(fork, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CacheFull, "{error}");
    engine.remove(b).unwrap();
    assert!(read(&mut engine, fork, &ids) == whole);
}

/// Guesses what it is given, whatever is asked for.
struct Fixed(Vec<u32>);

impl Drafter for Fixed {
    fn guess(&mut self, _: &[u32], _: usize) -> Vec<u32> {
        self.0.clone()
    }

    fn took(&mut self, _: Guess) {}
}

/// Ids that the model does not have, more than were asked for, and a block that a fork shares behind a wrong guess.
#[test]
fn a_guess_of_any_kind_changes_no_text() {
    let prompt = text(62, 1);
    let stop = StopRules { end_ids: vec![], max_tokens: Some(8) };
    let run = |guess: Option<Vec<u32>>| {
        let mut engine = engine();
        let first = engine.add();
        prefill(&mut engine, first, &prompt);
        let seq = engine.fork(first, prompt.len()).unwrap();
        let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
        let request = Request { seq, prompt: &prompt, stop: &stop };
        let mut go_on = |_| ControlFlow::Continue(());
        let mut generation =
            Generation::begin(&mut engine, request, &mut sampler, &mut go_on).unwrap();
        if let Some(guess) = guess {
            generation.draft_with(&engine, Box::new(Fixed(guess))).unwrap();
        }
        let mut ids = Vec::new();
        while let Some(id) = generation.next_id(&mut engine, &mut sampler).unwrap() {
            ids.push(id);
        }
        (ids, engine.ids(seq).to_vec())
    };
    let wanted = run(None);
    let right = wanted.0[1..].to_vec();
    for guess in [
        vec![],
        vec![u32::MAX],
        vec![N_VOCAB as u32],
        vec![right[0], u32::MAX],
        [&right[..2], &[1; 100]].concat(),
        [&right[..], &right[..]].concat(),
        vec![3; 300],
    ] {
        assert_eq!(run(Some(guess.clone())), wanted, "{guess:?}");
    }
}
