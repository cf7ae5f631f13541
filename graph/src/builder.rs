//! Builds a graph, checking every shape as it goes.

use crate::{
    Act, Attention, Cache, CacheGroup, CacheId, Error, ErrorKind, FileId, Graph, GroupId, KvCache,
    LayerNorm, Node, Op, Output, Result, RopePairs, RopeTable, Route, Rows, StateCache, Unary,
    Value, ValueId, ValueKind, Weight, WeightId,
};
use gguf::DType;

/// Heads of a layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHeads {
    /// Heads of K and V.
    pub n_head_kv: usize,
    /// Elements of a K head.
    pub head_dim_k: usize,
    /// Elements of a V head.
    pub head_dim_v: usize,
}

/// A part of each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadPart {
    /// Columns of a head.
    pub head_dim: usize,
    /// The first column of the part.
    pub start: usize,
    /// Columns of the part.
    pub n: usize,
}

/// How many heads two values have that are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedHeads {
    /// Of the first value, and of the result.
    pub n_head: usize,
    /// Of the second value: as many, or one for all.
    pub n_head_b: usize,
}

/// Builds a graph, checking every shape as it goes; the errors name the value or the tensor.
#[derive(Default)]
pub struct Builder {
    graph: Graph,
}

fn shape(message: String) -> Error {
    Error::new(ErrorKind::Shape, message)
}

impl Builder {
    /// An empty graph over a vocabulary of `n_vocab` ids.
    pub fn new(n_vocab: usize) -> Self {
        Self { graph: Graph { n_vocab, ..Graph::default() } }
    }

    /// Declares a matrix of the model's file.
    pub fn weight(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        n_in: usize,
        n_out: usize,
    ) -> WeightId {
        let (file, n_mats) = (FileId::BASE, 1);
        self.declare(Weight { name: name.into(), file, dtype, n_in, n_out, n_mats })
    }

    /// Declares a tensor of any of the files, or of several matrices.
    pub fn declare(&mut self, weight: Weight) -> WeightId {
        self.graph.weights.push(weight);
        WeightId(self.graph.weights.len() - 1)
    }

    /// Declares a set of rotation frequencies.
    pub fn rope_table(&mut self, table: RopeTable) -> usize {
        self.graph.rope_tables.push(table);
        self.graph.rope_tables.len() - 1
    }

    /// Declares keys and values of `n_head_kv` heads, of which a token sees the last `window` positions, or all.
    pub fn kv_cache(&mut self, heads: KvHeads, window: Option<u32>) -> CacheId {
        let group = self.group(CacheGroup::Positions { window });
        let KvHeads { n_head_kv, head_dim_k, head_dim_v } = heads;
        let cache = KvCache { n_head_kv, head_dim_k, head_dim_v, v_in_k: false, group };
        self.graph.caches.push(Cache::Kv(cache));
        CacheId(self.graph.caches.len() - 1)
    }

    /// Declares keys whose first elements are the values, too: what all heads share of a position.
    pub fn latent_cache(&mut self, heads: KvHeads) -> Result<CacheId> {
        if heads.head_dim_v > heads.head_dim_k {
            return Err(shape(format!("values in keys: {heads:?}")));
        }
        let cache = self.kv_cache(heads, None);
        if let Cache::Kv(kv) = &mut self.graph.caches[cache.0] {
            kv.v_in_k = true;
        }
        Ok(cache)
    }

    /// Declares a state of `len` numbers for each sequence.
    pub fn state_cache(&mut self, len: usize) -> CacheId {
        let group = self.group(CacheGroup::States);
        self.graph.caches.push(Cache::State(StateCache { len, group }));
        CacheId(self.graph.caches.len() - 1)
    }

    /// The group of this kind, which all caches of the kind share.
    fn group(&mut self, wanted: CacheGroup) -> GroupId {
        let found = self.graph.groups.iter().position(|group| *group == wanted);
        GroupId(found.unwrap_or_else(|| {
            self.graph.groups.push(wanted);
            self.graph.groups.len() - 1
        }))
    }

    fn kv(&self, id: CacheId) -> Result<KvCache> {
        match self.graph.caches[id.0] {
            Cache::Kv(kv) => Ok(kv),
            Cache::State(_) => Err(shape(format!("cache {}: a state, not keys and values", id.0))),
        }
    }

