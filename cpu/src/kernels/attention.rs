//! Attention over the paged cache. Meaning: `graph::ops::attention`.
//!
//! A cache block holds 64 positions: K as `[head][d][64]`, so that lanes = positions and a score is one fma chain down
//! d; V as `[head][64][d]`, so that lanes = d and the output is one fma chain down the positions. Both chains are the
//! contract's.
//!
//! v1 (this): one head of one token at a time.

use super::rms_norm::tree;
use super::{elementwise::softcap, lanes, lanes_mut};
use crate::kv::{Elem, Layer};
use crate::simd::{Isa, Kernel, LANES, exp};
use graph::{Attention, KV_BLOCK};

/// Vectors across a block's positions.
const VECTORS: usize = KV_BLOCK / LANES;

/// Attention of one query head of one token.
pub(crate) struct Head<'a, E: Elem> {
    pub(crate) attention: &'a Attention,
    pub(crate) layer: &'a Layer<E>,
    pub(crate) head_kv: usize,
    /// Cache blocks of the sequence.
    pub(crate) table: &'a [u32],
    pub(crate) position: u32,
    /// `[head_dim_k]`
    pub(crate) q: &'a [f32],
    /// `[head_dim_v]`
    pub(crate) out: &'a mut [f32],
    /// Room for one chunk's output, padded to whole vectors.
    pub(crate) scratch: &'a mut Scratch,
}

/// Buffers that live as long as a thread's share of the op.
#[derive(Default)]
pub(crate) struct Scratch {
    acc: Vec<f32>,
    next: Vec<f32>,
}

impl<E: Elem> Kernel for Head<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let dv = self.out.len();
        let padded = dv.next_multiple_of(LANES);
        self.scratch.acc.resize(padded, 0.0);
        self.scratch.next.resize(padded, 0.0);
        let first =
            graph::ops::attention::first_visible(self.position, self.attention.window) as usize;
        let last = self.position as usize;
        let (mut max, mut sum) = (0.0f32, 0.0f32);
        for chunk in first / KV_BLOCK..=last / KV_BLOCK {
            let block = self.table[chunk] as usize;
            let from = first.saturating_sub(chunk * KV_BLOCK);
            let to = (last - chunk * KV_BLOCK).min(KV_BLOCK - 1);
            let (p, chunk_max) = self.weights(isa, block, (from, to));
            let chunk_sum = tree(isa, &p);
            let is_first = chunk == first / KV_BLOCK;
            let into = if is_first { &mut self.scratch.acc } else { &mut self.scratch.next };
            weighted_sum(isa, self.layer.values(block, self.head_kv), &p[..=to], from, (dv, into));
            if is_first {
                (max, sum) = (chunk_max, chunk_sum);
                continue;
            }
            let new_max = if chunk_max > max { chunk_max } else { max };
            let (a, b) = (graph::math::exp(max - new_max), graph::math::exp(chunk_max - new_max));
            sum = sum.mul_add(a, chunk_sum * b);
            let (va, vb) = (isa.f_splat(a), isa.f_splat(b));
            for i in (0..padded).step_by(LANES) {
                let next = isa.f_mul(isa.f_load(lanes(&self.scratch.next, i)), vb);
                let acc = isa.f_fma(isa.f_load(lanes(&self.scratch.acc, i)), va, next);
                isa.f_store(acc, lanes_mut(&mut self.scratch.acc, i));
            }
            max = new_max;
        }
        let inverse = 1.0 / sum;
        for (out, acc) in self.out.iter_mut().zip(&self.scratch.acc) {
            *out = acc * inverse;
        }
    }
}

impl<E: Elem> Head<'_, E> {
    /// `exp(s - max)` for the positions `from ..= to` of a block, 0 for the others, and the maximum.
    #[inline(always)]
    fn weights<I: Isa>(
        &self,
        isa: I,
        block: usize,
        (from, to): (usize, usize),
    ) -> ([f32; KV_BLOCK], f32) {
        let keys = self.layer.keys(block, self.head_kv);
        let mut total = [isa.f_splat(0.0); VECTORS];
        for (q, keys) in self
            .q
            .chunks(graph::math::DOT_CHUNK)
            .zip(keys.chunks(graph::math::DOT_CHUNK * KV_BLOCK))
        {
            let mut acc = [isa.f_splat(0.0); VECTORS];
            for (&q, k) in q.iter().zip(keys.chunks_exact(KV_BLOCK)) {
                let q = isa.f_splat(q);
                for v in 0..VECTORS {
                    acc[v] = isa.f_fma(E::load(isa, lanes(k, v * LANES)), q, acc[v]);
                }
            }
            for v in 0..VECTORS {
                total[v] = isa.f_add(total[v], acc[v]);
            }
        }
        let mut s = [0.0f32; KV_BLOCK];
        let scale = isa.f_splat(self.attention.scale);
        for v in 0..VECTORS {
            let scaled = isa.f_mul(total[v], scale);
            let capped = self.attention.softcap.map_or(scaled, |cap| softcap(isa, scaled, cap));
            isa.f_store(capped, lanes_mut(&mut s, v * LANES));
        }
        // What the cache holds at unseen positions is no one's business: it never reaches a sum.
        s[..from].fill(f32::NEG_INFINITY);
        s[to + 1..].fill(f32::NEG_INFINITY);
        let max = s.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        let mut p = [0.0f32; KV_BLOCK];
        for v in 0..VECTORS {
            let x = isa.f_sub(isa.f_load(lanes(&s, v * LANES)), isa.f_splat(max));
            isa.f_store(exp(isa, x), lanes_mut(&mut p, v * LANES));
        }
        p[..from].fill(0.0);
        p[to + 1..].fill(0.0);
        (p, max)
    }
}

/// `out[d] = Σ p[j] · v[j][d]` for j from `from`, one chain in order. `out` is padded to whole vectors.
#[inline(always)]
fn weighted_sum<I: Isa, E: Elem>(
    isa: I,
    values: &[E],
    p: &[f32],
    from: usize,
    (dv, out): (usize, &mut [f32]),
) {
    let whole = dv / LANES * LANES;
    // Four vectors side by side hide the latency of the chain.
    let mut d = 0;
    while d + 4 * LANES <= whole {
        columns::<I, E, 4>(isa, values, p, from, (dv, d, out));
        d += 4 * LANES;
    }
    while d < whole {
        columns::<I, E, 1>(isa, values, p, from, (dv, d, out));
        d += LANES;
    }
    for d in whole..dv {
        let mut acc = 0.0f32;
        for j in from..p.len() {
            acc = p[j].mul_add(values[j * dv + d].to_f32(), acc);
        }
        out[d] = acc;
    }
}

#[inline(always)]
fn columns<I: Isa, E: Elem, const N: usize>(
    isa: I,
    values: &[E],
    p: &[f32],
    from: usize,
    (dv, d, out): (usize, usize, &mut [f32]),
) {
    let mut acc = [isa.f_splat(0.0); N];
    for (j, row) in values.chunks_exact(dv).enumerate().take(p.len()).skip(from) {
        let p = isa.f_splat(p[j]);
        for v in 0..N {
            acc[v] = isa.f_fma(p, E::load(isa, lanes(row, d + v * LANES)), acc[v]);
        }
    }
    for v in 0..N {
        isa.f_store(acc[v], lanes_mut(out, d + v * LANES));
    }
}
