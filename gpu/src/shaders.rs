//! The kernels' files, and how each is specialised: one `Shader` is one pipeline.

mod products;

use crate::kernels;
use crate::matrix::{self, Matrix};
use crate::params::{self, Field, Params};
use crate::probes::Probes;
use crate::template::{Defines, expand};
use gguf::DType;
use graph::ints::{Q8Format, Rounding};
use graph::ops::quantize_q16;
use graph::{Act, Attention, KvCache, KvType, math};
use products::weights;
pub(crate) use products::{FEW_LANES, MANY_LANES, by_sixteen};
pub use products::{
    mat_mul_coop, mat_mul_coop_int16, mat_mul_f32, mat_mul_int8, mat_mul_int16, mat_vec_f32,
    mat_vec_f32_experts, mat_vec_int8, mat_vec_int8_experts, mat_vec_int16, mat_vec_int16_experts,
    mat_vec_split,
};

/// What one pipeline is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// Name of the file in `kernels/`, without its ending.
    pub file: &'static str,
    /// What the template is expanded with.
    pub defines: Defines,
    /// Buffers of group 0.
    pub buffers: u32,
    /// The last `writes` of them are written, the others are read.
    pub writes: u32,
    /// What it does with a layer's cache, which is group 1.
    pub cache: Cache,
    /// Its parameters behind [`params::ROWS`].
    pub params: &'static [Field],
    /// Whether the device's own operations are used, whatever its probes say: the probes themselves.
    pub native: bool,
    /// The matrix unit that it wants.
    pub matrix: Option<Matrix>,
}

/// What a kernel does with the cache of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// It does not bind one.
    None,
    /// It reads K and V.
    Reads,
    /// It stores K and V.
    Writes,
    /// It reads the states, or leaves new ones.
    State,
}

impl Shader {
    /// A kernel that writes the last of its buffers.
    fn new<P: Params>(file: &'static str, buffers: u32, defines: Defines) -> Self {
        Self {
            file,
            defines,
            buffers,
            writes: 1,
            cache: Cache::None,
            params: P::FIELDS,
            native: false,
            matrix: None,
        }
    }
}

/// What an element-by-element kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// `a + b`
    Add,
    /// `a · b`
    Mul,
    /// `a + b[column]`
    Bias,
    /// `a · by`
    Scale,
    /// `gelu_tanh(a)`
    Gelu,
    /// `max(a, 0)²`
    Relu2,
    /// The nearest number to `a` from `-by` to `by`
    Clamp,
    /// `silu(a) · b`
    Silu,
    /// `gelu_tanh(a) · b`
    GeluTanh,
    /// gpt-oss's gated unit of a and b.
    SwigluOai,
    /// `by · tanh(a / by)`
    Softcap,
}

/// Computes each element by itself.
pub fn elementwise(map: Map) -> Shader {
    let two = match map {
        Map::Add | Map::Mul | Map::Bias | Map::Silu | Map::GeluTanh | Map::SwigluOai => true,
        Map::Scale | Map::Gelu | Map::Relu2 | Map::Clamp | Map::Softcap => false,
    };
    let defines = Defines::new()
        .flag("TWO", two)
        .flag("ADD", map == Map::Add)
        .flag("MUL", map == Map::Mul)
        .flag("BIAS", map == Map::Bias)
        .flag("SCALE", map == Map::Scale)
        .flag("GELU", map == Map::Gelu)
        .flag("RELU2", map == Map::Relu2)
        .flag("CLAMP", map == Map::Clamp)
        .flag("SILU", map == Map::Silu)
        .flag("GELU_TANH", map == Map::GeluTanh)
        .flag("SWIGLU_OAI", map == Map::SwigluOai)
        .flag("SOFTCAP", map == Map::Softcap);
    Shader::new::<params::Elementwise>("rows/elementwise", if two { 3 } else { 2 }, defines)
}

/// Copies some columns of every row.
pub fn columns() -> Shader {
    Shader::new::<params::CopyRows>("rows/copy", 2, Defines::new().flag("OUTPUT_ROWS", false))
}

/// Some columns of each head, or the heads of two values side by side.
pub fn heads(join: bool) -> Shader {
    let defines = Defines::new().flag("JOIN", join);
    Shader::new::<params::Heads>("rows/heads", 2 + u32::from(join), defines)
}

