//! Grouped attention over cached keys and values, in chunks of [`KV_BLOCK`] positions (the recurrence of
//! arXiv 1805.02867, as in FlashAttention). Fast version: `cpu/src/kernels/attention.rs`.

use crate::math::{dot_f32, exp, fma, softcap, sum_strided};
use crate::{Attention, KV_BLOCK};

/// One chunk's partial softmax for one query head.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Largest score of the chunk.
    pub max: f32,
    /// `Σ exp(s - max)`.
    pub sum: f32,
    /// `Σ exp(s - max) · v`, one entry for each element of a V head.
    pub out: Vec<f32>,
}

/// Scores of one query against the keys `first ..= last`: `q · k · scale`, then the cap.
pub fn scores(a: &Attention, q: &[f32], keys: &[&[f32]]) -> Vec<f32> {
    let scaled = keys.iter().map(|k| dot_f32(k, q) * a.scale);
    scaled.map(|s| a.softcap.map_or(s, |cap| softcap(s, cap))).collect()
}

/// One chunk: `keys` and `values` are the visible positions of it; `lane` is the first one's place in the chunk.
///
/// The sum is [`sum_strided`] over the chunk's 64 places, those unseen being 0; the output is one fma chain over the
/// positions in order.
pub fn chunk(a: &Attention, q: &[f32], keys: &[&[f32]], values: &[&[f32]], lane: usize) -> Partial {
    let s = scores(a, q, keys);
    let max = s.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    let mut p = [0.0f32; KV_BLOCK];
    for (i, s) in s.iter().enumerate() {
        p[lane + i] = exp(s - max);
    }
    let sum = sum_strided(&p, |acc, v| acc + v);
    let mut out = vec![0.0f32; values.first().map_or(0, |v| v.len())];
    for (i, v) in values.iter().enumerate() {
        for d in 0..out.len() {
            out[d] = fma(p[lane + i], v[d], out[d]);
        }
    }
    Partial { max, sum, out }
}

/// Takes the next chunk into the running result.
///
/// `M = max(max, next.max)`, `a = exp(max - M)`, `b = exp(next.max - M)`, `sum = fma(sum, a, next.sum · b)`,
/// `out = fma(out, a, next.out · b)`.
pub fn merge(acc: &mut Partial, next: &Partial) {
    let max = if next.max > acc.max { next.max } else { acc.max };
    let (a, b) = (exp(acc.max - max), exp(next.max - max));
    acc.sum = fma(acc.sum, a, next.sum * b);
    for (o, n) in acc.out.iter_mut().zip(&next.out) {
        *o = fma(*o, a, n * b);
    }
    acc.max = max;
}

/// Attention of one head of one token. `key(p)` and `value(p)` give the cached head at position p.
///
/// Chunks begin at multiples of [`KV_BLOCK`]; chunks with no visible position are left out; the result is
/// `out · (1 / sum)`.
pub fn head<'a>(
    a: &Attention,
    q: &[f32],
    position: u32,
    key: impl Fn(u32) -> &'a [f32],
    value: impl Fn(u32) -> &'a [f32],
) -> Vec<f32> {
    head_over(
        a,
        q,
        Seen { first: a.mask.first_visible(position), last: position, sink: None },
        key,
        value,
    )
}

/// What one head of one token attends to.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The first position.
    pub first: u32,
    /// The last position.
    pub last: u32,
    /// The head's sink.
    pub sink: Option<f32>,
}

