//! Test cases that every backend must pass with the reference's bits: small graphs with awkward shapes, random weights
//! in every format, and ways to cut the same prompts into steps.

mod dense;
mod experts;
mod latent;
mod run;
mod temperature;

use crate::ints::{Ints, Part, form};
pub use crate::tapped::Tapped;
use crate::{
    Act, Attention, Builder, Graph, KV_BLOCK, KvHeads, LoadOptions, LongFreqs, Mask, Node, Op,
    Result, RopePairs, RopeTable, ValueId, Weight, WeightId,
};
pub use experts::experts;
pub(crate) use experts::several;
use gguf::DType;
use gguf::quant::{Float, Half, Kind, Quant, Scale};
use half::f16;
pub use run::Cut;
use std::sync::Arc;

/// A graph with its weights as a GGUF file, and prompts to run.
pub struct Case {
    /// Says what the case is about.
    pub name: String,
    /// The graph.
    pub graph: Arc<Graph>,
    /// The weights.
    pub file: gguf::File,
    /// Token ids of each sequence.
    pub prompts: Vec<Vec<u32>>,
    /// Position of each prompt's first token. What lies before is read from the cache through a table that repeats
    /// the blocks written, so that far positions cost nothing.
    pub first_position: u32,
}

/// SplitMix64 (OOPSLA 2014): the same numbers everywhere, no dependency.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Seeded.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// `n` random elements in `dtype`, of magnitude about `size`: every bit of the quants and integer scales is random,
/// the float scales are chosen so that the decoded values have that magnitude.
pub fn random_tensor(rng: &mut Rng, dtype: DType, n: usize, size: f32) -> Vec<u8> {
    match dtype.kind() {
        Kind::Float(Float::F32) => (0..n).flat_map(|_| (rng.unit() * size).to_le_bytes()).collect(),
        Kind::Float(Float::F16) => {
            (0..n).flat_map(|_| f16::from_f32(rng.unit() * size).to_le_bytes()).collect()
        }
        Kind::Float(Float::BF16) => {
            (0..n).flat_map(|_| half::bf16::from_f32(rng.unit() * size).to_le_bytes()).collect()
        }
        Kind::Quant(quant) => {
            (0..n / dtype.block_len()).flat_map(|_| random_block(rng, dtype, quant, size)).collect()
        }
    }
}

fn random_block(rng: &mut Rng, dtype: DType, quant: Quant, size: f32) -> Vec<u8> {
    let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| rng.bits() as u8).collect();
    let (first, m_at) = match quant.scale {
        Scale::F16 { at } => (Half::At(at), quant.shape.has_m().then_some(Half::At(at + 2))),
        Scale::Fraction { of, .. } => (of, None),
        Scale::E8m0 { at } => {
            // The integers of MXFP4 reach 12, and the scale is below 2^(e - 127).
            block[at] = (124.0 + size.log2()) as u8 - rng.below(3) as u8;
            return block;
        }
    };
    // The largest integer that a scale multiplies, so that scale times integer is about `size`.
    let mut ints = Ints::new();
    ints.unpack(dtype, Part { bytes: &block, part: 0 });
    let most = (0..quant.shape.block_len())
        .map(|i| i32::from(ints.q[i]) * i32::from(ints.scale[i / 16]))
        .map(i32::abs)
        .max();
    let size = size / quant.scale.fraction();
    for half in std::iter::once(first).chain(m_at) {
        let scale = f16::from_f32(rng.unit() * size / most.unwrap_or(1).max(1) as f32);
        half.set(&mut block, scale.to_le_bytes());
    }
    block
}

/// Builds a graph and its random file side by side.
pub(crate) struct CaseBuilder {
    rng: Rng,
    pub(crate) builder: Builder,
    gguf: gguf::Builder,
    n_weights: usize,
}

impl CaseBuilder {
    pub(crate) fn new(seed: u64, n_vocab: usize) -> Self {
        Self {
            rng: Rng::new(seed),
            builder: Builder::new(n_vocab),
            gguf: gguf::Builder::new(),
            n_weights: 0,
        }
    }