/// Copies the rows that give logits.
pub fn output_rows() -> Shader {
    Shader::new::<params::CopyRows>("rows/copy", 3, Defines::new().flag("OUTPUT_ROWS", true))
}

/// RMS norm, `wide` for groups of more than 128 columns. With `of_sum` it adds two values first and stores the sum too. With
/// `quantize` a group is a whole row, and the result is stored quantised as well, for the products that follow.
pub fn rms_norm(wide: bool, of_sum: bool, quantize: Option<Rounding>) -> Shader {
    let threads = if wide { 256 } else { 64 };
    let defines = Defines::new().flag("WIDE", wide).flag("ADD", of_sum).set("THREADS", &threads);
    let defines = defines.flag("QUANTIZE", quantize.is_some());
    let defines = match quantize {
        Some(rounding) => quantizing(defines, rounding, 4096),
        None => defines,
    };
    let (sums, quantizes) = (u32::from(of_sum), u32::from(quantize.is_some()));
    Shader {
        writes: 1 + sums + quantizes,
        ..Shader::new::<params::RmsNorm>("norm_rope/rms_norm", 3 + 2 * sums + quantizes, defines)
    }
}

/// LayerNorm, with factors or without, and with something added behind them.
pub fn layer_norm(weight: bool, bias: bool) -> Shader {
    let defines = Defines::new().flag("WEIGHT", weight).flag("BIAS", bias);
    let buffers = 2 + u32::from(weight) + u32::from(bias);
    Shader::new::<params::LayerNorm>("norm_rope/layer_norm", buffers, defines)
}

/// The definitions with which `quantize/blocks_q8.wgsl` or `blocks_q16.wgsl` quantises `tile` elements in a workgroup of 256
/// threads.
fn quantizing(defines: Defines, rounding: Rounding, tile: usize) -> Defines {
    let (is_q16, is_256) = match rounding {
        Rounding::Q8(Q8Format::Q8x32) => (false, false),
        Rounding::Q8(Q8Format::Q8x256) => (false, true),
        Rounding::Q16 => (true, false),
    };
    let (block, lanes) = (if is_256 { 256 } else { 32 }, (256 * 256 / tile).min(64));
    defines
        .flag("Q16", is_q16)
        .flag("Q8X256", is_256)
        .set("TILE_BLOCKS", &(tile / block))
        .set("TILE_SUMS", &(tile / 16))
        .set("TILE_WORDS", &(tile / 4))
        .set("TILE_LANES", &lanes)
        .set("TILE_EACH", &(64 / lanes))
}

/// RoPE of one value, or of two by the same angles.
pub fn rope(two: bool) -> Shader {
    let writes = 1 + u32::from(two);
    Shader {
        writes,
        ..Shader::new::<params::Rope>(
            "norm_rope/rope",
            1 + 2 * writes,
            Defines::new().flag("TWO", two),
        )
    }
}

/// What is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeOf {
    /// A value that an earlier dispatch computed.
    Value,
    /// A gated activation, which the same dispatch computes and stores in f32 too.
    Glu(Act),
    /// One token's attention, whose chunks the same dispatch merges and stores in f32 too.
    Merge {
        /// Whether a sink is merged last.
        sinks: bool,
    },
}

/// Quantisation of activations.
pub fn quantize(rounding: Rounding, of: QuantizeOf) -> Shader {
    let act = |act| of == QuantizeOf::Glu(act);
    let (glu, merge, sinks) = match of {
        QuantizeOf::Value => (false, false, false),
        QuantizeOf::Glu(_) => (true, false, false),
        QuantizeOf::Merge { sinks } => (false, true, sinks),
    };
    let defines = quantizing(Defines::new(), rounding, 256)
        .flag("SLOTS", false)
        .flag("GLU", glu)
        .flag("SILU", act(Act::Silu))
        .flag("GELU_TANH", act(Act::GeluTanh))
        .flag("SWIGLU_OAI", act(Act::SwigluOai))
        .flag("MERGE", merge)
        .flag("SINKS", sinks);
    let writes = 1 + u32::from(of != QuantizeOf::Value);
    let shader = match of {
        QuantizeOf::Value | QuantizeOf::Glu(_) => Shader::new::<params::Quantize>,
        QuantizeOf::Merge { .. } => Shader::new::<params::QuantizeMerge>,
    };
    let buffers = 2 * writes + u32::from(sinks);
    Shader { writes, ..shader("quantize/quantize", buffers, defines) }
}

