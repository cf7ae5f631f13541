//! Names the fault behind a wrong value. Each hypothesis ("RoPE pairs the other halves") computes what the op would give
//! with that fault, from the same inputs and weights; if that is the value that was found, the hypothesis is the kind.
//! Where none fits, the places of the wrong elements say at least where to look.

mod dense;
mod stored;

use crate::exact::Cache;
use crate::orders::{ORDERS, rows_in};
use graph::compare::nmse;
use graph::ops::{elementwise, rope};
use graph::{Act, Graph, Node, Op, RopePairs, Step, WeightId, math};
use serde::Serialize;

/// A kind of fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing but zeros: the op did not run, or what it wrote went elsewhere.
    Zeros,
    /// Every element is the right one times this factor.
    ScaleFactor(f64),
    /// Rows and columns of the result are swapped.
    Transposed,
    /// The weight is read with rows and columns swapped.
    WeightTransposed,
    /// Each row is the right one of the token this many positions earlier.
    Shifted(i32),
    /// RoPE pairs neighbours where halves are meant, or the other way round.
    PairOrder,
    /// RoPE rotates by the angle of another position, or a learned position is another: the right one plus this.
    Position(i32),
    /// RoPE rotates nothing: it is left out, or always takes position 0.
    NoRotation,
    /// RoPE computes its frequencies from this base, not the model's.
    RopeBase(f64),
    /// Query heads read the wrong key head.
    HeadMapping,
    /// Heads in another order.
    HeadOrder,
    /// Tokens see what comes after them.
    NoCausalMask,
    /// The window of sliding attention is left out, or off by one.
    Window,
    /// The scores are not multiplied by `1 / sqrt(head_dim)`.
    NoScoreScale,
    /// The newest key and value are missing from the cache, or an older pair is in their place.
    StaleCache,
    /// The norm's weight is left out.
    MissingWeight,
    /// The mean is subtracted first, as LayerNorm does; RMSNorm does not.
    LayerNorm,
    /// The mean is not subtracted, as in an RMS norm; LayerNorm subtracts it.
    RmsNorm,
    /// A LayerNorm's bias is left out.
    MissingBias,
    /// The norm adds this epsilon, not the model's.
    Epsilon(f64),
    /// The sum is one of its two summands: the other is left out.
    MissingAdd,
    /// The product is one of its two factors: the other is left out.
    MissingFactor,
    /// A convolution multiplies its rows by the weights in reverse order.
    RowOrder,
    /// A convolution does not see the rows of earlier steps: the state was not kept.
    NoState,
    /// Gate and up change places.
    GateUpSwapped,
    /// Another activation function, or none.
    Activation,
    /// The 4-bit codes of a block are read as low, high, low, high; right is all the low ones first.
    NibbleOrder,
    /// The elements of a block are read in another order.
    ElementOrder,
    /// The sum ends early: the weight's columns from this one on are left out.
    SumTail(usize),
    /// Only the result's columns from this one on are wrong.
    ColumnTail(usize),
    /// Only the result's rows from this one on are wrong.
    RowTail(usize),
    /// Only some columns of each run of this many are wrong: a kernel's tile.
    Tiles(usize),
    /// The parts of a quantised weight's blocks have wrong scales.
    SubBlockScale,
    /// A value beyond f16's range became infinite.
    F16Overflow,
    /// The right value, rounded to f16.
    F16Rounding,
    /// Another value of the same step: two of them share a buffer that both need.
    OtherValue(String),
    /// The value of the step before.
    StaleValue,
    /// RoPE's frequencies are all multiplied by this.
    RopeScale(f64),
    /// The rows are rows of the embedding, but of other token ids.
    OtherTokens,
    /// NaN or infinity, computed from finite inputs.
    NotFinite,
    /// Single elements only.
    FewElements,
    /// As close to the f64 result as a right one is, but without the reference's bits: a sum in another order, or a product
    /// that was fused or not.
    Rounding,
    /// Two runs of the same step gave different values.
    Race,
    /// None of these.
    Unknown,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Zeros => write!(f, "only zeros: not computed, or written elsewhere"),
            Self::ScaleFactor(by) => write!(f, "scale factor {by:.6}"),
            Self::Transposed => write!(f, "rows and columns of the result swapped"),
            Self::WeightTransposed => write!(f, "weight read transposed"),
            Self::Shifted(by) => write!(f, "rows shifted by {by} positions"),
            Self::PairOrder => write!(f, "RoPE pair order (NORM and NEOX swapped)"),
            Self::Position(by) => write!(f, "position off by {by}"),
            Self::NoRotation => write!(f, "no rotation: position 0, or RoPE left out"),
            Self::RopeBase(base) => write!(f, "RoPE base {base}"),
            Self::HeadMapping => write!(f, "query heads mapped to wrong key heads"),
            Self::HeadOrder => write!(f, "heads in another order"),
            Self::NoCausalMask => write!(f, "no causal mask"),
            Self::Window => write!(f, "attention window wrong"),
            Self::NoScoreScale => write!(f, "scores not scaled"),
            Self::StaleCache => write!(f, "stale cache slot"),
            Self::MissingWeight => write!(f, "norm weight left out"),
            Self::LayerNorm => write!(f, "LayerNorm in place of RMS norm"),
            Self::RmsNorm => write!(f, "RMS norm in place of LayerNorm"),
            Self::MissingBias => write!(f, "norm bias left out"),
            Self::Epsilon(eps) => write!(f, "epsilon {eps:e}"),
            Self::MissingAdd => write!(f, "a summand left out"),
            Self::MissingFactor => write!(f, "a factor left out"),
            Self::RowOrder => write!(f, "rows of the convolution in reverse order"),
            Self::NoState => write!(f, "rows of earlier steps not seen: state not kept"),
            Self::GateUpSwapped => write!(f, "gate and up swapped"),
            Self::Activation => write!(f, "wrong activation"),
            Self::NibbleOrder => write!(f, "nibble order"),
            Self::ElementOrder => write!(f, "order of the elements in a block"),
            Self::SumTail(at) => write!(f, "columns from {at} on left out of the sum"),
            Self::ColumnTail(at) => write!(f, "columns from {at} on only"),
            Self::RowTail(at) => write!(f, "rows from {at} on only"),
            Self::Tiles(n) => write!(f, "some of every {n} columns only: a tile"),
            Self::SubBlockScale => write!(f, "factors inside the weight's blocks"),
            Self::F16Overflow => write!(f, "f16 overflow"),
            Self::F16Rounding => write!(f, "rounded to f16"),
            Self::OtherValue(key) => write!(f, "holds {key}: a buffer shared too early"),
            Self::StaleValue => write!(f, "the value of the step before"),
            Self::RopeScale(by) => write!(f, "RoPE frequencies times {by}"),
            Self::OtherTokens => write!(f, "embedding of other token ids"),
            Self::NotFinite => write!(f, "NaN or infinity out of finite inputs"),
            Self::FewElements => write!(f, "single elements"),
            Self::Rounding => write!(f, "rounding: right in f64, but not the contract's bits"),
            Self::Race => write!(f, "race: two runs differ"),
            Self::Unknown => write!(f, "unknown"),
        }
    }
}