    pub(crate) fn weight(
        &mut self,
        dtype: DType,
        n_in: usize,
        n_out: usize,
        size: f32,
    ) -> WeightId {
        let data = random_tensor(&mut self.rng, dtype, n_in * n_out, size);
        self.tensor(dtype, n_in, n_out, &data)
    }

    /// Several matrices in one tensor.
    pub(crate) fn matrices(&mut self, weight: &Weight, size: f32) -> WeightId {
        let Weight { dtype, n_in, n_out, n_mats, .. } = *weight;
        let data = random_tensor(&mut self.rng, dtype, n_in * n_out * n_mats, size);
        let name = format!("w{}", self.n_weights);
        self.n_weights += 1;
        let dims = [n_in, n_out, n_mats].map(|n| n as u64);
        self.gguf = std::mem::take(&mut self.gguf).tensor(&name, dtype, &dims, &data);
        self.builder.declare(Weight { name, ..weight.clone() })
    }

    fn tensor(&mut self, dtype: DType, n_in: usize, n_out: usize, data: &[u8]) -> WeightId {
        let name = format!("w{}", self.n_weights);
        self.n_weights += 1;
        let gguf = std::mem::take(&mut self.gguf);
        self.gguf = gguf.tensor(&name, dtype, &[n_in as u64, n_out as u64], data);
        self.builder.weight(name, dtype, n_in, n_out)
    }

    pub(crate) fn product(
        &mut self,
        dtype: DType,
        x: ValueId,
        n_out: usize,
        name: &str,
    ) -> Result<ValueId> {
        let n_in = self.builder.cols(x);
        let w = self.weight(dtype, n_in, n_out, 1.7 / (n_in as f32).sqrt());
        self.builder.mat_mul(w, x, name)
    }

    pub(crate) fn finish(
        mut self,
        name: String,
        lengths: &[usize],
        first_position: u32,
    ) -> Result<Case> {
        let graph = Arc::new(self.builder.finish()?);
        let prompts = lengths
            .iter()
            .map(|&n| (0..n).map(|_| self.rng.below(graph.n_vocab) as u32).collect())
            .collect();
        let shape = |e: gguf::Error| crate::Error::new(crate::ErrorKind::Read, e.to_string());
        let file = gguf::File::from_bytes(self.gguf.build().map_err(shape)?).map_err(shape)?;
        Ok(Case { name, graph, file, prompts, first_position })
    }
}

/// Products in one format: rows that are no multiple of a tile and some that are, which a backend may compute together;
/// for float formats columns that are no multiple of anything. `size` scales the activations.
pub fn products(dtype: DType, n_in: usize, size: f32) -> Result<Case> {
    let mut c = CaseBuilder::new(n_in as u64 * 31 + u64::from(dtype.id()), 37);
    let table = c.weight(DType::F32, n_in, 37, size);
    let x = c.builder.get_rows(table, "embd")?;
    for n_out in [1, 15, 16, 17, 50, 32, 96, 40, 64, 7] {
        c.product(dtype, x, n_out, &format!("out_{n_out}"))?;
    }
    let rows = c.builder.output_rows(x, "rows")?;
    c.product(dtype, rows, 37, "result_output")?;
    c.finish(format!("products {dtype} n_in {n_in} |x| {size:e}"), &[19, 1, 4], 0)
}

/// One product of any shape (both multiples of 16 at least), to be timed: logits are its first 16 columns.
pub fn product(dtype: DType, n_in: usize, n_out: usize) -> Result<Case> {
    let mut c = CaseBuilder::new(1, 16);
    let table = c.weight(DType::F32, n_in, 16, 1.0);
    let x = c.builder.get_rows(table, "embd")?;
    let x = c.builder.output_rows(x, "rows")?;
    let y = c.product(dtype, x, n_out, "out")?;
    c.builder.columns(0, 16, y, "result_output")?;
    c.finish(format!("product {dtype} [{n_in}, {n_out}]"), &[1], 0)
}