/// Quantisation of a value whose rows are several rows each: those of chosen experts.
pub fn quantize_slots(rounding: Rounding) -> Shader {
    let shader = quantize(rounding, QuantizeOf::Value);
    let defines = shader.defines.flag("SLOTS", true);
    Shader { defines, params: <params::QuantizeSlots as Params>::FIELDS, ..shader }
}

/// A step of a router.
pub fn route(route: graph::Route) -> Shader {
    use graph::Route::{Each, Normalise, Pick, Sigmoid, Softmax, TopGroups, TopK};
    let defines = Defines::new()
        .flag("SOFTMAX", route == Softmax)
        .flag("SIGMOID", route == Sigmoid)
        .flag("EACH", route == Each)
        .flag("TOP_GROUPS", matches!(route, TopGroups { .. }))
        .flag("TOP_K", route == TopK)
        .flag("PICK", route == Pick)
        .flag("NORMALISE", matches!(route, Normalise { .. }));
    let buffers = if route == Pick { 3 } else { 2 };
    Shader::new::<params::Route>("experts/route", buffers, defines)
}

/// What is done with the slots of chosen experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    /// Each plus the bias of its expert.
    AddId,
    /// Each times its weight.
    Weighted,
    /// The sum of a row's.
    Sum,
}

/// Biases, weights and sums of chosen experts' slots.
pub fn slots(slots: Slots) -> Shader {
    let defines = Defines::new()
        .flag("ADD_ID", slots == Slots::AddId)
        .flag("WEIGHTED", slots == Slots::Weighted)
        .flag("SUM", slots == Slots::Sum);
    let buffers = match slots {
        Slots::AddId => 4,
        Slots::Weighted => 3,
        Slots::Sum => 2,
    };
    Shader::new::<params::Slots>("experts/slots", buffers, defines)
}

/// A causal convolution of few rows, which reads the states of earlier ones.
pub fn ssm_conv() -> Shader {
    let defines = Defines::new().flag("LEAVE", false);
    Shader { cache: Cache::State, ..Shader::new::<params::SsmConv>("ssm/conv", 5, defines) }
}

/// The states that a convolution leaves.
pub fn ssm_conv_state() -> Shader {
    let defines = Defines::new().flag("LEAVE", true);
    let shader = Shader::new::<params::SsmConv>("ssm/conv", 3, defines);
    Shader { writes: 0, cache: Cache::State, ..shader }
}

/// Looks up rows of a table: embeddings.
pub fn get_rows(dtype: DType) -> Shader {
    Shader::new::<params::GetRows>("rows/get_rows", 3, weights(dtype))
}

/// How the cache's elements are stored.
fn cached(kv: KvType) -> Defines {
    let is_f16 = match kv {
        KvType::F16 => true,
        KvType::F32 => false,
    };
    Defines::new().flag("KV_F16", is_f16)
}

/// Storing keys and values.
pub fn store_kv(kv: KvType) -> Shader {
    let defines = cached(kv);
    Shader {
        writes: 0,
        cache: Cache::Writes,
        ..Shader::new::<params::StoreKv>("norm_rope/store_kv", 4, defines)
    }
}

/// RoPE of queries and keys, and storing keys and values: eight buffers and the cache's two.
pub fn rope_store(kv: KvType) -> Shader {
    let defines = cached(kv);
    Shader {
        writes: 2,
        cache: Cache::Writes,
        ..Shader::new::<params::RopeStore>("norm_rope/rope_store", 8, defines)
    }
}

/// The elements of a head of K and of V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadDims {
    /// Of queries and keys.
    pub k: usize,
    /// Of values.
    pub v: usize,
}

impl HeadDims {
    /// Both alike.
    fn square(dim: usize) -> Self {
        Self { k: dim, v: dim }
    }
}

/// What attention does besides weighing values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Scores are capped.
    pub softcap: bool,
    /// Each head has a sink.
    pub sinks: bool,
    /// Values are the first elements of keys.
    pub v_in_k: bool,
}

