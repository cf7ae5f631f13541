//! Hypotheses about ops that read what a sequence has stored: attention and short convolutions.

use super::{Hear, Kind, Scene, vector};
use graph::ops::{attention, ssm_conv};
use graph::{CacheId, FREED, KvCache, Mask, Span, WeightId};

pub(super) fn attended(scene: &Scene<'_>, a: &graph::Attention, hear: &mut Hear<'_>) {
    let ([k, v], Some(q)) = (scene.cache.halves(a.cache), scene.inputs.first()) else { return };
    let spec = scene.graph.kv(a.cache);
    let (dk, dv, n_kv) = (spec.head_dim_k, spec.head_dim_v, spec.n_head_kv);
    let heads_per_kv = a.n_head / n_kv.max(1);
    // The hypotheses below read the cache of the first sequence only.
    let Some(&last) = scene.step.positions.last() else { return };
    if scene.step.seqs.iter().any(|&s| s != 0) {
        return;
    }
    let step = scene.step;
    let run = |a: &graph::Attention,
               map: &dyn Fn(usize) -> usize,
               seen: &dyn Fn(u32) -> u32,
               place: &dyn Fn(u32, u32) -> u32| {
        let mut out = Vec::with_capacity(scene.right.len());
        for (t, q) in q.chunks(a.n_head * dk).enumerate() {
            let own = scene.step.positions[t];
            for (h, q) in q.chunks(dk).enumerate() {
                let slot = |p: u32| step.slot(spec.group, 0, place(own, p));
                let at = |p: u32, dim: usize| (slot(p) * n_kv + map(h)) * dim;
                let head = attention::head(
                    a,
                    q,
                    seen(own),
                    |p| &k[at(p, dk)..][..dk],
                    |p| &v[at(p, dv)..][..dv],
                );
                out.extend(head);
            }
        }
        out
    };
    let (grouped, upto, here) = (|h: usize| h / heads_per_kv, |p: u32| p, |_: u32, p: u32| p);
    let newest = |own: u32, p: u32| if p == own { own.saturating_sub(1) } else { p };
    let plain = graph::Attention { scale: 1.0, ..*a };
    let tests: [(Kind, Vec<f32>); 6] = [
        (Kind::HeadMapping, run(a, &|h| h % n_kv, &upto, &here)),
        (Kind::HeadMapping, run(a, &|_| 0, &upto, &here)),
        (Kind::NoCausalMask, run(a, &grouped, &|_| last, &here)),
        (Kind::NoScoreScale, run(&plain, &grouped, &upto, &here)),
        (Kind::StaleCache, run(a, &grouped, &|p| p.saturating_sub(1), &here)),
        (Kind::StaleCache, run(a, &grouped, &upto, &newest)),
    ];
    for (kind, would) in tests {
        if scene.test(kind, &would, hear) {
            return;
        }
    }
    // A hypothesis that looks further back needs what is there.
    let freed = step.tables.iter().any(|table| table.of(spec.group).contains(&FREED));
    if let Some(window) = a.mask.window().filter(|_| !freed) {
        let fewer = window.saturating_sub(1).max(1);
        for mask in [Mask::Causal, Mask::Window(window + 1), Mask::Window(fewer)] {
            let wide = graph::Attention { mask, ..*a };
            if scene.test(Kind::Window, &run(&wide, &grouped, &upto, &here), hear) {
                return;
            }
        }
    }
    reordered(scene, a, hear);
}

/// Tries the right value with its heads in another order.
fn reordered(scene: &Scene<'_>, a: &graph::Attention, hear: &mut Hear<'_>) {
    let KvCache { n_head_kv: n_kv, head_dim_v: dv, .. } = scene.graph.kv(a.cache);
    let (n_head, heads_per_kv) = (a.n_head, a.n_head / n_kv.max(1));
    let order = |map: &dyn Fn(usize) -> usize| -> Vec<f32> {
        let heads = scene.right.chunks(n_head * dv);
        heads.flat_map(|row| (0..n_head).flat_map(|h| row[map(h) * dv..][..dv].to_vec())).collect()
    };
    let swapped = order(&|h| h % heads_per_kv * n_kv + h / heads_per_kv);
    let back = order(&|h| h % n_kv * heads_per_kv + h / n_kv);
    let reversed = order(&|h| n_head - 1 - h);
    for would in [swapped, back, reversed] {
        if scene.test(Kind::HeadOrder, &would, hear) {
            return;
        }
    }
}

pub(super) fn convolved(scene: &Scene<'_>, w: WeightId, cache: CacheId, hear: &mut Hear<'_>) {
    let Some(w) = vector(scene, w) else { return };
    let (group, cols, step) = (scene.graph.state(cache).group, scene.cols, scene.step);
    let kept = scene.graph.state(cache).len / cols;
    // The rows before the step's own: what the sequence had read, behind zeros.
    let state = |span: &Span| {
        let read = span.position as usize * cols;
        let all = &scene.cache.rows(cache)[step.state_block(group, span.seq)][..read];
        [&vec![0.0; kept * cols], all].concat()[read..].to_vec()
    };
    let run = |w: &[f32], has_state: bool| {
        let mut out = vec![0.0; scene.right.len()];
        for span in step.spans() {
            let own = span.tokens.start * cols..span.tokens.end * cols;
            let state = if has_state { state(&span) } else { vec![0.0; kept * cols] };
            let rows = ssm_conv::Rows { state: &state, x: &scene.inputs[0][own.clone()], cols };
            ssm_conv::ssm_conv(w, rows, &mut out[own]);
        }
        out
    };
    let reversed: Vec<f32> = w.chunks(kept + 1).flat_map(|w| w.iter().rev().copied()).collect();
    for (kind, would) in [(Kind::RowOrder, run(&reversed, true)), (Kind::NoState, run(&w, false))] {
        if scene.test(kind, &would, hear) {
            return;
        }
    }
}
