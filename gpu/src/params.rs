//! The parameters of the kernels: for each `struct Params` in WGSL the same struct here. A test compares names, types and
//! offsets with naga's layout of every shader (`gpu/tests/shaders.rs`).
//!
//! Every kernel's parameters begin with [`ROWS`], which a dispatch fills in for each step; the structs have what follows.
//! They are `repr(C)` without `bytemuck::Pod`: that is an `unsafe impl`, and a list of words needs none.

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `u32`
    U32,
    /// `f32`
    F32,
}

/// A parameter: its name in WGSL, its type, and its place in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// Bytes before it.
    pub offset: usize,
}

/// What every kernel's parameters begin with: how many rows the dispatch has, and the first of them.
pub const ROWS: [Field; 2] = [
    Field { name: "rows", kind: Kind::U32, offset: 0 },
    Field { name: "row0", kind: Kind::U32, offset: 4 },
];

/// The parameters of a kernel behind [`ROWS`].
pub(crate) trait Params {
    /// Their layout; offsets count from the end of [`ROWS`].
    const FIELDS: &'static [Field];

    /// Their words, in order.
    fn words(&self) -> Vec<u32>;
}

/// What a parameter may be.
trait Word: Copy {
    const KIND: Kind;
    fn bits(self) -> u32;
}

impl Word for u32 {
    const KIND: Kind = Kind::U32;

    fn bits(self) -> u32 {
        self
    }
}

impl Word for f32 {
    const KIND: Kind = Kind::F32;

    fn bits(self) -> u32 {
        self.to_bits()
    }
}

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* })*) => { $(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name {
            $(pub(crate) $field: $kind,)*
        }

        impl Params for $name {
            const FIELDS: &'static [Field] = &[$(Field {
                name: stringify!($field),
                kind: <$kind as Word>::KIND,
                offset: std::mem::offset_of!($name, $field),
            }),*];

            fn words(&self) -> Vec<u32> {
                vec![$(self.$field.bits()),*]
            }
        }
    )* };
}

params! {
    /// `rows/argmax.wgsl`
    Argmax { cols: u32, }

    /// `rows/copy.wgsl`: columns from `start` on of rows of `from_cols`, or the output rows, whose numbers stand in the
    /// step's buffer from `outputs_at` on.
    CopyRows { cols: u32, from_cols: u32, start: u32, outputs_at: u32, }

    /// `rows/elementwise.wgsl`
    Elementwise { cols: u32, by: f32, }

    /// `rows/heads.wgsl`: `n_a` of the `a_head` columns of a head from `start` on, and `n_b` of the second value's.
    Heads { cols: u32, a_cols: u32, b_cols: u32, a_head: u32, start: u32, n_a: u32, n_b: u32, }

    /// `rows/get_rows.wgsl`: a piece of the table, rows `first .. first + count` of `n` elements in `blocks` blocks, for
    /// the numbers that stand in the step's buffer from `wanted_at` on.
    GetRows { n: u32, blocks: u32, first: u32, count: u32, wanted_at: u32, }

    /// `attention/params.wgsl`. `words_k` and `words_v` are the words of a head at one position, `positions_at` and
    /// `tables_at` places in the step's buffer, `heads_each` the heads of a tile, `max_chunks` the chunks of a head that
    /// there is room for.
    Attention {
        n_head: u32, heads_per_kv: u32, dim_k: u32, dim_v: u32, words_k: u32, words_v: u32, positions_at: u32,
        tables_at: u32, window: u32, scale: f32, cap: f32, heads_each: u32, max_chunks: u32,
    }

    /// `attention/merge.wgsl`
    AttentionMerge { n_head: u32, dim_v: u32, positions_at: u32, window: u32, max_chunks: u32, }

    /// `mat_mul/f32.wgsl`, `mat_mul/vec_f32.wgsl`: rows `first .. first + count` of the weights.
    MatMulF32 { n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, }

    /// `mat_mul/product.wgsl`: a row of activations has `row_words` words; the first product's rows end at `end0`, the
    /// second's at `end1`.
    MatMulInt {
        n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, row_words: u32, end0: u32, end1: u32,
    }

    /// `mat_mul/vec_f32.wgsl` with several matrices: `slots` of them for a row of activations, which has one row of numbers or
    /// `x_slots`.
    MatMulF32Experts {
        n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, slots: u32, x_slots: u32,
    }

    /// `mat_mul/product.wgsl` with several matrices.
    MatMulIntExperts {
        n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, row_words: u32, slots: u32, x_slots: u32,
    }

    /// `experts/route.wgsl`: rows of `cols` numbers become rows of `n`; `used` of `groups` are kept.
    Route { cols: u32, n: u32, at_least: f32, groups: u32, used: u32, }

    /// `experts/slots.wgsl`: `slots` slots of `n` columns; the result has `cols`.
    Slots { cols: u32, n: u32, slots: u32, }

    /// `norm_rope/rms_norm.wgsl`: groups of `n` columns; a quantised row has `row_words` words.
    RmsNorm { cols: u32, n: u32, eps: f32, n_f32: f32, row_words: u32, }

    /// `norm_rope/layer_norm.wgsl`: groups of `n` columns; factors of a group begin `by_group` behind those of the one before.
    LayerNorm { cols: u32, n: u32, eps: f32, n_f32: f32, by_group: u32, }

    /// `norm_rope/rope.wgsl`: the first `workgroups` are for the first value, the others the second's, which has `cols2`
    /// columns.
    Rope { cols: u32, head_dim: u32, pairs: u32, per_head: u32, adjacent: u32, workgroups: u32, cols2: u32, }

    /// `norm_rope/rope_store.wgsl`: workgroups up to `workgroups_q` are for q, up to `workgroups_qk` for k, the others for v.
    RopeStore {
        cols: u32, dim_k: u32, pairs: u32, adjacent: u32, heads: u32, dim_v: u32, words_k: u32, words_v: u32,
        positions_at: u32, tables_at: u32, workgroups_q: u32, workgroups_qk: u32,
    }

    /// `norm_rope/store_kv.wgsl`
    StoreKv {
        heads: u32, dim_k: u32, dim_v: u32, words_k: u32, words_v: u32, positions_at: u32, tables_at: u32,
    }

    /// `ssm/conv.wgsl`: a state has `kept` rows; `tokens` is the room for tokens in the step's buffer.
    SsmConv { cols: u32, kept: u32, tokens: u32, positions_at: u32, tables_at: u32, }

    /// `quantize/quantize.wgsl`: rows of `n` elements become rows of `row_words` words.
    Quantize { n: u32, row_words: u32, }

    /// The same where a row of the value is `slots` rows.
    QuantizeSlots { n: u32, row_words: u32, slots: u32, }

    /// The same of merged chunks of attention.
    QuantizeMerge { n: u32, row_words: u32, dim_v: u32, positions_at: u32, window: u32, max_chunks: u32, }

    /// `probe/limits.wgsl`
    Limits { rounds: u32, n: u32, }

    /// `probe/probe.wgsl`, `probe/coop.wgsl`
    Probe { n: u32, }
}