/// Sum and norm of rows so wide that a backend takes them in pieces.
pub fn norms(n: usize) -> Result<Case> {
    let mut c = CaseBuilder::new(n as u64, 5);
    let tables = [c.weight(DType::F32, n, 5, 1.0), c.weight(DType::F32, n, 5, 3.0)];
    let norm = c.weight(DType::F32, n, 1, 1.0);
    let one = c.builder.get_rows(tables[0], "one")?;
    let two = c.builder.get_rows(tables[1], "two")?;
    let sum = c.builder.add(one, two, "sum")?;
    let x = c.builder.rms_norm(norm, 1e-5, sum, "norm")?;
    if n.is_multiple_of(256) {
        // Products that want the norms rounded, of a sum and by itself.
        c.product(DType::Q4_K, x, 33, "of_norm")?;
        let y = c.builder.rms_norm(norm, 1e-6, sum, "other")?;
        c.product(DType::Q8_0, y, 33, "of_other")?;
        let sum = c.builder.add(one, sum, "more")?;
        let y = c.builder.rms_norm(norm, 1e-6, sum, "of_more")?;
        c.product(DType::Q5_1, y, 33, "of_more_out")?;
        let y = c.builder.rms_norm(norm, 1e-6, sum, "last")?;
        c.product(DType::Q6_K, y, 33, "of_last")?;
    }
    let x = c.builder.add(x, sum, "again")?;
    let x = c.builder.output_rows(x, "rows")?;
    c.product(DType::F32, x, 5, "result_output")?;
    c.finish(format!("norms of {n} columns"), &[19, 1, 4], 0)
}

/// Logits of which many are equal, and infinite ones behind finite ones for odd ids.
pub fn likeliest() -> Result<Case> {
    let (n, n_vocab) = (8, 5000);
    let mut c = CaseBuilder::new(3, n_vocab);
    let mut bytes = Vec::new();
    for id in 0..n_vocab {
        for i in 0..n {
            // Odd ids overflow in the products whose last weight is not zero.
            let overflow = if id % 2 == 1 { 3e38 } else { 0.0 };
            let v = if i + 1 == n { overflow } else { c.rng.unit() };
            bytes.extend(v.to_le_bytes());
        }
    }
    let table = c.tensor(DType::F32, n, n_vocab, &bytes);
    let x = c.builder.get_rows(table, "embd")?;
    let rows: Vec<f32> = (0..100 * n).map(|_| c.rng.unit()).collect();
    let weights = (0..n_vocab).flat_map(|id| {
        let row = &rows[id % 100 * n..][..n];
        let last = if id < 3000 { 0.0 } else { 2.0 };
        row[..n - 1].iter().copied().chain([last]).flat_map(f32::to_le_bytes).collect::<Vec<_>>()
    });
    let w = c.tensor(DType::F32, n, n_vocab, &weights.collect::<Vec<_>>());
    let x = c.builder.output_rows(x, "rows")?;
    c.builder.mat_mul(w, x, "result_output")?;
    c.finish("likeliest of 5000".to_owned(), &[19, 1, 4], 0)
}

/// Logits of which a bias of −∞ takes some ids out, those that `is_off` says.
pub fn masked(is_off: impl Fn(usize) -> bool) -> Result<Case> {
    let (n, n_vocab) = (8, 5000);
    let mut c = CaseBuilder::new(4, n_vocab);
    let mut numbers =
        |n: usize| -> Vec<u8> { (0..n).flat_map(|_| c.rng.unit().to_le_bytes()).collect() };
    let (table, weights) = (numbers(n * n_vocab), numbers(n * n_vocab));
    let table = c.tensor(DType::F32, n, n_vocab, &table);
    let x = c.builder.get_rows(table, "embd")?;
    let w = c.tensor(DType::F32, n, n_vocab, &weights);
    let bias = (0..n_vocab).map(|id| if is_off(id) { f32::NEG_INFINITY } else { 0.5 });
    let bias: Vec<u8> = bias.flat_map(f32::to_le_bytes).collect();
    let bias = c.tensor(DType::F32, n_vocab, 1, &bias);
    let x = c.builder.output_rows(x, "rows")?;
    let x = c.builder.mat_mul(w, x, "result_output")?;
    c.builder.add_bias(bias, x, "result_output")?;
    c.finish("masked of 5000".to_owned(), &[19, 1, 4], 0)
}

