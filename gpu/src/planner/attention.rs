//! Attention: for steps of one token its chunks side by side, merged by a second kernel; for longer steps one kernel, or
//! tiles of neighbouring tokens.

use super::mat_mul::Source;
use super::{Bound, Kernel, Planner, output_of};
use crate::dispatch::{Depth, Dispatch, Grid};
use crate::params;
use crate::shaders::{self, Extras, HeadDims};
use graph::{Attention, Node, Result, Rows, ValueId};
use std::ops::RangeInclusive;

/// Steps of at least this many tokens for each sequence have the attention of neighbouring tokens computed in tiles.
const TILES_FROM: usize = 16;
/// A step of one token, and all longer ones.
const ONE: RangeInclusive<usize> = 1..=1;
const MANY: RangeInclusive<usize> = 2..=usize::MAX;

impl<'a> Planner<'a> {
    /// The partial results of the chunks in a step of one token.
    pub(super) fn partials(&self) -> Bound<'a> {
        let bytes = self.buffers.capacity.partials_bytes(self.graph);
        Bound::Whole { buffer: &self.buffers.partials, bytes }
    }

    /// Attention by itself, whatever the step's rows.
    pub(super) fn attention(&self, a: &Attention, node: &Node) -> Result<Vec<Dispatch>> {
        let (q, out) = (node.inputs[0], output_of(node));
        let mut all = self.attention_many(a, q, out)?;
        all.extend(self.attention_part(a, q)?);
        let read = [self.partials(), self.step()].into_iter().chain(self.sinks(a)?);
        let bound = read.chain([self.value(out)]).collect();
        let shader = shaders::attention_merge(a.sinks.is_some());
        let kernel = Kernel::new(shader, bound, &self.merge_params(a), Rows::Tokens);
        let one = Grid { for_rows: ONE, ..Grid::each_row(a.n_head) };
        all.extend(self.dispatches(&kernel.over(one))?);
        Ok(all)
    }

    /// Attention whose result is quantised for the product at node `product`: as the chunks are merged in a step of one
    /// token, by a kernel of its own in longer ones.
    pub(super) fn attention_quantize(
        &mut self,
        a: &Attention,
        node: &Node,
        product: usize,
    ) -> Result<Vec<Dispatch>> {
        let (q, out, rounding) = (node.inputs[0], output_of(node), self.chain_rounding_at(product));
        let mut all = self.attention_many(a, q, out)?;
        all.extend(self.quantize(out, rounding, Source::Value, MANY)?);
        all.extend(self.attention_part(a, q)?);
        all.extend(self.quantize(out, rounding, Source::Partials(a), ONE)?);
        all.extend(self.mat_mul(product)?);
        Ok(all)
    }

    /// The heads' sinks, where there are some.
    pub(super) fn sinks(&self, a: &Attention) -> Result<Option<Bound<'a>>> {
        a.sinks.map(|sinks| self.vector(sinks)).transpose()
    }

    fn extras(&self, a: &Attention) -> Extras {
        Extras::of(a, self.graph.kv(a.cache))
    }

    fn window(a: &Attention) -> u32 {
        a.mask.window().unwrap_or(u32::MAX)
    }

    fn head_dims(&self, a: &Attention) -> HeadDims {
        let spec = self.graph.kv(a.cache);
        HeadDims { k: spec.head_dim_k, v: spec.head_dim_v }
    }

    /// `heads_each` is the heads of one tile, for the kernel with tiles.
    fn attention_params(&self, a: &Attention, heads_each: usize) -> params::Attention {
        let cache = self.cache_params(a.cache);
        params::Attention {
            n_head: a.n_head as u32,
            heads_per_kv: self.heads_per_kv(a) as u32,
            dim_k: cache.dim_k,
            dim_v: cache.dim_v,
            words_k: cache.words_k,
            words_v: cache.words_v,
            positions_at: cache.positions_at,
            tables_at: cache.tables_at,
            window: Self::window(a),
            scale: a.scale,
            cap: a.softcap.unwrap_or(1.0),
            heads_each: heads_each as u32,
            max_chunks: self.buffers.capacity.tables as u32,
        }
    }

    /// What the kernels that merge the chunks ask for.
    pub(super) fn merge_params(&self, a: &Attention) -> params::AttentionMerge {
        let cache = self.cache_params(a.cache);
        params::AttentionMerge {
            n_head: a.n_head as u32,
            dim_v: cache.dim_v,
            positions_at: cache.positions_at,
            window: Self::window(a),
            max_chunks: self.buffers.capacity.tables as u32,
        }
    }

    fn heads_per_kv(&self, a: &Attention) -> usize {
        a.n_head / self.graph.kv(a.cache).n_head_kv
    }

    /// Attention in steps of more than one row.
    fn attention_many(&self, a: &Attention, q: ValueId, out: ValueId) -> Result<Vec<Dispatch>> {
        let (kv, dims, extras) = (self.model.options.kv, self.head_dims(a), self.extras(a));
        let read = [self.value(q), self.step(), self.tables()].into_iter().chain(self.sinks(a)?);
        let bound: Vec<_> = read.chain([self.value(out)]).collect();
        let mut all = Vec::new();
        let mut grid = Grid { for_rows: MANY, ..Grid::each_row(a.n_head) };
        let wide = self.device.lanes != shaders::FEW_LANES;
        if let Some(shader) = shaders::attention_tile(kv, extras, dims).filter(|_| wide) {
            grid.for_tokens_each = 0..=TILES_FROM - 1;
            // The heads of a KV head that one workgroup takes, with as many tokens as there is room for.
            let heads_per_kv = self.heads_per_kv(a);
            let head_tiles = heads_per_kv.div_ceil(shaders::TILE_QUERIES);
            let heads_each = heads_per_kv.div_ceil(head_tiles);
            let tiles = Grid {
                rows_each: shaders::TILE_QUERIES / heads_each,
                for_rows: MANY,
                for_tokens_each: TILES_FROM..=usize::MAX,
                ..Grid::each_row(a.n_head / heads_per_kv * head_tiles)
            };
            let params = self.attention_params(a, heads_each);
            let kernel = Kernel::new(shader, bound.clone(), &params, Rows::Tokens);
            all.extend(self.dispatches(&kernel.over(tiles).with_cache(a.cache))?);
        }
        let shader = shaders::attention(kv, extras, dims.v.next_multiple_of(2));
        let kernel = Kernel::new(shader, bound, &self.attention_params(a, 1), Rows::Tokens);
        all.extend(self.dispatches(&kernel.over(grid).with_cache(a.cache))?);
        Ok(all)
    }

    /// In a step of one token: its chunks side by side, to be merged.
    fn attention_part(&self, a: &Attention, q: ValueId) -> Result<Vec<Dispatch>> {
        let (kv, dims, extras) = (self.model.options.kv, self.head_dims(a), self.extras(a));
        let shader = shaders::attention_part(kv, extras, dims);
        let bound = vec![self.value(q), self.step(), self.tables(), self.partials()];
        let depth = Depth::Chunks { window: Self::window(a) };
        let grid = Grid { for_rows: ONE, depth, ..Grid::each_row(a.n_head) };
        let kernel = Kernel::new(shader, bound, &self.attention_params(a, 1), Rows::Tokens);
        self.dispatches(&kernel.over(grid).with_cache(a.cache))
    }
}