/// [`head`] over any positions, and with a sink: it is merged after the last chunk, as a chunk of its own with the maximum
/// `sink`, the sum 1 and no value.
pub fn head_over<'a>(
    a: &Attention,
    q: &[f32],
    seen: Seen,
    key: impl Fn(u32) -> &'a [f32],
    value: impl Fn(u32) -> &'a [f32],
) -> Vec<f32> {
    let mut acc: Option<Partial> = None;
    let mut first = seen.first;
    while first <= seen.last {
        let lane = first as usize % KV_BLOCK;
        let last = seen.last.min(first - lane as u32 + KV_BLOCK as u32 - 1);
        let keys: Vec<&[f32]> = (first..=last).map(&key).collect();
        let values: Vec<&[f32]> = (first..=last).map(&value).collect();
        let next = chunk(a, q, &keys, &values, lane);
        match &mut acc {
            None => acc = Some(next),
            Some(acc) => merge(acc, &next),
        }
        first = last + 1;
    }
    let Some(mut acc) = acc else { return Vec::new() };
    if let Some(sink) = seen.sink {
        let out = vec![0.0; acc.out.len()];
        merge(&mut acc, &Partial { max: sink, sum: 1.0, out });
    }
    let inverse = 1.0 / acc.sum;
    acc.out.iter().map(|o| o * inverse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheId, Mask};

    /// Counted by hand: a window of w positions ends at the token itself and holds it. llama.cpp hides position p0 from
    /// p1 where `p1 - p0 >= n_swa` (`llama_hparams::is_masked_swa`, standard windows).
    #[test]
    fn a_window_holds_the_token_and_those_before_it() {
        for (position, window, first) in [
            (0, None, 0),
            (4095, None, 0),
            (0, Some(1), 0),
            (7, Some(1), 7),
            (7, Some(3), 5),
            (7, Some(8), 0),
            (7, Some(9), 0),
            (8, Some(8), 1),
            (63, Some(64), 0),
            (64, Some(64), 1),
            (4095, Some(4096), 0),
            (4096, Some(4096), 1),
            (10_000, Some(512), 9_489),
        ] {
            let mask = window.map_or(Mask::Causal, Mask::Window);
            assert_eq!(mask.first_visible(position), first, "{position} {window:?}");
        }
    }

    #[test]
    fn equals_softmax_in_f64() {
        let (n, dim) = (200u32, 12usize);
        let data = |seed: usize| -> Vec<f32> {
            (0..n as usize * dim)
                .map(|i| ((i * 31 + seed * 17) as f32 * 0.37).sin() * 2.0)
                .collect()
        };
        let (k, v) = (data(1), data(2));
        let q: Vec<f32> = data(3)[..dim].to_vec();
        let at = |m: &'static [f32], p: u32| &m[p as usize * dim..][..dim];
        let (k, v): (&'static [f32], &'static [f32]) = (k.leak(), v.leak());
        // The last of 200 positions, 199, sees all, 130 to 199, or itself.
        for (window, first, cap) in [
            (None, 0, None),
            (Some(70), 130, None),
            (Some(64), 136, None),
            (None, 0, Some(5.0)),
            (Some(1), 199, None),
        ] {
            let mask = window.map_or(Mask::Causal, Mask::Window);
            let a = Attention {
                cache: CacheId(0),
                n_head: 1,
                scale: 0.3,
                mask,
                sinks: None,
                softcap: cap,
            };
            let got = head(&a, &q, n - 1, |p| at(k, p), |p| at(v, p));
            let s: Vec<f64> = (first..n)
                .map(|p| {
                    let s: f64 =
                        at(k, p).iter().zip(&q).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let s = s * f64::from(0.3f32);
                    cap.map_or(s, |c: f32| f64::from(c) * (s / f64::from(c)).tanh())
                })
                .collect();
            let max = s.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = s.iter().map(|s| (s - max).exp()).sum();
            for d in 0..dim {
                let want: f64 = s
                    .iter()
                    .zip(first..n)
                    .map(|(s, p)| (s - max).exp() / sum * f64::from(at(v, p)[d]))
                    .sum();
                assert!((f64::from(got[d]) - want).abs() < 2e-6, "{window:?} {cap:?} {d}");
            }
        }
    }

    /// Two positions with scores 0 and ln 3, and a sink of ln 4: the weights are 1/8 and 3/8, the sink takes the rest.
    #[test]
    fn a_sink_takes_its_share_and_brings_nothing() {
        let mask = Mask::Causal;
        let a = Attention {
            cache: CacheId(0),
            n_head: 1,
            scale: 1.0,
            mask,
            sinks: None,
            softcap: None,
        };
        let (keys, values) = ([[0.0], [3f32.ln()]], [[8.0], [16.0]]);
        let seen = Seen { first: 0, last: 1, sink: Some(4f32.ln()) };
        let key = |p: u32| keys[p as usize].as_slice();
        let value = |p: u32| values[p as usize].as_slice();
        let got = head_over(&a, &[1.0], seen, key, value);
        assert!((got[0] - (8.0 / 8.0 + 3.0 * 16.0 / 8.0)).abs() < 1e-5, "{got:?}");
        let without = head_over(&a, &[1.0], Seen { sink: None, ..seen }, key, value);
        assert!((without[0] - (8.0 + 3.0 * 16.0) / 4.0).abs() < 1e-5, "{without:?}");
    }

    #[test]
    fn masks_show_what_they_say() {
        let seen = |mask: Mask| (mask.first_visible(10), mask.last_visible(10, 20));
        assert_eq!(seen(Mask::Causal), (0, 10));
        assert_eq!(seen(Mask::Window(4)), (7, 10));
        assert_eq!(seen(Mask::Window(11)), (0, 10));
        assert_eq!(seen(Mask::Window(100)), (0, 10));
        assert_eq!(seen(Mask::None), (0, 20));
    }
}