/// How well a kind explains the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sureness {
    /// The hypothesis gives the value that was found.
    Certain,
    /// It gives nearly that value.
    Likely,
    /// Only the places or the size of the errors speak for it.
    Guess,
}

impl std::fmt::Display for Sureness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Guess => "a guess",
        })
    }
}

/// Everything that hypotheses about a wrong op need.
#[derive(Clone)]
pub(crate) struct Scene<'a> {
    pub(crate) graph: &'a Graph,
    /// The model's files, for the weights.
    pub(crate) files: &'a [&'a gguf::File],
    /// The wrong op.
    pub(crate) node: &'a Node,
    pub(crate) step: &'a Step,
    /// What the op read.
    pub(crate) inputs: Vec<&'a [f32]>,
    /// What the reference makes of these inputs.
    pub(crate) right: &'a [f32],
    /// What the judged side gave.
    pub(crate) found: &'a [f32],
    /// Columns of a row of `right` and `found`.
    pub(crate) cols: usize,
    /// What the judged side has stored.
    pub(crate) cache: &'a Cache,
    /// All values of the step by [`graph::ValueId`]; empty where a value is not computed yet.
    pub(crate) others: &'a [Vec<f32>],
    /// What the judged side gave for this value in the step before.
    pub(crate) before: Option<&'a [f32]>,
}