/// What a [`decoder`] case is made of.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Format of the products with `n_embd` columns.
    pub dtype: DType,
    /// Query heads.
    pub n_head: usize,
    /// Cached heads.
    pub n_head_kv: usize,
    /// Elements of a K head; a V head has four fewer.
    pub head_dim: usize,
    /// Pairing.
    pub pairs: RopePairs,
    /// What the second layer's tokens see.
    pub mask: Mask,
    /// Whether the second layer has attention sinks.
    pub sinks: bool,
    /// Score cap.
    pub softcap: Option<f32>,
    /// Activation.
    pub act: Act,
    /// Magnitude of the embeddings.
    pub size: f32,
    /// Position of the first token.
    pub first_position: u32,
    /// Whether every other sequence has the long frequencies of a table that has two sets.
    pub long_rope: bool,
}

/// Two layers with every op there is: all dimensions distinct, grouped heads, partial RoPE, QK norms, biases.
pub fn decoder(spec: Decoder) -> Result<Case> {
    // Far positions cost a long attention for each token: fewer of them.
    let lengths: &[usize] =
        if spec.first_position > 0 { &[19, 1, 4] } else { &[KV_BLOCK + 9, 1, 20] };
    decoder_of(spec, lengths)
}

pub(crate) fn decoder_of(spec: Decoder, lengths: &[usize]) -> Result<Case> {
    let (n_vocab, n_embd) = (101, spec.dtype.block_len().max(96));
    let n_ff = if spec.dtype.block_len() > 32 { spec.dtype.block_len() } else { 160 };
    let mut c = CaseBuilder::new(spec.n_head as u64 * 1000 + spec.head_dim as u64, n_vocab);
    let freqs: Vec<f64> =
        (0..spec.head_dim / 2 - 1).map(|i| 10_000f64.powf(-(i as f64) / 9.0)).collect();
    let stretched = freqs.iter().enumerate().map(|(i, freq)| freq / (1 + i) as f64).collect();
    let long = spec.long_rope.then_some(LongFreqs { freqs: stretched, above: 0 });
    let rope = c.builder.rope_table(RopeTable { freqs, long, mscale: 1.1, temperature: None });
    let table = c.weight(spec.dtype, n_embd, n_vocab, spec.size);
    let mut x = c.builder.get_rows(table, "embd")?;
    x = c.builder.scale(1.25, x, "inp_scaled");
    c.builder.stream(x);
    for il in 0..2 {
        x = layer(&mut c, DecoderLayer { spec: &spec, il, rope, n_ff }, x)?;
        c.builder.stream(x);
    }
    x = c.builder.output_rows(x, "rows")?;
    let w = c.weight(DType::F32, n_embd, 1, 1.0);
    x = c.builder.rms_norm(w, 1e-6, x, "result_norm")?;
    let logits = c.builder.mat_mul(table, x, "logits")?;
    c.builder.softcap(30.0, logits, "result_output");
    let d = spec;
    let name = format!(
        "decoder {} {}/{} heads of {} {:?} window {:?} cap {:?} {:?} |x| {:e} from {}{}",
        d.dtype,
        d.n_head,
        d.n_head_kv,
        d.head_dim,
        d.pairs,
        d.mask.window(),
        d.softcap,
        d.act,
        d.size,
        d.first_position,
        if d.long_rope { " two sets of frequencies" } else { "" }
    );
    c.finish(name, lengths, spec.first_position)
}

/// One layer of a decoder.
#[derive(Clone, Copy)]
struct DecoderLayer<'a> {
    spec: &'a Decoder,
    il: usize,
    /// Index of its RoPE table.
    rope: usize,
    n_ff: usize,
}

