//! Norms, RoPE, and the storing of keys and values.

use super::{Bound, Kernel, Planner, Quantized, output_of};
use crate::dispatch::Dispatch;
use crate::kv::head_words;
use crate::layout::quantized_words;
use crate::params;
use crate::shaders;
use graph::{CacheId, LayerNorm, Node, Op, Result, RopePairs, Rows, ValueId};

/// Words of a layer's cache and places in the step's buffer, as the kernels that store ask for them.
pub(super) struct CacheParams {
    pub(super) dim_k: u32,
    pub(super) dim_v: u32,
    /// Words of a head at one position.
    pub(super) words_k: u32,
    pub(super) words_v: u32,
    pub(super) positions_at: u32,
    pub(super) tables_at: u32,
}

impl<'a> Planner<'a> {
    pub(super) fn cache_params(&self, cache: CacheId) -> CacheParams {
        let spec = self.graph.kv(cache);
        let layout = self.buffers.capacity.step_layout();
        let words = |dim| head_words(self.model.options.kv, dim) as u32;
        CacheParams {
            dim_k: spec.head_dim_k as u32,
            dim_v: spec.head_dim_v as u32,
            words_k: words(spec.head_dim_k),
            words_v: words(spec.head_dim_v),
            positions_at: layout.positions as u32,
            tables_at: self.buffers.capacity.tables_at(spec.group) as u32,
        }
    }