/// The largest f16.
const F16_MAX: f32 = 65504.0;
/// Hypotheses about larger weights are left out: they would take too long.
const MOST_WEIGHTS: usize = 64 << 20;

/// The kind that explains the wrong value best.
pub(crate) fn explain(scene: &Scene<'_>) -> (Kind, Sureness) {
    let finite = |all: &[f32]| all.iter().all(|v| v.is_finite());
    if !finite(scene.found) {
        let beyond = |all: &[f32]| all.iter().any(|v| v.abs() > F16_MAX);
        if !finite(scene.right) {
            return (Kind::Unknown, Sureness::Guess);
        }
        if beyond(scene.right) || scene.inputs.iter().any(|input| beyond(input)) {
            return (Kind::F16Overflow, Sureness::Likely);
        }
        return (Kind::NotFinite, Sureness::Certain);
    }
    let mut best: Option<(Kind, Sureness)> = None;
    let mut hear = |kind: Kind, sureness: Sureness| -> bool {
        if best.is_none() || sureness == Sureness::Certain {
            best = Some((kind, sureness));
        }
        sureness == Sureness::Certain
    };
    general(scene, &mut hear);
    let general = best.clone();
    if let Some((_, Sureness::Certain)) = general {
        return best.unwrap_or((Kind::Unknown, Sureness::Guess));
    }
    let mut hear = |kind: Kind, sureness: Sureness| -> bool {
        if best.is_none() || sureness == Sureness::Certain {
            best = Some((kind, sureness));
        }
        sureness == Sureness::Certain
    };
    match &scene.node.op {
        Op::RmsNorm { w, eps } => norm(scene, *w, *eps, &mut hear),
        Op::LayerNorm(norm) => dense::normed(scene, norm, &mut hear),
        Op::Rope { .. } => rotated(scene, &mut hear),
        Op::Add | Op::AddBias { .. } => left_out(scene, &Kind::MissingAdd, &mut hear),
        Op::Mul => left_out(scene, &Kind::MissingFactor, &mut hear),
        Op::SsmConv { w, cache } => stored::convolved(scene, *w, *cache, &mut hear),
        Op::Glu { act } => gated(scene, *act, &mut hear),
        Op::MatMul { w } => product(scene, *w, &mut hear),
        Op::Attention(a) => stored::attended(scene, a, &mut hear),
        Op::GetRows { table } => embedded(scene, *table, &mut hear),
        Op::PositionRows { table } => dense::positioned(scene, *table, &mut hear),
        Op::Unary(unary) => dense::applied(scene, *unary, &mut hear),
        Op::Input
        | Op::Scale { .. }
        | Op::Route(_)
        | Op::MatMulId { .. }
        | Op::AddId { .. }
        | Op::Weighted
        | Op::SumSlots { .. }
        | Op::StoreKv { .. }
        | Op::Columns { .. }
        | Op::HeadColumns { .. }
        | Op::JoinHeads { .. }
        | Op::OutputRows
        | Op::Softcap { .. } => {}
    }
    best.unwrap_or_else(|| shape(scene))
}

/// An op of two operands of which only one arrived.
fn left_out(scene: &Scene<'_>, kind: &Kind, hear: &mut Hear<'_>) {
    for input in &scene.inputs {
        scene.test(kind.clone(), input, hear);
    }
}

/// Told of each kind that fits, and how well; `true` ends the search.
type Hear<'h> = dyn FnMut(Kind, Sureness) -> bool + 'h;

