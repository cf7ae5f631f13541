//! Causal grouped attention: the softmax of all scores at once.

use crate::bound::{Exact, U, U_F16, gamma};
use graph::{Attention, KvCache, Mask, Step};
use std::ops::RangeInclusive;

/// What two exps and a merge of chunks are wrong by, in roundings.
const EXPS: usize = 32;

/// What attention reads besides its queries.
pub(super) struct Memory<'a> {
    pub(super) spec: KvCache,
    /// K and V of the cache, `[slot][n_head_kv · head_dim]`.
    pub(super) kv: &'a [Vec<f32>; 2],
    /// One for each query head.
    pub(super) sinks: Option<&'a [f64]>,
}

/// Attention of every head of every token. A score that is wrong by δ makes its weight wrong by the share `e^δ − 1`, and
/// so do the others by way of the sum. With `f16` another engine may round q and the weights to f16 and add up V in f16,
/// as ggml does; the roundings of that sum fall to either side, hence the root.
pub(super) fn attention(
    a: &Attention,
    memory: &Memory<'_>,
    step: &Step,
    q: &[f32],
    f16: bool,
) -> Exact {
    let &Memory { spec, kv: [k, v], sinks } = memory;
    let (dk, dv) = (spec.head_dim_k, spec.head_dim_v);
    let mut exact = Exact::with_room(q.len() / dk.max(1) * dv);
    for (t, q) in q.chunks(a.n_head * dk).enumerate() {
        let (seq, last) = (step.seqs[t], step.positions[t]);
        let seen = visible(a.mask, last, step.end_for(a.mask, t));
        let rows: Vec<usize> = seen.map(|p| step.slot(spec.group, seq, p)).collect();
        for (h, q) in q.chunks(dk).enumerate() {
            let h_kv = h / (a.n_head / spec.n_head_kv);
            let key = |row: usize| &k[(row * spec.n_head_kv + h_kv) * dk..][..dk];
            let value = |row: usize| &v[(row * spec.n_head_kv + h_kv) * dv..][..dv];
            let mut scores: Vec<Score> =
                rows.iter().map(|&row| score(a, q, key(row), f16)).collect();
            // A sink is one more score, without a value.
            let sink = sinks.map(|sinks| sinks[h]);
            scores.extend(sink.map(|value| Score { value, wrong: 0.0, size: value.abs() }));
            let none = vec![0.0; dv];
            let value = |i: usize| rows.get(i).map_or(none.as_slice(), |&row| value(row));
            head(&scores, dv, value, f16, &mut exact);
        }
    }
    exact
}

/// The positions that a token sees, written apart from [`Mask`]'s own rule: a window of n positions is the token's own
/// and the n - 1 before it.
fn visible(mask: Mask, position: u32, end: u32) -> RangeInclusive<u32> {
    match mask {
        Mask::Causal => 0..=position,
        Mask::Window(n) if n > position => 0..=position,
        Mask::Window(n) => position - (n - 1)..=position,
        Mask::None => 0..=end,
    }
}

/// A score, and what it may be wrong by.
struct Score {
    value: f64,
    wrong: f64,
    size: f64,
}

fn score(a: &Attention, q: &[f32], k: &[f32], f16: bool) -> Score {
    let (mut dot, mut size) = (0.0, 0.0);
    for (&q, &k) in q.iter().zip(k) {
        let product = f64::from(q) * f64::from(k);
        (dot, size) = (dot + product, size + product.abs());
    }
    let scale = f64::from(a.scale);
    let (mut value, size) = (dot * scale, size * scale.abs());
    let mut wrong = (gamma(q.len() + 4) + if f16 { U_F16 } else { 0.0 }) * size;
    if let Some(cap) = a.softcap {
        let cap = f64::from(cap);
        value = cap * (value / cap).tanh();
        wrong += 16.0 * U * cap;
    }
    Score { value, wrong, size }
}

fn head<'v>(
    scores: &[Score],
    dv: usize,
    value: impl Fn(usize) -> &'v [f32],
    f16: bool,
    exact: &mut Exact,
) {
    let max = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
    let worst = scores.iter().map(|s| s.wrong).fold(0.0, f64::max);
    let size = scores.iter().map(|s| s.size).fold(0.0, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s.value - max).exp()).collect();
    let share = |s: &Score| (s.wrong + worst + 2.0 * U * (s.value - max).abs()).exp_m1();
    let shares: Vec<f64> = scores.iter().map(share).collect();
    let sum: f64 = weights.iter().sum();
    let by_sum = weights.iter().zip(&shares).map(|(w, e)| w * e).sum::<f64>() / sum;
    let n = scores.len();
    let added = gamma(n + EXPS) + if f16 { 4.0 * (n as f64).sqrt() * U_F16 } else { 0.0 };
    for d in 0..dv {
        let (mut out, mut bound, mut most) = (0.0, 0.0, 0.0f64);
        for i in 0..n {
            let v = f64::from(value(i)[d]);
            out += weights[i] * v;
            bound += (weights[i] * (shares[i] + by_sum + added) + 1e-36) * v.abs();
            most += v.abs();
        }
        exact.push(out / sum, bound / sum + 1e-36, most.max(size));
    }
}