fn layer(c: &mut CaseBuilder, at: DecoderLayer<'_>, x: ValueId) -> Result<ValueId> {
    let DecoderLayer { spec, il, rope, n_ff } = at;
    let named = |name: &str| format!("{name}-{il}");
    let (dk, dv) = (spec.head_dim, spec.head_dim - 4);
    let n_embd = c.builder.cols(x);
    let norm = c.weight(DType::F32, n_embd, 1, 1.0);
    let cur = c.builder.rms_norm(norm, 1e-5, x, named("attn_norm"))?;
    let (q_cols, k_cols, v_cols) = (spec.n_head * dk, spec.n_head_kv * dk, spec.n_head_kv * dv);
    // One layer has its projections in one weight, the next in three.
    let (mut q, mut k, v);
    if il.is_multiple_of(2) {
        let qkv = c.product(spec.dtype, cur, q_cols + k_cols + v_cols, &named("wqkv"))?;
        q = c.builder.columns(0, q_cols, qkv, named("Qcur"))?;
        k = c.builder.columns(q_cols, k_cols, qkv, named("Kcur"))?;
        v = c.builder.columns(q_cols + k_cols, v_cols, qkv, named("Vcur"))?;
    } else {
        q = c.product(spec.dtype, cur, q_cols, &named("Qcur"))?;
        k = c.product(spec.dtype, cur, k_cols, &named("Kcur"))?;
        v = c.product(DType::Q8_0, cur, v_cols, &named("Vcur"))?;
    }
    let bias = c.weight(DType::F32, q_cols, 1, 0.3);
    q = c.builder.add_bias(bias, q, named("Qcur"))?;
    let (q_norm, k_norm) = (c.weight(DType::F32, dk, 1, 1.0), c.weight(DType::F32, dk, 1, 1.0));
    q = c.builder.rms_norm(q_norm, 1e-6, q, named("Qcur_normed"))?;
    k = c.builder.rms_norm(k_norm, 1e-6, k, named("Kcur_normed"))?;
    q = c.builder.rope(rope, dk, spec.pairs, q, named("Qcur"))?;
    k = c.builder.rope(rope, dk, spec.pairs, k, named("Kcur"))?;
    let (mask, sinks) = if il == 1 { (spec.mask, spec.sinks) } else { (Mask::Causal, false) };
    let heads = KvHeads { n_head_kv: spec.n_head_kv, head_dim_k: dk, head_dim_v: dv };
    let cache = c.builder.kv_cache(heads, mask.window());
    let sinks = sinks.then(|| c.weight(DType::F32, spec.n_head, 1, 2.0));
    c.builder.store_kv(cache, k, v)?;
    let attention = Attention {
        cache,
        n_head: spec.n_head,
        scale: 1.0 / (dk as f32).sqrt(),
        mask,
        sinks,
        softcap: spec.softcap,
    };
    let cur = c.builder.attention(attention, q, named("kqv_out"))?;
    // In the decoder's format where its blocks fit.
    let fits = (spec.n_head * dv).is_multiple_of(spec.dtype.block_len());
    let dtype = if fits { spec.dtype } else { DType::F16 };
    let cur = c.product(dtype, cur, n_embd, &named("attn_out"))?;
    let x = c.builder.add(cur, x, named("ffn_inp"))?;
    let norm = c.weight(DType::F32, n_embd, 1, 1.0);
    let cur = c.builder.rms_norm(norm, 1e-5, x, named("ffn_norm"))?;
    let gate = c.product(spec.dtype, cur, n_ff, &named("ffn_gate"))?;
    let up = c.product(spec.dtype, cur, n_ff, &named("ffn_up"))?;
    let cur = c.builder.glu(spec.act, gate, up, named("ffn_swiglu"))?;
    let is_k = spec.dtype.block_len() > 32;
    let down = if is_k { spec.dtype } else { DType::Q8_0 };
    let cur = c.product(down, cur, n_embd, &named("ffn_out"))?;
    c.builder.add(cur, x, named("l_out"))
}