/// Some elements of a wrong value.
#[derive(Clone, Copy)]
struct Part<'a> {
    right: &'a [f32],
    found: &'a [f32],
}

impl Scene<'_> {
    /// Compares what a hypothesis would give with what was found; `true` if it explains that for certain.
    fn test(&self, kind: Kind, would: &[f32], hear: &mut Hear<'_>) -> bool {
        self.test_part(kind, Part { right: self.right, found: self.found }, would, hear)
    }

    /// As [`Scene::test`], for some of the elements.
    fn test_part(&self, kind: Kind, part: Part<'_>, would: &[f32], hear: &mut Hear<'_>) -> bool {
        let Part { right, found } = part;
        if would.len() != found.len() || found.is_empty() {
            return false;
        }
        let (error, here) = (nmse(found, right), nmse(found, would));
        // Products of rounded activations differ by up to a hundredth from those that a hypothesis computes in f64, so it
        // need not fit exactly: its error must be below a fiftieth of the error to be explained. NaN explains nothing.
        if here.is_nan() || error.is_nan() || here >= error * 0.02 {
            return false;
        }
        let certain = here < 1e-9 || here < error * 1e-4;
        hear(kind, if certain { Sureness::Certain } else { Sureness::Likely })
    }

    fn rows(&self) -> usize {
        self.found.len() / self.cols
    }
}