    /// Cosine and sine of the step's tokens.
    fn angles(&self, table: usize) -> Bound<'a> {
        let pairs = self.graph.rope_tables[table].freqs.len();
        Bound::Rows { buffer: &self.buffers.angles[table], words: 2 * pairs.max(1) }
    }

    /// A norm: of a sum, if `nodes` begins with one, and quantised for the product at node `product`, if there is one.
    pub(super) fn norm(&mut self, nodes: &[Node], product: Option<usize>) -> Result<Vec<Dispatch>> {
        let of_sum = nodes[0].op == Op::Add;
        let norm = &nodes[usize::from(of_sum)];
        let Op::RmsNorm { w, eps } = norm.op else { unreachable!("no norm: {:?}", norm.op) };
        let (x, out) = (norm.inputs[0], output_of(norm));
        let rounding = product.map(|at| self.chain_rounding_at(at));
        let (n, value) = (self.graph.weight(w).n_in, self.graph.value(out));
        let row_words = rounding.map_or(0, |rounding| quantized_words(rounding, n)) as u32;
        let mut bound = Vec::new();
        if of_sum {
            bound.extend(nodes[0].inputs.iter().map(|&id| self.value(id)));
            bound.extend([self.vector(w)?, self.value(x), self.value(out)]);
        } else {
            bound.extend([self.value(x), self.vector(w)?, self.value(out)]);
        }
        bound.extend(rounding.map(|rounding| self.quantized_rows(rounding, n)));
        let (cols, n_f32) = (value.cols as u32, n as f32);
        let params = params::RmsNorm { cols, n: n as u32, eps, n_f32, row_words };
        let shader = shaders::rms_norm(n > 128 || rounding.is_some(), of_sum, rounding);
        let kernel = Kernel::new(shader, bound, &params, value.rows);
        let mut all = self.dispatches(&kernel.each_row(value.cols / n))?;
        if let (Some(rounding), Some(product)) = (rounding, product) {
            self.quantized = Some(Quantized { value: out, rounding });
            all.extend(self.mat_mul(product)?);
        }
        Ok(all)
    }

    /// A norm that subtracts the mean.
    pub(super) fn layer_norm(&self, node: &Node, norm: &LayerNorm) -> Result<Vec<Dispatch>> {
        let &LayerNorm { group, w, b, eps } = norm;
        let (x, out) = (node.inputs[0], output_of(node));
        let value = self.graph.value(out);
        // Factors are those of a group's columns, or of a whole row's.
        let whole = w.is_some_and(|w| self.graph.weight(w).elements() > group);
        let params = params::LayerNorm {
            cols: value.cols as u32,
            n: group as u32,
            eps,
            n_f32: group as f32,
            by_group: if whole { group as u32 } else { 0 },
        };
        let mut bound = vec![self.value(x)];
        for id in w.into_iter().chain(b) {
            bound.push(self.vector(id)?);
        }
        bound.push(self.value(out));
        let shader = shaders::layer_norm(w.is_some(), b.is_some());
        let kernel = Kernel::new(shader, bound, &params, value.rows);
        self.dispatches(&kernel.each_row(value.cols / group))
    }

    /// RoPE of one value, or of two by the same angles.
    pub(super) fn rope(&self, nodes: &[Node]) -> Result<Vec<Dispatch>> {
        let Op::Rope { table, head_dim, pairs } = nodes[0].op else {
            unreachable!("no RoPE: {:?}", nodes[0].op)
        };
        let n = self.graph.rope_tables[table].freqs.len();
        let per_head = head_dim - n;
        let cols = |node: &Node| self.graph.value(node.inputs[0]).cols;
        let workgroups = |node: &Node| (cols(node) / head_dim * per_head).div_ceil(64);
        let params = params::Rope {
            cols: cols(&nodes[0]) as u32,
            head_dim: head_dim as u32,
            pairs: n as u32,
            per_head: per_head as u32,
            adjacent: u32::from(pairs == RopePairs::Adjacent),
            workgroups: workgroups(&nodes[0]) as u32,
            cols2: cols(&nodes[nodes.len() - 1]) as u32,
        };
        let mut bound = vec![self.angles(table)];
        bound.extend(nodes.iter().map(|node| self.value(node.inputs[0])));
        bound.extend(nodes.iter().map(|node| self.value(output_of(node))));
        let kernel = Kernel::new(shaders::rope(nodes.len() > 1), bound, &params, Rows::Tokens);
        self.dispatches(&kernel.each_row(nodes.iter().map(workgroups).sum()))
    }

    /// RoPE of queries and keys, and the storing of keys and values.
    pub(super) fn rope_store(&self, nodes: &[Node]) -> Result<Vec<Dispatch>> {
        let [rope_q, rope_k, store] = nodes else {
            unreachable!("fuse.rs fuses three nodes, not {}", nodes.len())
        };
        let (&Op::Rope { table, pairs, .. }, &Op::StoreKv { cache: id }) = (&rope_q.op, &store.op)
        else {
            unreachable!("no RoPE and no store: {:?}, {:?}", rope_q.op, store.op)
        };
        let cache = self.cache_params(id);
        let heads = self.graph.kv(id).n_head_kv as u32;
        let cols = self.graph.value(output_of(rope_q)).cols as u32;
        let workgroups_q = cols.div_ceil(64);
        let workgroups_qk = workgroups_q + (heads * cache.words_k).div_ceil(64);
        let params = params::RopeStore {
            cols,
            dim_k: cache.dim_k,
            pairs: self.graph.rope_tables[table].freqs.len() as u32,
            adjacent: u32::from(pairs == RopePairs::Adjacent),
            heads,
            dim_v: cache.dim_v,
            words_k: cache.words_k,
            words_v: cache.words_v,
            positions_at: cache.positions_at,
            tables_at: cache.tables_at,
            workgroups_q,
            workgroups_qk,
        };
        let mut bound = vec![self.angles(table)];
        let inputs = [rope_q.inputs[0], rope_k.inputs[0], store.inputs[1]];
        bound.extend(inputs.map(|id| self.value(id)));
        bound.extend([self.step(), self.tables()]);
        bound.extend([rope_q, rope_k].map(|node| self.value(output_of(node))));
        let shader = shaders::rope_store(self.model.options.kv);
        let kernel = Kernel::new(shader, bound, &params, Rows::Tokens).with_cache(id);
        let workgroups = workgroups_qk + (heads * cache.words_v).div_ceil(64);
        self.dispatches(&kernel.each_row(workgroups as usize))
    }

    pub(super) fn store_kv(&self, id: CacheId, k: ValueId, v: ValueId) -> Result<Vec<Dispatch>> {
        let heads = self.graph.kv(id).n_head_kv as u32;
        let cache = self.cache_params(id);
        let words_v = if self.graph.kv(id).v_in_k { 0 } else { cache.words_v };
        let params = params::StoreKv {
            heads,
            dim_k: cache.dim_k,
            dim_v: cache.dim_v,
            words_k: cache.words_k,
            words_v,
            positions_at: cache.positions_at,
            tables_at: cache.tables_at,
        };
        let bound = vec![self.value(k), self.value(v), self.step(), self.tables()];
        let shader = shaders::store_kv(self.model.options.kv);
        let kernel = Kernel::new(shader, bound, &params, Rows::Tokens).with_cache(id);
        let words = heads * (cache.words_k + words_v);
        self.dispatches(&kernel.each_row(words.div_ceil(64) as usize))
    }
}