/// Every case of the contract but those of [`experts()`], which are few and take long.
pub fn all() -> Result<Vec<Case>> {
    let mut cases = decoders()?;
    for dtype in DType::ALL {
        let columns: &[usize] = match dtype.block_len() {
            1 => &[1, 7, 100, 256, 513],
            32 => &[32, 96, 544],
            _ => &[256, 768],
        };
        for &n_in in columns {
            cases.push(products(dtype, n_in, 1.0)?);
        }
        cases.push(products(dtype, columns[columns.len() - 1], 1e5)?);
    }
    for n in [2047, 2048, 4608, 5000] {
        cases.push(norms(n)?);
    }
    cases.extend(dense::all()?);
    cases.extend([likeliest()?, temperature::case()?, latent::case()?, gates()?]);
    cases.extend(convs()?);
    Ok(cases)
}

/// Sizes about those at which kernels change: lanes, tiles, workgroups, blocks of the cache, groups of rows.
pub const AWKWARD: [usize; 24] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 511, 512, 513];

/// Rows and columns of every size of [`AWKWARD`]: products in every format, and a decoder for the other ops. Each prompt
/// is to be run by itself in one step ([`Cut::Chunks`]).
pub fn awkward() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let n_in = narrow(dtype);
        cases.push(rows(dtype, n_in, &AWKWARD)?);
        let mut columns = CaseBuilder::new(u64::from(dtype.id()) + 1, 37);
        let table = columns.weight(dtype, n_in, 37, 1.0);
        let x = columns.builder.get_rows(table, "embd")?;
        for n_out in AWKWARD {
            columns.product(dtype, x, n_out, &format!("out_{n_out}"))?;
        }
        let x = columns.builder.output_rows(x, "rows")?;
        columns.product(dtype, x, 37, "result_output")?;
        cases.push(columns.finish(format!("columns {dtype} n_in {n_in}"), &[9, 1], 0)?);
    }
    cases.push(small_decoder(&AWKWARD)?);
    Ok(cases)
}

/// Few columns for a product in this format, no multiple of a vector where the format allows.
fn narrow(dtype: DType) -> usize {
    match dtype.block_len() {
        1 => 33,
        32 => 96,
        n => n,
    }
}

/// A product of as many rows as each prompt is long.
fn rows(dtype: DType, n_in: usize, lengths: &[usize]) -> Result<Case> {
    let mut c = CaseBuilder::new(u64::from(dtype.id()), 37);
    let table = c.weight(DType::F32, n_in, 37, 1.0);
    let x = c.builder.get_rows(table, "embd")?;
    let x = c.builder.output_rows(x, "rows")?;
    c.product(dtype, x, 37, "result_output")?;
    c.finish(format!("rows {dtype} n_in {n_in}"), lengths, 0)
}

/// A decoder that long prompts get through soon.
fn small_decoder(lengths: &[usize]) -> Result<Case> {
    let spec = Decoder {
        dtype: DType::Q4_1,
        n_head: 3,
        n_head_kv: 1,
        head_dim: 20,
        pairs: RopePairs::Halves,
        mask: Mask::Window(100),
        sinks: false,
        softcap: None,
        act: Act::Silu,
        size: 1.0,
        first_position: 0,
        long_rope: false,
    };
    decoder_of(spec, lengths)
}

/// Rows about the ends of the passes in which a kernel takes the rows of a tall product, 192 on the CPU: one pass, and
/// a second and a third of a single row.
pub const TALL: [usize; 4] = [191, 192, 193, 385];

/// Rows of every size of [`TALL`]: products in every format, and a decoder. To be run as [`awkward`] is.
pub fn tall() -> Result<Vec<Case>> {
    let products = DType::ALL.into_iter().map(|dtype| rows(dtype, narrow(dtype), &TALL));
    products.chain([small_decoder(&TALL)]).collect()
}