/// Faults that any op may have.
fn general(scene: &Scene<'_>, hear: &mut Hear<'_>) {
    let (right, found, cols) = (scene.right, scene.found, scene.cols);
    if found.iter().all(|&v| v == 0.0) {
        hear(Kind::Zeros, Sureness::Certain);
        return;
    }
    if let Some(key) = holds_other(scene) {
        hear(Kind::OtherValue(key), Sureness::Certain);
        return;
    }
    let alike = |would: &[f32]| {
        would.len() == found.len()
            && would.iter().zip(found).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    if scene.before.is_some_and(alike) {
        hear(Kind::StaleValue, Sureness::Certain);
        return;
    }
    let halves: Vec<f32> = right.iter().map(|&v| math::round_f16(v)).collect();
    if alike(&halves) {
        hear(Kind::F16Rounding, Sureness::Certain);
        return;
    }
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let by = dot(found, right) / dot(right, right);
    if by.is_finite() && (by - 1.0).abs() > 1e-6 {
        let scaled: Vec<f32> = right.iter().map(|&v| (f64::from(v) * by) as f32).collect();
        if nmse(found, &scaled) < 1e-9 {
            hear(Kind::ScaleFactor(by), Sureness::Certain);
            return;
        }
    }
    let rows = scene.rows();
    if rows > 1 && cols > 1 {
        let swapped: Vec<f32> =
            (0..right.len()).map(|i| right[i % rows * cols + i / rows]).collect();
        if scene.test(Kind::Transposed, &swapped, hear) {
            return;
        }
        for by in [1i32, -1] {
            let (from, to) = if by > 0 {
                (&right[..(rows - 1) * cols], &found[cols..])
            } else {
                (&right[cols..], &found[..(rows - 1) * cols])
            };
            let was = if by > 0 { &right[cols..] } else { &right[..(rows - 1) * cols] };
            let part = Part { right: was, found: to };
            if scene.test_part(Kind::Shifted(by), part, from, hear) {
                return;
            }
        }
    }
}

/// The key of another value of the step that has exactly these bits. The op's own inputs are left out: other kinds name
/// what it means if one of them comes out unchanged.
fn holds_other(scene: &Scene<'_>) -> Option<String> {
    let same = |other: &&graph::Node| {
        let Some(v) = other.output.filter(|v| !scene.node.inputs.contains(v)) else { return false };
        let values = &scene.others[v.0];
        Some(v) != scene.node.output
            && values.len() == scene.found.len()
            && values.iter().zip(scene.found).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    scene.graph.nodes.iter().find(same).map(|node| scene.graph.key(node))
}

fn vector(scene: &Scene<'_>, w: WeightId) -> Option<Vec<f32>> {
    let weight = scene.graph.weight(w);
    let bytes = graph::backend::read_weight(scene.files, weight).ok()?;
    let mut all = vec![0.0; weight.n_in * weight.n_out];
    weight.dtype.dequantize(&bytes, &mut all);
    Some(all)
}

fn norm(scene: &Scene<'_>, w: WeightId, eps: f32, hear: &mut Hear<'_>) {
    let (Some(w), Some(x)) = (vector(scene, w), scene.inputs.first()) else { return };
    let n = w.len();
    let normed = |centred: bool, eps: f64, weighted: bool| -> Vec<f32> {
        let mut out = Vec::with_capacity(x.len());
        for group in x.chunks(n) {
            let mean = group.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
            let mean = if centred { mean } else { 0.0 };
            let squares: f64 = group.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
            let by = 1.0 / (squares / n as f64 + eps).sqrt();
            for (&v, &w) in group.iter().zip(&w) {
                let w = if weighted { f64::from(w) } else { 1.0 };
                out.push(((f64::from(v) - mean) * by * w) as f32);
            }
        }
        out
    };
    let own = f64::from(eps);
    if scene.test(Kind::MissingWeight, &normed(false, own, false), hear)
        || scene.test(Kind::LayerNorm, &normed(true, own, true), hear)
    {
        return;
    }
    for other in [0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3] {
        if (other - own).abs() > own * 1e-3
            && scene.test(Kind::Epsilon(other), &normed(false, other, true), hear)
        {
            return;
        }
    }
}

fn rotated(scene: &Scene<'_>, hear: &mut Hear<'_>) {
    let Op::Rope { table, head_dim, pairs } = scene.node.op else { return };
    let (table, Some(x)) = (&scene.graph.rope_tables[table], scene.inputs.first()) else { return };
    let rotate = |pairs: RopePairs, freqs: &[f64], place: &dyn Fn(usize) -> u32| -> Vec<f32> {
        let mut out = x.to_vec();
        for (t, row) in out.chunks_mut(scene.cols).enumerate() {
            let angle = |&f: &f64| math::rope_angle(place(t), f, table.mscale_at(place(t)));
            let angles: Vec<(f32, f32)> = freqs.iter().map(angle).collect();
            rope::rope(row, head_dim, pairs, &angles);
        }
        out
    };
    let own = |t: usize| scene.step.positions[t];
    let other = match pairs {
        RopePairs::Adjacent => RopePairs::Halves,
        RopePairs::Halves => RopePairs::Adjacent,
    };
    // All sequences of a recorded run are of one sort.
    let freqs = table.freqs_of(scene.step, 0);
    if scene.test(Kind::NoRotation, x, hear)
        || scene.test(Kind::PairOrder, &rotate(other, freqs, &own), hear)
        || scene.test(Kind::NoRotation, &rotate(pairs, freqs, &|_| 0), hear)
        || scene.test(Kind::Position(1), &rotate(pairs, freqs, &|t| own(t) + 1), hear)
        || scene.test(
            Kind::Position(-1),
            &rotate(pairs, freqs, &|t| own(t).saturating_sub(1)),
            hear,
        )
    {
        return;
    }
    let first = own(0);
    let within = rotate(pairs, freqs, &|t| own(t) - first);
    if scene.test(Kind::Position(-(first as i32)), &within, hear) {
        return;
    }
    for by in [0.125, 0.25, 0.5, 2.0, 4.0, 8.0] {
        let freqs: Vec<f64> = freqs.iter().map(|f| f * by).collect();
        if scene.test(Kind::RopeScale(by), &rotate(pairs, &freqs, &own), hear) {
            return;
        }
    }
    let n = freqs.len();
    for base in [1e4, 1e5, 5e5, 1e6] {
        let freqs: Vec<f64> = (0..n).map(|i| f64::powf(base, -(i as f64) / n as f64)).collect();
        if scene.test(Kind::RopeBase(base), &rotate(pairs, &freqs, &own), hear) {
            return;
        }
    }
}

fn gated(scene: &Scene<'_>, act: Act, hear: &mut Hear<'_>) {
    let [gate, up] = scene.inputs[..] else { return };
    let mut out = vec![0.0; scene.right.len()];
    elementwise::glu(act, up, gate, &mut out);
    if scene.test(Kind::GateUpSwapped, &out, hear) {
        return;
    }
    let other = match act {
        Act::Silu => Act::GeluTanh,
        Act::GeluTanh | Act::SwigluOai => Act::Silu,
    };
    elementwise::glu(other, gate, up, &mut out);
    if scene.test(Kind::Activation, &out, hear) {
        return;
    }
    let plain: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g * u).collect();
    let relu: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g.max(0.0) * u).collect();
    let alone: Vec<f32> = gate.iter().map(|&g| math::silu(g)).collect();
    for would in [&plain, &relu, &alone] {
        if scene.test(Kind::Activation, would, hear) {
            return;
        }
    }
}

