//! The KV cache in the layout that attention reads: blocks of 64 positions, K with lanes = positions.

use crate::simd::{Isa, LANES};
use graph::{KV_BLOCK, KvLayer};
use half::f16;

/// Element of a cache: the bits of an f16, or an f32.
pub(crate) trait Elem: Copy + Default + Send + Sync + 'static {
    /// Sixteen elements, widened.
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F;
    /// Rounded for storing.
    fn from_f32(x: f32) -> Self;
    /// Widened.
    fn to_f32(self) -> f32;
}

impl Elem for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F {
        isa.f_load(x)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Elem for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F {
        isa.f_load_f16(x)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x).to_bits()
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::from_bits(self).to_f32()
    }
}

/// The cache of one layer: K `[block][head][d][64]`, V `[block][head][64][d]`.
pub(crate) struct Layer<E> {
    spec: KvLayer,
    k: Vec<E>,
    v: Vec<E>,
}

impl<E: Elem> Layer<E> {
    /// A zeroed cache, or `None` where memory is short.
    pub(crate) fn new(spec: KvLayer, n_blocks: usize) -> Option<Self> {
        let zeros = |dim: usize| -> Option<Vec<E>> {
            let n =
                n_blocks.checked_mul(KV_BLOCK)?.checked_mul(spec.n_head_kv)?.checked_mul(dim)?;
            let mut v = Vec::new();
            v.try_reserve_exact(n).ok()?;
            v.resize(n, E::default());
            Some(v)
        };
        Some(Self { spec, k: zeros(spec.head_dim_k)?, v: zeros(spec.head_dim_v)? })
    }

    /// Elements of a K head.
    pub(crate) fn head_dim_k(&self) -> usize {
        self.spec.head_dim_k
    }

    /// Elements of a V head.
    pub(crate) fn head_dim_v(&self) -> usize {
        self.spec.head_dim_v
    }

    /// Keys of one block and head: `[head_dim_k][64]`.
    #[inline(always)]
    pub(crate) fn keys(&self, block: usize, head: usize) -> &[E] {
        let n = self.spec.head_dim_k * KV_BLOCK;
        &self.k[(block * self.spec.n_head_kv + head) * n..][..n]
    }

    /// Values of one block and head: `[64][head_dim_v]`.
    #[inline(always)]
    pub(crate) fn values(&self, block: usize, head: usize) -> &[E] {
        let n = self.spec.head_dim_v * KV_BLOCK;
        &self.v[(block * self.spec.n_head_kv + head) * n..][..n]
    }

    /// Stores one token's k and v (all heads) at a place of a block.
    pub(crate) fn store(&mut self, (block, place): (usize, usize), k: &[f32], v: &[f32]) {
        let KvLayer { n_head_kv, head_dim_k, head_dim_v } = self.spec;
        for head in 0..n_head_kv {
            let at = (block * n_head_kv + head) * KV_BLOCK;
            let keys = &mut self.k[at * head_dim_k..][..head_dim_k * KV_BLOCK];
            for (d, &k) in k[head * head_dim_k..][..head_dim_k].iter().enumerate() {
                keys[d * KV_BLOCK + place] = E::from_f32(k);
            }
            let values = &mut self.v[(at + place) * head_dim_v..][..head_dim_v];
            for (to, &v) in values.iter_mut().zip(&v[head * head_dim_v..]) {
                *to = E::from_f32(v);
            }
        }
    }
}