impl Extras {
    /// Those of an op.
    pub fn of(a: &Attention, cache: KvCache) -> Self {
        let (softcap, sinks) = (a.softcap.is_some(), a.sinks.is_some());
        Self { softcap, sinks, v_in_k: cache.v_in_k }
    }
}

/// Attention with values of up to `dim_v` elements (a multiple of 2).
pub fn attention(kv: KvType, extras: Extras, dim_v: usize) -> Shader {
    let Extras { softcap, sinks, v_in_k } = extras;
    let defines = cached(kv).flag("SOFTCAP", softcap).flag("SINKS", sinks);
    let defines = defines.flag("V_IN_K", v_in_k).set("DIM_V", &dim_v);
    let buffers = 4 + u32::from(sinks);
    Shader {
        cache: Cache::Reads,
        ..Shader::new::<params::Attention>("attention/attention", buffers, defines)
    }
}

/// Queries of a workgroup of [`attention_tile`].
pub(crate) const TILE_QUERIES: usize = 32;

/// The same for many tokens on a GPU, which has threads to spare; `None` where heads have more than 256 elements, or no
/// multiple of four.
pub fn attention_tile(kv: KvType, extras: Extras, dims: HeadDims) -> Option<Shader> {
    if extras.v_in_k {
        return None;
    }
    if [dims.k, dims.v].into_iter().any(|dim| dim > 256 || !dim.is_multiple_of(4)) {
        return None;
    }
    // A tile is 2048 elements: words that each of the 128 threads loads four at a time, and positions of V.
    let loads = match kv {
        KvType::F16 => 2,
        KvType::F32 => 4,
    };
    let passes = dims.v.div_ceil(64);
    let rows = if passes == 3 { 8 } else { 32 / passes };
    let defines = cached(kv)
        .flag("SOFTCAP", extras.softcap)
        .flag("SINKS", extras.sinks)
        .set("LOADS", &loads)
        .set("K_FOURS", &(4 * loads))
        .set("V_FOURS", &(dims.v / 4))
        .set("V_PASSES", &passes)
        .set("V_ACROSS", &(16 * passes))
        .set("V_ROWS", &rows);
    Some(Shader {
        cache: Cache::Reads,
        ..Shader::new::<params::Attention>("attention/tile", 4 + u32::from(extras.sinks), defines)
    })
}

/// Attention of one token, each chunk of positions by a workgroup of its own; [`attention_merge`] puts the chunks together.
/// Small heads of f16 are loaded into registers before they are used.
pub fn attention_part(kv: KvType, extras: Extras, dims: HeadDims) -> Shader {
    let Extras { softcap, v_in_k, .. } = extras;
    let small =
        !v_in_k && kv == KvType::F16 && dims.k.is_multiple_of(2) && dims.k.max(dims.v) <= 128;
    let defines = cached(kv).flag("SOFTCAP", softcap).flag("V_IN_K", v_in_k);
    let defines = defines.flag("AHEAD", small);
    let defines = if small { defines.set("K_WORDS", &(dims.k / 2)) } else { defines };
    Shader { cache: Cache::Reads, ..Shader::new::<params::Attention>("attention/part", 4, defines) }
}

/// Merges what [`attention_part`] gave for each chunk.
pub fn attention_merge(sinks: bool) -> Shader {
    let defines = Defines::new().flag("SINKS", sinks);
    Shader::new::<params::AttentionMerge>("attention/merge", 3 + u32::from(sinks), defines)
}

/// Finds the largest element of each row.
pub fn argmax() -> Shader {
    Shader::new::<params::Argmax>("rows/argmax", 2, Defines::new())
}

/// What is measured of a device's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes read.
    Read,
    /// Products of 8-bit integers.
    Int8,
    /// Products in f32.
    F32,
}

/// The measurement of a limit.
pub fn limit(limit: Limit) -> Shader {
    let defines = Defines::new()
        .flag("READ", limit == Limit::Read)
        .flag("INT8", limit == Limit::Int8)
        .flag("F32", limit == Limit::F32);
    Shader::new::<params::Limits>("probe/limits", 2, defines)
}