/// Hypotheses about a matrix product, tested on the token with the largest error only: they read the whole weight.
fn product(scene: &Scene<'_>, w: WeightId, hear: &mut Hear<'_>) {
    let weight = scene.graph.weight(w);
    let (n_in, n_out) = (weight.n_in, weight.n_out);
    if n_in.saturating_mul(n_out) > MOST_WEIGHTS {
        return;
    }
    let (Some(all), Some(x)) = (vector(scene, w), scene.inputs.first()) else { return };
    let Ok(bytes) = graph::backend::read_weight(scene.files, weight) else { return };
    let error = |t: usize| -> f64 {
        let range = t * n_out..(t + 1) * n_out;
        nmse(&scene.found[range.clone()], &scene.right[range])
    };
    let Some(t) = (0..scene.rows()).max_by(|&a, &b| error(a).total_cmp(&error(b))) else { return };
    let x = &x[t * n_in..][..n_in];
    let part = Part {
        right: &scene.right[t * n_out..][..n_out],
        found: &scene.found[t * n_out..][..n_out],
    };
    let sum = |at: &dyn Fn(usize, usize) -> usize, n: usize| -> Vec<f32> {
        let row =
            |r: usize| -> f64 { (0..n).map(|k| f64::from(all[at(r, k)]) * f64::from(x[k])).sum() };
        (0..n_out).map(|r| row(r) as f32).collect()
    };
    if scene.test_part(Kind::WeightTransposed, part, &sum(&|r, k| k * n_out + r, n_in), hear) {
        return;
    }
    for (kind, order) in ORDERS {
        let rows = bytes.chunks(weight.dtype.row_bytes(n_in));
        let Some(all) = rows_in(weight, rows, order) else { continue };
        let dot = |w: &[f32]| -> f64 {
            w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
        };
        let would: Vec<f32> = all.chunks(n_in).map(|w| dot(w) as f32).collect();
        if scene.test_part(kind, part, &would, hear) {
            return;
        }
    }
    if short_sum(scene, part, x, &all, hear) {
        return;
    }
    let quantised = graph::ints::form(weight.dtype).is_some();
    let size = |all: &[f32]| all.iter().map(|v| v * v).sum::<f32>().sqrt();
    let sizes_agree = (0.2..5.0).contains(&(size(part.found) / size(part.right)));
    let differ = part.right.iter().zip(part.found).filter(|(r, f)| r != f).count();
    let everywhere = differ > n_out * 9 / 10;
    if quantised && everywhere && sizes_agree && !scattered(scene) {
        hear(Kind::SubBlockScale, Sureness::Guess);
    }
}

/// Tries sums that end early, at each multiple of 32 columns.
fn short_sum(
    scene: &Scene<'_>,
    part: Part<'_>,
    x: &[f32],
    all: &[f32],
    hear: &mut Hear<'_>,
) -> bool {
    let n_in = x.len();
    let mut sums = vec![0.0f64; part.right.len()];
    for (end, x) in (0..n_in).step_by(32).zip(x.chunks(32)) {
        if end > 0 {
            let would: Vec<f32> = sums.iter().map(|&v| v as f32).collect();
            if scene.test_part(Kind::SumTail(end), part, &would, hear) {
                return true;
            }
        }
        for (sum, row) in sums.iter_mut().zip(all.chunks(n_in)) {
            let products = row[end..].iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            *sum += products.sum::<f64>();
        }
    }
    false
}