/// Gated units whose two products are in unlike formats, some of which round their input alike: one loop cannot compute
/// both. The sum of all is looked at.
pub fn gates() -> Result<Case> {
    let n = 256;
    let mut c = CaseBuilder::new(17, 37);
    let table = c.weight(DType::F32, n, 37, 1.0);
    let embd = c.builder.get_rows(table, "embd")?;
    let mut sum = embd;
    for (i, (gate, up)) in [
        (DType::Q4_0, DType::Q8_0),
        (DType::Q8_0, DType::Q4_0),
        (DType::Q4_1, DType::Q5_1),
        (DType::Q5_0, DType::IQ4_NL),
        (DType::Q4_K, DType::Q6_K),
        (DType::Q3_K, DType::Q2_K),
        (DType::Q5_K, DType::Q8_0),
        (DType::F16, DType::F32),
        (DType::BF16, DType::Q4_0),
    ]
    .into_iter()
    .enumerate()
    {
        // An input of its own, so that no other pair's products are computed with these.
        let x = c.builder.scale(1.0 + i as f32 / 8.0, embd, format!("x-{i}"));
        let gate = c.product(gate, x, n, &format!("ffn_gate-{i}"))?;
        let up = c.product(up, x, n, &format!("ffn_up-{i}"))?;
        let act = if i.is_multiple_of(2) { Act::Silu } else { Act::GeluTanh };
        let gated = c.builder.glu(act, gate, up, format!("ffn_gated-{i}"))?;
        sum = c.builder.add(gated, sum, format!("sum-{i}"))?;
    }
    let x = c.builder.output_rows(sum, "rows")?;
    c.product(DType::F32, x, 37, "result_output")?;
    c.finish("gates and ups in unlike formats".to_owned(), &[19, 1, 4], 0)
}

/// Layers that keep a state, with attention between them: gated convolutions of 2, 4 and 9 rows over columns that fill no
/// vector, some and many. The prompts are shorter than a state, as long, and of many steps.
pub fn convs() -> Result<Vec<Case>> {
    let shapes =
        [(2, 33, DType::F32), (4, 16, DType::F16), (3, 320, DType::F32), (9, 50, DType::BF16)];
    shapes.into_iter().map(|(d_conv, cols, dtype)| conv(d_conv, cols, dtype)).collect()
}

fn conv(d_conv: usize, cols: usize, dtype: DType) -> Result<Case> {
    let mut c = CaseBuilder::new((d_conv * 1000 + cols) as u64, 37);
    let table = c.weight(DType::F32, cols, 37, 1.0);
    let mut x = c.builder.get_rows(table, "embd")?;
    c.builder.stream(x);
    let heads = KvHeads { n_head_kv: 1, head_dim_k: 4, head_dim_v: 4 };
    for il in 0..3 {
        let named = |name: &str| format!("{name}-{il}");
        let cur = if il == 1 {
            let cache = c.builder.kv_cache(heads, None);
            let q = c.product(DType::F32, x, 8, &named("Qcur"))?;
            let k = c.builder.columns(0, 4, q, named("Kcur"))?;
            let v = c.builder.columns(4, 4, q, named("Vcur"))?;
            c.builder.store_kv(cache, k, v)?;
            let (scale, mask) = (0.5, Mask::Causal);
            let a = Attention { cache, n_head: 2, scale, mask, sinks: None, softcap: None };
            c.builder.attention(a, q, named("kqv_out"))?
        } else {
            let gate = c.product(DType::F32, x, cols, &named("gate"))?;
            let bx = c.builder.mul(gate, x, named("bx"))?;
            let cache = c.builder.state_cache((d_conv - 1) * cols);
            let w = c.weight(dtype, d_conv, cols, 1.0);
            let conv = c.builder.ssm_conv(w, cache, bx, named("conv"))?;
            c.builder.mul(conv, gate, named("y"))?
        };
        let cur = c.product(DType::F32, cur, cols, &named("out"))?;
        x = c.builder.add(cur, x, named("l_out"))?;
        c.builder.stream(x);
    }
    let x = c.builder.output_rows(x, "rows")?;
    c.product(DType::F32, x, 37, "result_output")?;
    let name = format!("convolutions of {d_conv} rows, {cols} columns, {dtype}");
    c.finish(name, &[KV_BLOCK + 9, 1, d_conv - 1, d_conv + 3], 0)
}