/// What a probe measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `fma`
    Fma,
    /// `/`
    Div,
    /// `sqrt`
    Sqrt,
    /// From f16.
    Half,
    /// What we have no replacement for: sums, products, conversions, rounding, packed dot products.
    Rest,
}

/// The measurement of one operation, the device's own or ours.
pub fn probe(probe: Probe, native: bool) -> Shader {
    let defines = Defines::new()
        .flag("FMA", probe == Probe::Fma)
        .flag("DIV", probe == Probe::Div)
        .flag("SQRT", probe == Probe::Sqrt)
        .flag("HALF", probe == Probe::Half)
        .flag("REST", probe == Probe::Rest);
    Shader { native, ..Shader::new::<params::Probe>("probe/probe", 2, defines) }
}

/// The measurement of a matrix unit.
pub(crate) fn probe_coop(matrix: Matrix) -> Shader {
    let (size, threads) = (matrix.size, matrix.subgroup);
    let defines =
        Defines::new().set("SIZE", &size).set("LEN", &(size * size)).set("THREADS", &threads);
    Shader { matrix: Some(matrix), ..Shader::new::<params::Probe>("probe/coop", 2, defines) }
}

/// A number that changes with the text of any kernel, with what the shaders are made with, and with the layout of their
/// parameters: FNV-1a, 64 bits. The templates and what goes into them stand for all shaders, whose text takes a second to
/// make; one shader of each file stands for how they are put together.
pub fn version() -> u64 {
    let all = all();
    let worst = Probes::worst();
    let devices = [worst, Probes { wide: true, ..worst }, Probes::best()];
    let first = |(i, shader): (usize, &Shader)| {
        let known = all[..i].iter().any(|other| other.file == shader.file);
        (!known).then(|| source(shader, worst).unwrap_or_default())
    };
    let texts = kernels::NAMES.iter().filter_map(|name| kernels::text(name)).map(str::to_owned);
    let made = [format!("{all:?} {:?} {:?}", constants(), devices.map(Probes::defines))];
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let parts = texts.chain(made).chain(all.iter().enumerate().filter_map(first));
    parts.flat_map(String::into_bytes).fold(0xcbf2_9ce4_8422_2325, fnv)
}

/// The WGSL of a shader on a device with these probes.
pub fn source(shader: &Shader, probes: Probes) -> Result<String, String> {
    let probes = if shader.native { Probes::best() } else { probes };
    let defines = shader.defines.clone().with(&constants()).with(&probes.defines());
    // Loading ahead unrolls hundreds of fmas. One of many steps is long: a single copy in a loop is faster.
    let defines = match shader.defines.is_on("AHEAD") {
        Ok(ahead) => defines.flag("AHEAD", ahead && probes.fma),
        Err(_) => defines,
    };
    expand(shader.file, &defines, &kernels::text)
}

/// The contract's constants, to the bit.
pub fn constants() -> Defines {
    let mut defines = Defines::new()
        .set("LOG2_E", &literal(math::LOG2_E))
        .set("ROUND_MAGIC", &literal(math::ROUND_MAGIC))
        .set("LN2_HI", &literal(math::LN2_HI))
        .set("LN2_LO", &literal(math::LN2_LO))
        .set("EXP_MAX", &literal(math::EXP_MAX))
        .set("EXP_MIN", &literal(math::EXP_MIN))
        .set("GELU_K", &literal(math::GELU_K))
        .set("GELU_C", &literal(math::GELU_C))
        .set("OAI_K", &literal(math::OAI_K))
        .set("OAI_LIMIT", &literal(math::OAI_LIMIT))
        .set("Q16_MAX", &literal(quantize_q16::MAX))
        .set("Q16_TINY", &quantize_q16::TINY.to_bits());
    for (i, c) in math::EXP_POLY.into_iter().enumerate() {
        defines = defines.set(&format!("EXP_POLY_{i}"), &literal(c));
    }
    defines
}

/// A WGSL literal that is this number exactly: Rust prints the shortest decimal that reads back as the same bits.
fn literal(x: f32) -> String {
    format!("{x:e}f")
}