/// Whether fewer than half of the elements are wrong: then their places tell more than a guess about scales.
fn scattered(scene: &Scene<'_>) -> bool {
    let wrong = scene.right.iter().zip(scene.found).filter(|(r, f)| r != f).count();
    wrong * 2 < scene.right.len()
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn embedded(scene: &Scene<'_>, table: WeightId, hear: &mut Hear<'_>) {
    let weight = scene.graph.weight(table);
    let (n_in, n_out) = (weight.n_in, weight.n_out);
    if n_in.saturating_mul(n_out) > MOST_WEIGHTS {
        return;
    }
    let Some(all) = vector(scene, table) else { return };
    let Ok(bytes) = graph::backend::read_weight(scene.files, weight) else { return };
    let tokens = &scene.step.tokens;
    let gather = |at: &dyn Fn(usize, usize) -> usize| -> Vec<f32> {
        let row = |&id: &u32| (0..n_in).map(move |i| (id as usize, i));
        tokens.iter().flat_map(row).map(|(id, i)| all[at(id, i) % all.len()]).collect()
    };
    if scene.test(Kind::WeightTransposed, &gather(&|id, i| i * n_out + id), hear) {
        return;
    }
    for (kind, order) in ORDERS {
        let row_bytes = weight.dtype.row_bytes(n_in);
        let rows = tokens.iter().map(|&id| &bytes[id as usize * row_bytes..][..row_bytes]);
        if rows_in(weight, rows, order).is_some_and(|would| scene.test(kind, &would, hear)) {
            return;
        }
    }
    let is_a_row = |found: &[f32]| all.chunks(n_in).any(|row| row == found);
    if scene.found.chunks(n_in).all(is_a_row) {
        hear(Kind::OtherTokens, Sureness::Certain);
        return;
    }
    if graph::ints::form(weight.dtype).is_some()
        && correlation(scene.right, scene.found) > 0.2
        && !scattered(scene)
    {
        hear(Kind::SubBlockScale, Sureness::Guess);
    }
}

/// What the places of the wrong elements tell, where no hypothesis fits.
fn shape(scene: &Scene<'_>) -> (Kind, Sureness) {
    let (cols, rows) = (scene.cols, scene.rows());
    let wrong = |r: usize, c: usize| {
        scene.right[r * cols + c].to_bits() != scene.found[r * cols + c].to_bits()
    };
    let count = (0..rows).map(|r| (0..cols).filter(|&c| wrong(r, c)).count()).sum::<usize>();
    let first_col = (0..cols).find(|&c| (0..rows).any(|r| wrong(r, c))).unwrap_or(0);
    let first_row = (0..rows).find(|&r| (0..cols).any(|c| wrong(r, c))).unwrap_or(0);
    let full_cols = (first_col..cols).all(|c| (0..rows).any(|r| wrong(r, c)));
    let full_rows = (first_row..rows).all(|r| (0..cols).any(|c| wrong(r, c)));
    if first_col > 0 && full_cols {
        return (Kind::ColumnTail(first_col), Sureness::Likely);
    }
    if first_row > 0 && full_rows {
        return (Kind::RowTail(first_row), Sureness::Likely);
    }
    if count <= 4 {
        return (Kind::FewElements, Sureness::Likely);
    }
    for n in [4, 8, 16, 32, 64] {
        let touched: Vec<bool> =
            (0..n).map(|i| (i..cols).step_by(n).any(|c| (0..rows).any(|r| wrong(r, c)))).collect();
        if cols > 2 * n && touched.iter().any(|t| !t) {
            return (Kind::Tiles(n), Sureness::Likely);
        }
    }
    (Kind::Unknown, Sureness::Guess)
}