/// Weights that are large for their columns, the table for logits and embedding among them, and more rows than 64: what a
/// device with small bindings must take in pieces. Values have `n` columns, or fewer.
pub fn large(dtype: DType, n: usize) -> Result<Case> {
    let mut c = CaseBuilder::new(u64::from(dtype.id()), n);
    let table = c.weight(dtype, n, n, 1.0);
    let x = c.builder.get_rows(table, "embd")?;
    let y = c.product(dtype, x, n, "out")?;
    let x = c.builder.add(x, y, "sum")?;
    let x = c.builder.output_rows(x, "rows")?;
    c.builder.mat_mul(table, x, "result_output")?;
    c.finish(format!("large {dtype}"), &[70, 1, 4], 0)
}

/// The cases that have every op.
pub fn decoders() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let plain = Decoder {
        dtype: DType::Q4_0,
        n_head: 15,
        n_head_kv: 3,
        head_dim: 24,
        pairs: RopePairs::Halves,
        mask: Mask::Causal,
        sinks: false,
        softcap: None,
        act: Act::Silu,
        size: 1.0,
        first_position: 0,
        long_rope: false,
    };
    let adjacent =
        Decoder { pairs: RopePairs::Adjacent, n_head: 7, n_head_kv: 1, head_dim: 68, ..plain };
    let fours = Decoder { n_head: 4, n_head_kv: 2, ..plain };
    for spec in [
        plain,
        adjacent,
        Decoder {
            dtype: DType::Q4_K,
            mask: Mask::Window(33),
            act: Act::GeluTanh,
            head_dim: 84,
            n_head: 3,
            ..plain
        },
        Decoder { dtype: DType::Q6_K, softcap: Some(20.0), head_dim: 20, ..plain },
        Decoder { dtype: DType::Q8_0, size: 1e5, ..plain },
        Decoder { dtype: DType::F16, head_dim: 260, n_head: 2, n_head_kv: 1, ..plain },
        Decoder {
            dtype: DType::Q5_1,
            first_position: 8192 - 10,
            n_head: 3,
            n_head_kv: 1,
            head_dim: 20,
            ..plain
        },
        Decoder { dtype: DType::Q5_K, first_position: 700, head_dim: 68, ..fours },
        Decoder {
            dtype: DType::Q5_0,
            first_position: 10_000,
            n_head: 3,
            mask: Mask::Window(200),
            ..plain
        },
        Decoder { dtype: DType::Q4_1, first_position: 3000, mask: Mask::Window(700), ..fours },
        Decoder { dtype: DType::Q8_0, n_head: 3, long_rope: true, ..plain },
    ] {
        cases.push(decoder(spec)?);
    }
    Ok(cases)
}

/// The options under which the contract holds: all arithmetics, both caches. What `int16` changes has nothing to do with
/// how a cache holds its elements, so one is enough for it.
pub fn options() -> Vec<LoadOptions> {
    use crate::{Arithmetic, KvType};
    let mut all = Vec::new();
    for arithmetic in [Arithmetic::Int8, Arithmetic::F32] {
        for kv in [KvType::F16, KvType::F32] {
            all.push(LoadOptions { arithmetic, kv });
        }
    }
    all.push(LoadOptions { arithmetic: Arithmetic::Int16, kv: KvType::F16 });
    all
}

impl Case {
    /// Those of [`options`] that can change a bit of the case: both caches under the first arithmetic, where it has one, and
    /// the other arithmetics with the first cache, where it has a product with quantised weights. What one changes has
    /// nothing to do with the other.
    pub fn options(&self) -> Vec<LoadOptions> {
        let mut all = options();
        let [first, ..] = all[..] else { unreachable!("the contract holds under some options") };
        let quantised = |node: &Node| {
            let (Op::MatMul { w } | Op::MatMulId { w }) = node.op else { return false };
            form(self.graph.weight(w).dtype).is_some()
        };
        let products = self.graph.nodes.iter().any(quantised);
        all.retain(|options| {
            let other_cache = options.kv != first.kv;
            let other_arithmetic = options.arithmetic != first.arithmetic;
            match (other_cache, other_arithmetic) {
                (false, false) => true,
                (true, false) => !self.graph.caches.is_empty(),
                (false, true) => products,
                (true, true) => false,
            }
        });
        all
    }
}
