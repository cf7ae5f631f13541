//! The KV cache in the layout that attention reads: blocks of 64 positions, K with lanes = positions. Beside it the states
//! of layers that keep one.

use crate::kernels::{lanes, lanes_mut};
use crate::pool::Workers;
use crate::simd::{Isa, Kernel, LANES};
use graph::{KV_BLOCK, KvCache, Span, StateCache, Step};
use half::f16;
use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Element of a cache: the bits of an f16, or an f32.
pub(crate) trait Elem: bytemuck::Pod + Default + Send + Sync {
    /// Sixteen elements, widened.
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F;
    /// Stores sixteen elements, rounded.
    fn store<I: Isa>(isa: I, x: I::F, to: &mut [Self; LANES]);
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
    fn store<I: Isa>(isa: I, x: I::F, to: &mut [Self; LANES]) {
        isa.f_store(x, to);
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
    fn store<I: Isa>(isa: I, x: I::F, to: &mut [Self; LANES]) {
        isa.f_store_f16(x, to);
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

/// The cache of one layer: K `[block][head][d][64]`, V `[block][head][64][d]`, or none where values are the first elements
/// of keys.
pub(crate) struct Layer<E> {
    spec: KvCache,
    k: Zeroed<E>,
    v: Zeroed<E>,
}

/// Zeroed memory straight from the system, in huge pages where it has them: a page takes no memory, and no time, before
/// something is stored in it.
struct Zeroed<E> {
    map: MmapMut,
    elem: PhantomData<E>,
}

impl<E: Elem> Zeroed<E> {
    fn new(n: usize) -> Option<Self> {
        let map = MmapMut::map_anon(n.checked_mul(size_of::<E>())?.max(size_of::<E>())).ok()?;
        // Only advice: a system without huge pages gives small ones.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Self { map, elem: PhantomData })
    }
}

impl<E: Elem> Deref for Zeroed<E> {
    type Target = [E];

    #[inline(always)]
    fn deref(&self) -> &[E] {
        bytemuck::cast_slice(&self.map)
    }
}

impl<E: Elem> DerefMut for Zeroed<E> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [E] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}

impl<E: Elem> Layer<E> {
    /// A zeroed cache, or `None` where memory is short.
    pub(crate) fn new(spec: KvCache, n_blocks: usize) -> Option<Self> {
        let zeros = |dim: usize| {
            Zeroed::new(
                n_blocks.checked_mul(KV_BLOCK)?.checked_mul(spec.n_head_kv)?.checked_mul(dim)?,
            )
        };
        let [k, v] = spec.kept();
        Some(Self { spec, k: zeros(k)?, v: zeros(v)? })
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

    /// Whether values are the first elements of keys.
    pub(crate) fn v_in_k(&self) -> bool {
        self.spec.v_in_k
    }

    /// Values of one block and head: `[64][head_dim_v]`.
    #[inline(always)]
    pub(crate) fn values(&self, block: usize, head: usize) -> &[E] {
        let n = self.spec.head_dim_v * KV_BLOCK;
        &self.v[(block * self.spec.n_head_kv + head) * n..][..n]
    }

    /// Stores k and v, `[tokens, n_head_kv · head_dim]` each, at the step's positions.
    pub(crate) fn store(&mut self, step: &Step, k: &[f32], v: &[f32], workers: Workers<'_>) {
        let Workers { level, pool } = workers;
        let KvCache { n_head_kv, group, .. } = self.spec;
        let [head_dim_k, head_dim_v] = self.spec.kept();
        let block_of = |t: usize| step.slot(group, step.seqs[t], step.positions[t]) / KV_BLOCK;
        // Only the blocks that are written are shared out among the threads.
        let blocks = (0..step.tokens.len()).map(block_of);
        let (Some(first), Some(last)) = (blocks.clone().min(), blocks.max()) else { return };
        let parts = [(&mut self.k, k, head_dim_k, true), (&mut self.v, v, head_dim_v, false)];
        for (cache, x, dim, transposed) in parts.into_iter().filter(|(_, _, dim, _)| *dim > 0) {
            let len = dim * KV_BLOCK;
            let written = &mut cache[first * n_head_kv * len..(last + 1) * n_head_kv * len];
            pool.rows(written, len, |start, part| {
                for t in 0..step.tokens.len() {
                    let at = (block_of(t) - first) * n_head_kv;
                    let place = step.positions[t] as usize % KV_BLOCK;
                    for head in 0..n_head_kv {
                        let row = (at + head).wrapping_sub(start);
                        if row < part.len() / len {
                            let x = &x[(t * n_head_kv + head) * dim..][..dim];
                            let to = &mut part[row * len..][..len];
                            level.run(Put { x, to, place, transposed });
                        }
                    }
                }
            });
        }
    }
}

/// The states of one layer, `[block][len]`.
pub(crate) struct States {
    spec: StateCache,
    all: Zeroed<f32>,
}

impl States {
    /// Zeroed states, or `None` where memory is short.
    pub(crate) fn new(spec: StateCache, n_blocks: usize) -> Option<Self> {
        Some(Self { spec, all: Zeroed::new(n_blocks.checked_mul(spec.len)?)? })
    }

    /// The state of a sequence; zeros where the sequence begins.
    pub(crate) fn of(&mut self, step: &Step, span: &Span) -> &mut [f32] {
        let block = step.state_block(self.spec.group, span.seq);
        let state = &mut self.all[block * self.spec.len..][..self.spec.len];
        if span.position == 0 {
            state.fill(0.0);
        }
        state
    }
}

/// Stores one head of one token in a block: transposed (K), or as it is (V).
struct Put<'a, E> {
    x: &'a [f32],
    to: &'a mut [E],
    place: usize,
    transposed: bool,
}

impl<E: Elem> Kernel for Put<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let dim = self.x.len();
        let whole = dim / LANES * LANES;
        let mut rounded = [E::default(); LANES];
        for i in (0..whole).step_by(LANES) {
            E::store(isa, isa.f_load(lanes(self.x, i)), &mut rounded);
            if self.transposed {
                let to = self.to[i * KV_BLOCK..][..LANES * KV_BLOCK].chunks_exact_mut(KV_BLOCK);
                for (to, &x) in to.zip(&rounded) {
                    to[self.place] = x;
                }
            } else {
                *lanes_mut(self.to, self.place * dim + i) = rounded;
            }
        }
        for i in whole..dim {
            let at = if self.transposed { i * KV_BLOCK + self.place } else { self.place * dim + i };
            self.to[at] = E::from_f32(self.x[i]);
        }
    }
}