/// Every shader that a model can ask for.
pub fn all() -> Vec<Shader> {
    let roundings = [Rounding::Q8(Q8Format::Q8x32), Rounding::Q8(Q8Format::Q8x256), Rounding::Q16];
    let maps = [Map::Add, Map::Mul, Map::Bias, Map::Scale, Map::Silu, Map::GeluTanh, Map::Softcap];
    let unary = [Map::Gelu, Map::Relu2, Map::Clamp];
    let mut all: Vec<Shader> = maps.into_iter().chain(unary).map(elementwise).collect();
    all.extend([[false; 2], [true, false], [true; 2]].map(|[w, b]| layer_norm(w, b)));
    all.extend([elementwise(Map::SwigluOai), columns(), output_rows(), rope(false), rope(true)]);
    all.extend([heads(false), heads(true)]);
    all.extend([attention_merge(false), attention_merge(true), argmax()]);
    all.extend([ssm_conv(), ssm_conv_state()]);
    use graph::Route::{Each, Normalise, Pick, Sigmoid, Softmax, TopGroups, TopK};
    all.extend([TopGroups { groups: 1, used: 1 }, Each].map(route));
    all.extend([Softmax, Sigmoid, TopK, Pick, Normalise { at_least: 0.0 }].map(route));
    all.extend([Slots::AddId, Slots::Weighted, Slots::Sum].map(slots));
    all.extend(roundings.map(quantize_slots));
    let glus = [Act::Silu, Act::GeluTanh, Act::SwigluOai].map(QuantizeOf::Glu);
    let merges = [false, true].map(|sinks| QuantizeOf::Merge { sinks });
    for of in [QuantizeOf::Value].into_iter().chain(merges).chain(glus) {
        all.extend(roundings.map(|rounding| quantize(rounding, of)));
    }
    for of_sum in [false, true] {
        all.extend([false, true].map(|wide| rms_norm(wide, of_sum, None)));
        all.extend(roundings.map(|rounding| rms_norm(true, of_sum, Some(rounding))));
    }
    for what in [Probe::Fma, Probe::Div, Probe::Sqrt, Probe::Half, Probe::Rest] {
        all.extend([probe(what, false), probe(what, true)]);
    }
    all.extend(matrix::known().map(probe_coop));
    all.extend([Limit::Read, Limit::Int8, Limit::F32].map(limit));
    for dtype in DType::ALL {
        all.extend([get_rows(dtype), mat_mul_f32(dtype), mat_vec_f32(dtype)]);
        all.push(mat_vec_f32_experts(dtype));
        if graph::ints::form(dtype).is_some() {
            all.extend([mat_vec_int8_experts(dtype), mat_vec_int16_experts(dtype)]);
            for matrix in matrix::known() {
                for products in [1, 3] {
                    all.push(mat_mul_coop(dtype, products, matrix));
                    all.push(mat_mul_coop_int16(dtype, products, matrix));
                }
            }
            for products in 1..=3 {
                all.extend([mat_mul_int8(dtype, products), mat_vec_int8(dtype, products)]);
                all.extend(MANY_LANES.map(|lanes| mat_vec_split(dtype, products, lanes)));
                let [most, fewer] = MANY_LANES;
                all.push(mat_mul_int16(dtype, products));
                all.extend([FEW_LANES, most, fewer].map(|n| mat_vec_int16(dtype, products, n)));
            }
        }
    }
    for kv in [KvType::F16, KvType::F32] {
        all.extend([store_kv(kv), rope_store(kv)]);
        all.extend(attentions(kv));
    }
    all
}

/// Those of attention over a cache of this type.
fn attentions(kv: KvType) -> Vec<Shader> {
    let mut all = Vec::new();
    let tile = |extras, dim| attention_tile(kv, extras, HeadDims::square(dim));
    for softcap in [false, true] {
        let extras = Extras { softcap, ..Extras::default() };
        all.push(attention(kv, extras, 128));
        all.extend([128, 256].map(|dim| attention_part(kv, extras, HeadDims::square(dim))));
        all.extend([64, 128, 256].into_iter().filter_map(|dim| tile(extras, dim)));
    }
    let latent = Extras { v_in_k: true, ..Extras::default() };
    all.extend([attention(kv, latent, 512), attention_part(kv, latent, HeadDims::square(512))]);
    let sinks = Extras { sinks: true, ..Extras::default() };
    all.push(attention(kv, sinks, 64));
    all.extend(tile(sinks, 64));
    all
}
