//! Each architecture on a tiny random model: its graph as text, and the same bits however a text is cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LOADS, Tiny, archs, text};
use expect_test::expect_file;
use graph::NoTap;
use model::{Engine, EngineOptions, Wanted, Work};

/// Longer than a cache block, so that attention has more than one chunk.
const LEN: usize = 70;
const OPTIONS: EngineOptions =
    EngineOptions { n_ctx: 256, n_batch: 512, n_seqs: 3, keep: model::Keep::All };

/// Graph, rope tables and caches as text. `UPDATE_EXPECT=1 cargo test` writes the files anew.
fn snapshot(tiny: &Tiny) -> String {
    use std::fmt::Write as _;
    let file = tiny.file();
    let graph = model::graph(&model::spec(&file).unwrap(), &file).unwrap();
    let mut out = graph.to_string();
    for (i, rope) in graph.rope_tables.iter().enumerate() {
        write!(out, "rope#{i} mscale {:.9} freqs", rope.mscale).unwrap();
        rope.freqs.iter().for_each(|freq| write!(out, " {freq:.9e}").unwrap());
        if let Some(long) = &rope.long {
            write!(out, "\nrope#{i} above {} positions", long.above).unwrap();
            long.freqs.iter().for_each(|freq| write!(out, " {freq:.9e}").unwrap());
        }
        out.push('\n');
    }
    out
}

#[test]
fn graphs() {
    for arch in archs() {
        expect_file![format!("snapshots/{arch}.txt")].assert_eq(&snapshot(&Tiny::new(arch)));
    }
    expect_file!["snapshots/llama-experts.txt"].assert_eq(&snapshot(&mixtral()));
}

/// Mixtral is a llama with experts.
fn mixtral() -> Tiny {
    Tiny::with("llama", Tiny::experts)
}

/// The bits of all logits of a text that is cut into pieces of the lengths of `cut`, over and over.
fn bits(engine: &mut Engine, ids: &[u32], cut: &[usize]) -> Vec<u32> {
    let seq = engine.add();
    let mut bits = Vec::new();
    let mut rest = ids;
    for &n in cut.iter().cycle() {
        let (tokens, after) = rest.split_at(n.min(rest.len()));
        let rows = engine.step(&[Work { seq, tokens, wanted: Wanted::All }], &mut NoTap).unwrap();
        bits.extend(rows[0].iter().map(|x| x.to_bits()));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    engine.remove(seq).unwrap();
    bits
}

/// The first text's bits where three unlike texts share every step.
fn batched_bits(engine: &mut Engine, ids: &[u32]) -> Vec<u32> {
    let others = [text(90, 3), text(33, 5)];
    let [a, b, c] = [engine.add(), engine.add(), engine.add()];
    let mut bits = Vec::new();
    // The others are ahead, behind, and out of step.
    engine.prefill(c, &others[1][..20], &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let (mut at, mut at_b, mut at_c) = (0, 0, 20);
    while at < ids.len() {
        let (n, n_b) = (5.min(ids.len() - at), 6.min(others[0].len() - at_b));
        let mut work = vec![
            Work { seq: b, tokens: &others[0][at_b..at_b + n_b], wanted: Wanted::None },
            Work { seq: a, tokens: &ids[at..at + n], wanted: Wanted::All },
        ];
        if at_c < others[1].len() {
            work.push(Work { seq: c, tokens: &others[1][at_c..at_c + 1], wanted: Wanted::Last });
            at_c += 1;
        }
        let rows = engine.step(&work, &mut NoTap).unwrap();
        bits.extend(rows[1].iter().map(|x| x.to_bits()));
        (at, at_b) = (at + n, at_b + n_b);
    }
    [a, b, c].into_iter().for_each(|seq| engine.remove(seq).unwrap());
    bits
}

/// Prefill = one by one = chunks = in a batch of unlike texts, in both arithmetics and both caches, bit for bit.
#[test]
fn same_bits_however_a_text_is_cut() {
    let ids = text(LEN, 1);
    for (i, tiny) in archs().map(Tiny::new).chain([mixtral()]).enumerate() {
        let arch = tiny.arch;
        // The loads share the cuts of one length, and all but one architecture the loads: all of both would take minutes.
        let loads = LOADS.into_iter().zip([&[1][..], &[3], &[17]]);
        let own = |n: usize| arch == model::synth::base() || n == i % LOADS.len();
        for (_, (load, alone)) in loads.enumerate().filter(|(n, _)| own(*n)) {
            let mut engine = tiny.engine(load, OPTIONS);
            let whole = bits(&mut engine, &ids, &[LEN]);
            assert_eq!(whole.len(), LEN * engine.n_vocab());
            assert!(whole.iter().all(|&x| f32::from_bits(x).is_finite()), "{arch} {load:?}");
            for cut in [alone, &[1, 3, 17, 2]] {
                assert!(whole == bits(&mut engine, &ids, cut), "{arch} {load:?} cut {cut:?}");
            }
            assert!(whole == batched_bits(&mut engine, &ids), "{arch} {load:?} batched");
        }
    }
}

/// The test above would pass on a model that ignores its context: it must not.
#[test]
fn logits_depend_on_the_context() {
    for arch in archs() {
        let mut engine = Tiny::new(arch).engine(LOADS[0], OPTIONS);
        let ids = text(LEN, 1);
        let n_vocab = engine.n_vocab();
        let whole = bits(&mut engine, &ids, &[LEN]);
        let mut other = ids.clone();
        other[LEN - 4] = (other[LEN - 4] + 1) % n_vocab as u32;
        let changed = bits(&mut engine, &other, &[LEN]);
        assert_eq!(
            whole[..(LEN - 4) * n_vocab],
            changed[..(LEN - 4) * n_vocab],
            "{arch} sees the future"
        );
        assert_ne!(whole[(LEN - 1) * n_vocab..], changed[(LEN - 1) * n_vocab..], "{arch} forgets");
        // The same ids one place later: only positions differ.
        let shifted: Vec<u32> = [ids[0]].iter().chain(&ids).copied().collect();
        let later = bits(&mut engine, &shifted, &[LEN + 1]);
        assert_ne!(whole[(LEN - 1) * n_vocab..], later[LEN * n_vocab..], "{arch}");
    }
}