    /// Says that `x` is the residual stream before the first layer, or behind the next one.
    pub fn stream(&mut self, x: ValueId) {
        self.graph.stream.push(x);
    }

    /// Columns of a value made so far.
    pub fn cols(&self, v: ValueId) -> usize {
        self.graph.value(v).cols
    }

    fn push(
        &mut self,
        op: Op,
        inputs: &[ValueId],
        name: impl Into<String>,
        cols: usize,
        rows: Rows,
    ) -> ValueId {
        let output = ValueId(self.graph.values.len());
        self.graph.values.push(Value { name: name.into(), cols, rows, kind: ValueKind::F32 });
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), output: Some(output) });
        output
    }

    fn same(&mut self, op: Op, x: ValueId, name: impl Into<String>) -> ValueId {
        let Value { cols, rows, .. } = *self.graph.value(x);
        self.push(op, &[x], name, cols, rows)
    }

    /// Rows of `table` for the step's tokens: `[tokens, n_embd]`.
    pub fn get_rows(&mut self, table: WeightId, name: impl Into<String>) -> Result<ValueId> {
        let w = self.graph.weight(table);
        if w.n_out != self.graph.n_vocab {
            return Err(shape(format!(
                "{}: {} rows, the vocabulary has {}",
                w.name, w.n_out, self.graph.n_vocab
            )));
        }
        let cols = w.n_in;
        Ok(self.push(Op::GetRows { table }, &[], name, cols, Rows::Tokens))
    }

    /// Rows of `table` for the positions of the step's tokens: `[tokens, n_embd]`.
    pub fn position_rows(&mut self, table: WeightId, name: impl Into<String>) -> ValueId {
        let cols = self.graph.weight(table).n_in;
        self.push(Op::PositionRows { table }, &[], name, cols, Rows::Tokens)
    }

    /// `x Wᵀ`: `[rows, n_out]`.
    pub fn mat_mul(&mut self, w: WeightId, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(w), self.graph.value(x));
        if weight.n_in != value.cols {
            return Err(shape(format!(
                "{}: takes {} columns, {} has {}",
                weight.name, weight.n_in, value.name, value.cols
            )));
        }
        let (cols, rows) = (weight.n_out, value.rows);
        Ok(self.push(Op::MatMul { w }, &[x], name, cols, rows))
    }

    /// `a + b`.
    pub fn add(&mut self, a: ValueId, b: ValueId, name: impl Into<String>) -> Result<ValueId> {
        self.check_same(a, b)?;
        let Value { cols, rows, .. } = *self.graph.value(a);
        Ok(self.push(Op::Add, &[a, b], name, cols, rows))
    }

    /// `a · b`.
    pub fn mul(&mut self, a: ValueId, b: ValueId, name: impl Into<String>) -> Result<ValueId> {
        self.check_same(a, b)?;
        let Value { cols, rows, .. } = *self.graph.value(a);
        Ok(self.push(Op::Mul, &[a, b], name, cols, rows))
    }

    fn check_same(&self, a: ValueId, b: ValueId) -> Result<()> {
        let (va, vb) = (self.graph.value(a), self.graph.value(b));
        if va.cols != vb.cols || va.rows != vb.rows {
            return Err(shape(format!(
                "{} [{:?}, {}] and {} [{:?}, {}] differ in shape",
                va.name, va.rows, va.cols, vb.name, vb.rows, vb.cols
            )));
        }
        Ok(())
    }

    /// `x + b` on every row.
    pub fn add_bias(
        &mut self,
        b: WeightId,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(b), self.graph.value(x));
        if weight.n_in != value.cols || weight.n_out != 1 {
            return Err(shape(format!(
                "{}: {} elements, {} has {} columns",
                weight.name, weight.n_in, value.name, value.cols
            )));
        }
        Ok(self.same(Op::AddBias { b }, x, name))
    }

    /// `x · by`.
    pub fn scale(&mut self, by: f32, x: ValueId, name: impl Into<String>) -> ValueId {
        self.same(Op::Scale { by }, x, name)
    }

    /// RMS norm over groups of `w.n_in` columns.
    pub fn rms_norm(
        &mut self,
        w: WeightId,
        eps: f32,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(w), self.graph.value(x));
        if weight.n_out != 1 || weight.n_in == 0 || !value.cols.is_multiple_of(weight.n_in) {
            return Err(shape(format!(
                "{}: {} elements, {} has {} columns",
                weight.name, weight.n_in, value.name, value.cols
            )));
        }
        Ok(self.same(Op::RmsNorm { w, eps }, x, name))
    }

    /// LayerNorm over groups of columns. Factors and what is added are one for each column of a group, or of a whole row.
    pub fn layer_norm(
        &mut self,
        norm: LayerNorm,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let (name, value) = (name.into(), self.graph.value(x));
        let cols = value.cols;
        let fits = |id: &WeightId| [norm.group, cols].contains(&self.graph.weight(*id).elements());
        let groups = norm.group > 0 && cols.is_multiple_of(norm.group);
        let lone = norm.w.is_none() && norm.b.is_some();
        if !groups || lone || !norm.w.iter().chain(&norm.b).all(fits) {
            let of = |id: Option<WeightId>| id.map(|id| self.graph.weight(id).shape());
            return Err(shape(format!(
                "{name}: groups of {} in {cols} columns of {}, factors {:?}, added {:?}",
                norm.group,
                value.name,
                of(norm.w),
                of(norm.b)
            )));
        }
        Ok(self.same(Op::LayerNorm(norm), x, name))
    }

    /// A function of each element.
    pub fn unary(&mut self, unary: Unary, x: ValueId, name: impl Into<String>) -> ValueId {
        self.same(Op::Unary(unary), x, name)
    }

    /// RoPE over heads of `head_dim` columns.
    pub fn rope(
        &mut self,
        table: usize,
        head_dim: usize,
        pairs: RopePairs,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let rope = &self.graph.rope_tables[table];
        let n_rot = 2 * rope.freqs.len();
        let rotates_all = n_rot == head_dim;
        let value = self.graph.value(x);
        if head_dim == 0
            || n_rot > head_dim
            || (rope.temperature.is_some() && !rotates_all)
            || !value.cols.is_multiple_of(head_dim)
            || value.rows != Rows::Tokens
        {
            return Err(shape(format!(
                "rope on {}: {n_rot} rotated of head {head_dim} in {} columns",
                value.name, value.cols
            )));
        }
        Ok(self.same(Op::Rope { table, head_dim, pairs }, x, name))
    }

    /// `act(gate) · up`.
    pub fn glu(
        &mut self,
        act: Act,
        gate: ValueId,
        up: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        self.check_same(gate, up)?;
        let Value { cols, rows, .. } = *self.graph.value(gate);
        Ok(self.push(Op::Glu { act }, &[gate, up], name, cols, rows))
    }

    /// A step of a router on one value.
    pub fn route(&mut self, route: Route, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        match route {
            Route::Softmax | Route::Sigmoid | Route::Normalise { .. } => {
                Ok(self.same(Op::Route(route), x, name))
            }
            Route::TopGroups { groups, used } => {
                let Value { cols, name: of, .. } = self.graph.value(x);
                // The worth of a group is that of two elements.
                let fits = groups > 0 && cols.is_multiple_of(groups) && cols / groups >= 2;
                if !fits || used == 0 || used > groups {
                    let what = format!("{of}: {used} of {groups} groups of {cols} columns");
                    return Err(shape(what));
                }
                Ok(self.same(Op::Route(route), x, name))
            }
            Route::TopK | Route::Pick | Route::Each => {
                let name = name.into();
                Err(shape(format!("{name}: {route:?} has an own method of the builder")))
            }
        }
    }

    /// The columns of the `n` largest elements of each row: indices, `[rows, n]`.
    pub fn top_k(&mut self, n: usize, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let Value { cols, rows, .. } = *self.graph.value(x);
        if n == 0 || n > cols || cols > 1 << 24 {
            let of = &self.graph.value(x).name;
            return Err(shape(format!("{of}: {n} of {cols} columns, allowed 1..={cols}")));
        }
        let chosen = self.push(Op::Route(Route::TopK), &[x], name, n, rows);
        self.graph.values[chosen.0].kind = ValueKind::Index { below: cols as u32 };
        Ok(chosen)
    }

    /// The numbers from 0 to `n` in every row that `x` has: each slot with a matrix of its own.
    pub fn each(&mut self, n: usize, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let rows = self.graph.value(x).rows;
        if n == 0 || n > 1 << 24 {
            return Err(shape(format!("{n} slots, allowed 1..=2^24")));
        }
        let all = self.push(Op::Route(Route::Each), &[x], name, n, rows);
        self.graph.values[all.0].kind = ValueKind::Index { below: n as u32 };
        Ok(all)
    }

    /// Of each head of `head_dim` columns those from `start` on, `n` of them.
    pub fn head_columns(
        &mut self,
        part: HeadPart,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let HeadPart { head_dim, start, n } = part;
        let Value { cols, rows, name: of, .. } = self.graph.value(x);
        let fits = start.checked_add(n).is_some_and(|end| end <= head_dim);
        if n == 0 || !fits || !cols.is_multiple_of(head_dim) {
            return Err(shape(format!("{of}: {part:?} of {cols} columns")));
        }
        let (cols, rows) = (cols / head_dim * n, *rows);
        Ok(self.push(Op::HeadColumns { head_dim, start }, &[x], name, cols, rows))
    }

    /// The heads of `a` and those of `b` side by side, head by head. `b` has as many heads as `a`, or one for all.
    pub fn join_heads(
        &mut self,
        heads: JoinedHeads,
        [a, b]: [ValueId; 2],
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let JoinedHeads { n_head, n_head_b } = heads;
        self.check_rows(a, b)?;
        let (va, vb) = (self.graph.value(a), self.graph.value(b));
        let fits = n_head > 0
            && (n_head_b == n_head || n_head_b == 1)
            && va.cols.is_multiple_of(n_head)
            && vb.cols.is_multiple_of(n_head_b);
        if !fits {
            return Err(shape(format!("{} and {}: {heads:?}", va.name, vb.name)));
        }
        let (cols, rows) = (va.cols + vb.cols / n_head_b * n_head, va.rows);
        Ok(self.push(Op::JoinHeads { n_head, n_head_b }, &[a, b], name, cols, rows))
    }

    /// The elements of `x` in the chosen columns.
    pub fn pick(
        &mut self,
        x: ValueId,
        chosen: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let from = self.graph.value(x).cols;
        let Value { cols, rows, .. } = *self.chosen_among(from, chosen)?;
        self.check_rows(x, chosen)?;
        Ok(self.push(Op::Route(Route::Pick), &[x, chosen], name, cols, rows))
    }

    /// For each slot of `chosen` the product with that matrix of `w`: `[rows, slots · n_out]`. `x` has `n_in` columns for all
    /// slots, or `n_in` for each.
    pub fn mat_mul_id(
        &mut self,
        w: WeightId,
        x: ValueId,
        chosen: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let Weight { n_in, n_out, n_mats, .. } = *self.graph.weight(w);
        let Value { cols: slots, rows, .. } = *self.chosen_among(n_mats, chosen)?;
        self.check_rows(x, chosen)?;
        let value = self.graph.value(x);
        if value.cols != n_in && Some(value.cols) != slots.checked_mul(n_in) {
            let (name, of) = (&self.graph.weight(w).name, &value.name);
            return Err(shape(format!(
                "{name}: takes {n_in} columns, or {n_in} for each of {slots} slots, {of} has {}",
                value.cols
            )));
        }
        let Some(cols) = slots.checked_mul(n_out) else {
            return Err(shape(format!("{}: too many columns", self.graph.weight(w).name)));
        };
        Ok(self.push(Op::MatMulId { w }, &[x, chosen], name, cols, rows))
    }

    /// `x + b[expert]` in each slot.
    pub fn add_id(
        &mut self,
        b: WeightId,
        x: ValueId,
        chosen: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let weight = self.graph.weight(b);
        let (n, experts, of) = (weight.n_in, weight.rows(), weight.name.clone());
        let slots = self.chosen_among(experts, chosen)?.cols;
        self.check_rows(x, chosen)?;
        let cols = self.graph.value(x).cols;
        if slots.checked_mul(n) != Some(cols) {
            return Err(shape(format!("{of}: {n} elements for each of {slots} slots, not {cols}")));
        }
        let Value { cols, rows, .. } = *self.graph.value(x);
        Ok(self.push(Op::AddId { b }, &[x, chosen], name, cols, rows))
    }

    /// Each slot of `x` times its column of `weights`.
    pub fn weighted(
        &mut self,
        x: ValueId,
        weights: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        self.check_rows(x, weights)?;
        let slots = self.graph.value(weights).cols;
        let Value { cols, rows, .. } = *self.graph.value(x);
        if slots == 0 || !cols.is_multiple_of(slots) {
            let of = &self.graph.value(x).name;
            return Err(shape(format!("{of}: {cols} columns in {slots} slots")));
        }
        Ok(self.push(Op::Weighted, &[x, weights], name, cols, rows))
    }

    /// The sum of the slots of each row.
    pub fn sum_slots(
        &mut self,
        slots: usize,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let Value { cols, rows, .. } = *self.graph.value(x);
        if slots == 0 || !cols.is_multiple_of(slots) {
            let of = &self.graph.value(x).name;
            return Err(shape(format!("{of}: {cols} columns in {slots} slots")));
        }
        Ok(self.push(Op::SumSlots { slots }, &[x], name, cols / slots, rows))
    }

    /// The value of indices, which must be below `n`.
    fn chosen_among(&self, n: usize, chosen: ValueId) -> Result<&Value> {
        let value = self.graph.value(chosen);
        match value.kind {
            ValueKind::Index { below } if below as usize <= n => Ok(value),
            ValueKind::F32 | ValueKind::Index { .. } => {
                let (name, kind) = (&value.name, value.kind);
                Err(shape(format!("{name}: {kind:?}, allowed indices below {n}")))
            }
        }
    }

    fn check_rows(&self, a: ValueId, b: ValueId) -> Result<()> {
        let (a, b) = (self.graph.value(a), self.graph.value(b));
        if a.rows == b.rows {
            return Ok(());
        }
        let (name, rows, other, others) = (&a.name, a.rows, &b.name, b.rows);
        Err(shape(format!("{name} and {other} differ in rows: {rows:?} and {others:?}")))
    }

    /// Stores `k` and `v` of the step's tokens.
    pub fn store_kv(&mut self, cache: CacheId, k: ValueId, v: ValueId) -> Result<()> {
        let kv = self.kv(cache)?;
        for (x, width) in [(k, kv.head_dim_k), (v, kv.head_dim_v)] {
            let value = self.graph.value(x);
            if value.cols != kv.n_head_kv * width || value.rows != Rows::Tokens {
                return Err(shape(format!(
                    "{}: {} columns, cache {} takes {kv:?}",
                    value.name, value.cols, cache.0
                )));
            }
        }
        self.graph.nodes.push(Node { op: Op::StoreKv { cache }, inputs: vec![k, v], output: None });
        Ok(())
    }

    /// Attention of `q` over the cache: `[tokens, n_head · head_dim_v]`.
    pub fn attention(
        &mut self,
        attention: Attention,
        q: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let kv = self.kv(attention.cache)?;
        self.check_window(&attention, kv.group)?;
        self.check_sinks(&attention)?;
        let value = self.graph.value(q);
        let heads_fit = kv.n_head_kv > 0 && attention.n_head.is_multiple_of(kv.n_head_kv);
        if !heads_fit
            || value.cols != attention.n_head * kv.head_dim_k
            || value.rows != Rows::Tokens
        {
            return Err(shape(format!(
                "{}: {} columns for {attention:?} over {kv:?}",
                value.name, value.cols
            )));
        }
        Ok(self.push(
            Op::Attention(attention),
            &[q],
            name,
            attention.n_head * kv.head_dim_v,
            Rows::Tokens,
        ))
    }

    fn check_sinks(&self, attention: &Attention) -> Result<()> {
        let Some(weight) = attention.sinks.map(|id| self.graph.weight(id)) else { return Ok(()) };
        if (weight.n_in, weight.rows()) == (attention.n_head, 1) {
            return Ok(());
        }
        let (n_head, name, dims) = (attention.n_head, &weight.name, weight.shape());
        Err(shape(format!("{name}: {dims:?}, one sink for each of {n_head} heads is allowed")))
    }

    /// A cache keeps no more positions than its group's window: attention must not look further back.
    fn check_window(&self, attention: &Attention, group: GroupId) -> Result<()> {
        let kept = match *self.graph.group(group) {
            CacheGroup::Positions { window } => window,
            CacheGroup::States => None,
        };
        let seen = attention.mask.window();
        if kept.is_some_and(|kept| seen.is_none_or(|seen| seen > kept)) {
            return Err(shape(format!(
                "attention over cache {}: {:?}, the cache keeps {kept:?} positions",
                attention.cache.0, attention.mask
            )));
        }
        Ok(())
    }

    /// The causal convolution of each column of `x` with a row of `w`, over a state of this value's own.
    pub fn ssm_conv(
        &mut self,
        w: WeightId,
        cache: CacheId,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(w), self.graph.value(x));
        let Weight { n_in: d_conv, n_out, n_mats, .. } = *weight;
        if (n_out, n_mats) != (value.cols, 1) || d_conv < 2 || value.rows != Rows::Tokens {
            return Err(shape(format!(
                "{}: {:?}, allowed [2 or more, {}] for {} with rows {:?}",
                weight.name,
                weight.shape(),
                value.cols,
                value.name,
                value.rows
            )));
        }
        let wanted = (d_conv - 1) * value.cols;
        let fits = matches!(self.graph.caches[cache.0], Cache::State(state) if state.len == wanted);
        let used = self.graph.nodes.iter().any(|n| n.op.cache().is_some_and(|(id, _)| id == cache));
        if !fits || used {
            let (found, at) = (self.graph.caches[cache.0], cache.0);
            return Err(shape(format!(
                "{}: cache {at} is {found:?}, allowed a state of {wanted} that no other op has",
                weight.name
            )));
        }
        Ok(self.same(Op::SsmConv { w, cache }, x, name))
    }

    /// Columns `start .. start + cols`.
    pub fn columns(
        &mut self,
        start: usize,
        cols: usize,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let value = self.graph.value(x);
        if start.checked_add(cols).is_none_or(|end| end > value.cols) {
            return Err(shape(format!("{}: columns {start}+{cols} of {}", value.name, value.cols)));
        }
        let rows = value.rows;
        Ok(self.push(Op::Columns { start }, &[x], name, cols, rows))
    }

    /// The rows whose logits are wanted.
    pub fn output_rows(&mut self, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let value = self.graph.value(x);
        if value.rows != Rows::Tokens {
            return Err(shape(format!("{}: already reduced to output rows", value.name)));
        }
        let cols = value.cols;
        Ok(self.push(Op::OutputRows, &[x], name, cols, Rows::Outputs))
    }

    /// `cap · tanh(x / cap)`.
    pub fn softcap(&mut self, cap: f32, x: ValueId, name: impl Into<String>) -> ValueId {
        self.same(Op::Softcap { cap }, x, name)
    }

    /// The finished graph of a model that gives logits: its last value must be `[outputs, n_vocab]`.
    pub fn finish(self) -> Result<Graph> {
        self.finish_with(Output::Logits)
    }

    /// The finished graph. Logits must be `[outputs, n_vocab]`, an embedding one row for each output or sequence.
    pub fn finish_with(mut self, output: Output) -> Result<Graph> {
        self.graph.output = output;
        let Some(last) = self.graph.nodes.last().and_then(|node| node.output) else {
            return Err(shape("graph: no node makes a result".into()));
        };
        let value = self.graph.value(last);
        let fits = match output {
            Output::Logits => value.rows == Rows::Outputs && value.cols == self.graph.n_vocab,
            Output::Embedding => value.rows != Rows::Tokens,
        };
        if !fits {
            let (name, rows, cols) = (&value.name, value.rows, value.cols);
            return Err(shape(format!("{name}: [{rows:?}, {cols}] is no row of {output:?}")));
        }
        let mut seen = std::collections::HashSet::new();
        for node in self.graph.nodes.iter().filter(|n| n.output.is_some()) {
            let key = self.graph.key(node);
            if !seen.insert(key.clone()) {
                return Err(shape(format!("graph: two values are called {key}")));
            }
            self.check_kinds(node)?;
        }
        Ok(self.graph)
    }

    /// Indices are read where an op takes indices, numbers everywhere else.
    fn check_kinds(&self, node: &Node) -> Result<()> {
        let index_inputs = node.op.index_inputs();
        for (i, input) in node.inputs.iter().enumerate() {
            let value = self.graph.value(*input);
            let is_index = matches!(value.kind, ValueKind::Index { .. });
            if is_index != index_inputs.contains(&i) {
                let key = self.graph.key(node);
                let what = if is_index { "indices" } else { "numbers" };
                return Err(shape(format!("{key}: input {i}, {}, holds {what}", value.name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use crate::Mask;

    fn doubled() -> Builder {
        let mut b = Builder::new(5);
        let table = b.weight("t", DType::F32, 5, 5);
        let x = b.get_rows(table, "x").unwrap();
        let x = b.output_rows(x, "rows").unwrap();
        b.scale(2.0, x, "result_output");
        b
    }

    #[test]
    fn indices_are_no_numbers() {
        assert!(doubled().finish().is_ok());
        let mut b = doubled();
        b.graph.values[0].kind = ValueKind::Index { below: 3 };
        let error = b.finish().unwrap_err().to_string();
        assert!(error.contains("input 0, x, holds indices"), "{error}");
    }

    #[test]
    fn a_result_is_logits_or_an_embedding() {
        let embedding = doubled().finish_with(Output::Embedding).unwrap();
        assert_eq!((embedding.output, embedding.result_cols()), (Output::Embedding, 5));
        let mut b = Builder::new(7);
        let table = b.weight("t", DType::F32, 5, 7);
        b.get_rows(table, "x").unwrap();
        let error = b.finish().unwrap_err().to_string();
        assert!(error.contains("no row of Logits"), "{error}");
        let mut b = Builder::new(7);
        let table = b.weight("t", DType::F32, 5, 7);
        b.get_rows(table, "x").unwrap();
        assert!(b.finish_with(Output::Embedding).is_err(), "it has a row for each token");
    }

    #[test]
    fn a_state_has_its_size_and_one_op() {
        let mut b = Builder::new(5);
        let table = b.weight("t", DType::F32, 6, 5);
        let x = b.get_rows(table, "x").unwrap();
        let w = b.weight("conv", DType::F32, 4, 6);
        let heads = KvHeads { n_head_kv: 1, head_dim_k: 6, head_dim_v: 6 };
        let (kv, short, state) = (b.kv_cache(heads, None), b.state_cache(17), b.state_cache(18));
        // Three rows of six columns.
        assert!(b.ssm_conv(w, kv, x, "y").is_err());
        assert!(b.ssm_conv(w, short, x, "y").is_err());
        assert!(b.store_kv(state, x, x).is_err());
        assert!(b.ssm_conv(w, state, x, "y").is_ok());
        let error = b.ssm_conv(w, state, x, "z").unwrap_err().to_string();
        assert!(error.contains("conv: cache 2") && error.contains("a state of 18"), "{error}");
        for (d_conv, cols) in [(1, 6), (4, 5)] {
            let w = b.weight("other", DType::F32, d_conv, cols);
            let state = b.state_cache((d_conv - 1) * 6);
            let error = b.ssm_conv(w, state, x, "z").unwrap_err().to_string();
            assert!(error.contains("allowed [2 or more, 6]"), "{error}");
        }
        assert_eq!(b.graph.groups, [CacheGroup::Positions { window: None }, CacheGroup::States]);
    }

    #[test]
    fn attention_looks_no_further_back_than_its_cache_keeps() {
        let heads = KvHeads { n_head_kv: 1, head_dim_k: 4, head_dim_v: 4 };
        for (kept, mask, fits) in [
            (None, Mask::Causal, true),
            (None, Mask::Window(9), true),
            (Some(9), Mask::Window(9), true),
            (Some(9), Mask::Window(8), true),
            (Some(9), Mask::Window(10), false),
            (Some(9), Mask::Causal, false),
        ] {
            let mut b = Builder::new(5);
            let table = b.weight("t", DType::F32, 4, 5);
            let x = b.get_rows(table, "x").unwrap();
            let cache = b.kv_cache(heads, kept);
            b.store_kv(cache, x, x).unwrap();
            let attention =
                Attention { cache, n_head: 1, scale: 1.0, mask, sinks: None, softcap: None };
            assert_eq!(b.attention(attention, x, "kqv_out").is_ok(), fits, "{kept:?} {mask:?}");
        }
    }
}
