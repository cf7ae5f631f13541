//! Writes random models of any shape and format that behave like trained ones as far as numbers go, for benchmarks and
//! tests: karat and llama.cpp load and run them, and the same request gives the same bytes on every machine.
//!
//! One piece of one tensor is in memory at a time, so a file of any size needs some 50 MB.

mod blocks;
mod fill;
mod format;
mod vocab;

pub use crate::shape::{Numbers, Preset, Shape};
pub use format::Format;

use crate::output::{self, Existing, Output};
use crate::quantize::mix::{self, Facts, Plan};
use crate::shape::Usual;
use crate::{Error, ErrorKind, Result, TensorSpec, arch, decoder};
use blocks::{Blocks, CHUNK};
use fill::{Fill, Filler, VectorFill};
use gguf::{Array, DType, File, TensorInfo, Value, Writer};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;

/// Every preset with the name of its architecture.
pub fn presets() -> impl Iterator<Item = (&'static str, Preset)> {
    arch::ARCHS.iter().flat_map(|arch| arch.presets.iter().map(|&preset| (arch.name, preset)))
}

/// The architecture that the others differ from: where any will do, the plainest.
pub fn base() -> &'static str {
    arch::BASE
}

/// A small shape of the architecture `name`, to be changed where something else is wanted.
///
/// # Errors
/// `UnknownArchitecture`.
pub fn small(name: &str) -> Result<Shape> {
    Ok(Shape {
        n_layer: 4,
        n_embd: 256,
        n_ff: 512,
        n_head: 4,
        n_head_kv: 2,
        head_dim_k: 64,
        head_dim_v: 64,
        n_vocab: 1000,
        n_ctx: 2048,
        rope_base: 10_000.0,
        eps: 1e-5,
        tied: arch::find(name)?.usual.tied,
        numbers: Numbers::Ordinary,
    })
}

/// How many experts a model has, and how wide they are; `None` leaves what is usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertNumbers {
    /// All of a layer.
    pub n_expert: Option<usize>,
    /// Those of a token.
    pub n_used: Option<usize>,
    /// Width between the projections of one.
    pub n_ff: Option<usize>,
}

impl ExpertNumbers {
    /// The keys that say them.
    fn keys(self) -> [(&'static str, Option<usize>); 3] {
        [
            ("expert_count", self.n_expert),
            ("expert_used_count", self.n_used),
            ("expert_feed_forward_length", self.n_ff),
        ]
    }
}

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The architecture's name.
    pub arch: &'a str,
    /// The dimensions.
    pub shape: Shape,
    /// Experts, where they are to be others than those that synthetic models of the architecture have.
    pub experts: ExpertNumbers,
    /// The format.
    pub format: Format,
    /// Another seed, other weights.
    pub seed: u64,
    /// What becomes of a file that has the output's name.
    pub existing: Existing,
    /// Threads that make weights; the bytes do not depend on them.
    pub threads: NonZero<usize>,
}

/// How far a [`synth`] is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Weights written so far.
    pub done: u64,
    /// Weights of all tensors.
    pub total: u64,
}

/// What a [`synth`] has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Weights.
    pub weights: u64,
    /// Tensors whose rows fit no block of the wanted format, and got a related one.
    pub fallbacks: usize,
}

/// Writes the model to `output`; `progress` may stop it. The file appears under its name when it is whole, and a run
/// that fails or is stopped leaves nothing behind.
///
/// # Errors
/// One line by [`Error::kind`]: `UnknownArchitecture`; `BadRequest` for a shape that is no model, and for a file of the
/// name that may not be replaced; `Stopped` by `progress`; `Write`.
pub fn synth(
    request: &Request<'_>,
    output: &Path,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report> {
    let sink = Output::create(output, request.existing)?;
    let model = Model::new(request)?;
    let plan = model.plan(request.format)?;
    let mut writer = model.header(request)?;
    for planned in &plan.tensors {
        writer.tensor(&planned.info.name, planned.dtype, &planned.info.dims)?;
    }
    let fail = |error: &gguf::Error| output::error(output, error);
    sink.needs(writer.data_bytes())?;
    let mut data = writer.start(sink).map_err(|error| fail(&error))?;
    let total = plan.tensors.iter().map(|planned| planned.info.n_elements()).sum();
    let mut piece = Piece { request: *request, out: Vec::new() };
    let mut done = 0;
    for planned in &plan.tensors {
        let (name, n) = (planned.info.name.as_str(), planned.info.n_elements());
        let maker = Maker::new(model.fill(name)?, planned.dtype);
        for first in (0..n).step_by(PIECE) {
            let n = (n - first).min(PIECE as u64) as usize;
            piece.make(&maker, name, first, n);
            data.write(&piece.out).map_err(|error| fail(&error))?;
            done += n as u64;
            if progress(Progress { done, total }).is_break() {
                return Err(Error::new(ErrorKind::Stopped, "stopped"));
            }
        }
    }
    data.finish().map_err(|error| fail(&error))?.keep()?;
    Ok(Report { bytes: writer.data_bytes(), weights: total, fallbacks: plan.fallbacks })
}

/// A model to be: its keys and its tensors.
struct Model {
    keys: Vec<(String, Value)>,
    facts: Facts,
    /// In F32 until a format is chosen.
    infos: Vec<TensorInfo>,
    /// How each is filled.
    fills: Vec<Fill>,
}

impl Model {
    fn new(request: &Request<'_>) -> Result<Self> {
        let (shape, arch) = (&request.shape, arch::find(request.arch)?);
        let mut keys = hyper_parameters(arch.name, shape, arch.usual)?;
        keys.extend(
            arch.usual.keys.iter().map(|(key, n)| (format!("{}.{key}", arch.name), n.clone())),
        );
        for (key, n) in request.experts.keys() {
            let Some(n) = n else { continue };
            keys.push(count(format!("{}.{key}", arch.name), n)?);
        }
        if arch.usual.attention_every > 1 {
            let key = format!("{}.attention.head_count_kv", arch.name);
            keys.retain(|(there, _)| *there != key);
            keys.push((key, heads_kv(shape, arch.usual.attention_every)));
        }
        if arch.usual.yarn {
            keys.push((format!("{}.rope.scaling.type", arch.name), "yarn".into()));
        }
        if arch.usual.text_sections {
            keys.push((format!("{}.rope.dimension_sections", arch.name), sections(shape)));
        }
        keys.extend(vocab::keys(shape.n_vocab)?);
        // The spec is read back from the keys, so what cannot be loaded is refused here, by the same rules.
        let file = read_back(&keys)?;
        let spec = crate::spec(&file)
            .map_err(|error| Error::new(ErrorKind::BadRequest, error.to_string()))?;
        // A key that was asked for and is of no use.
        if let Some(unused) = spec.warnings.first() {
            return Err(Error::new(ErrorKind::BadRequest, unused.clone()));
        }
        let usual = Usual {
            tied: shape.tied,
            // An adversarial model has every bias that its architecture allows.
            biases: match shape.numbers {
                Numbers::Ordinary => arch.usual.biases,
                Numbers::Adversarial => spec.biases,
            },
            ..arch.usual
        };
        let tensors = decoder::tensors(&spec, usual)
            .map_err(|error| Error::new(ErrorKind::BadRequest, error.to_string()))?;
        let filler = Filler::new(&spec, shape.tied, shape.numbers);
        let facts = Facts::of(&file)?;
        let infos = tensors.iter().map(info).collect::<Result<_>>()?;
        let fills = tensors.iter().map(|tensor| filler.fill(tensor)).collect();
        Ok(Self { keys, facts, infos, fills })
    }

    fn plan(&self, format: Format) -> Result<Plan<'_>> {
        match format {
            Format::Mix(file_type) => mix::plan(&self.facts, &self.infos, file_type.into(), false),
            Format::Plain(dtype) => Ok(mix::plan_pure(dtype, &self.infos)),
        }
    }

    fn header(&self, request: &Request<'_>) -> Result<Writer> {
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            writer.set(key, value.clone())?;
        }
        writer.set("general.name", format!("karat synth, seed {}", request.seed))?;
        writer.set("general.quantization_version", 2u32)?;
        writer.set("general.file_type", request.format.id())?;
        Ok(writer)
    }

    fn fill(&self, name: &str) -> Result<Fill> {
        let found = self.infos.iter().zip(&self.fills);
        let mut found = found.filter(|(info, _)| info.name == name).map(|(_, &fill)| fill);
        found
            .next()
            .ok_or_else(|| Error::new(ErrorKind::Usage, format!("tensor {name}: not listed")))
    }
}

/// A tensor of the file to be.
fn info(tensor: &TensorSpec) -> Result<TensorInfo> {
    let dims: Vec<u64> = tensor.shape.iter().map(|dim| dim.n as u64).collect();
    let weights = dims.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    let Some(weights) = weights.filter(|&n| n <= 1 << 60) else {
        let dims = dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        let what = format!("tensor {}: {dims} weights, allowed up to 2^60", tensor.name);
        return Err(Error::new(ErrorKind::BadRequest, what));
    };
    let (name, dtype) = (tensor.name.clone(), DType::F32);
    Ok(TensorInfo { name, dtype, dims, offset: 0, n_bytes: 4 * weights, shard: 0 })
}

fn hyper_parameters(arch: &str, shape: &Shape, usual: Usual) -> Result<Vec<(String, Value)>> {
    let n_rot = if usual.half_rotary { shape.head_dim_k / 4 * 2 } else { shape.head_dim_k };
    let mut keys: Vec<(String, Value)> = vec![("general.architecture".into(), arch.into())];
    for (key, n) in [
        ("vocab_size", shape.n_vocab),
        ("context_length", shape.n_ctx),
        ("embedding_length", shape.n_embd),
        ("block_count", shape.n_layer),
        ("feed_forward_length", shape.n_ff),
        ("attention.head_count", shape.n_head),
        ("attention.head_count_kv", shape.n_head_kv),
        ("attention.key_length", shape.head_dim_k),
        ("attention.value_length", shape.head_dim_v),
        ("rope.dimension_count", n_rot),
    ] {
        keys.push(count(format!("{arch}.{key}"), n)?);
    }
    keys.push((format!("{arch}.{}", usual.eps_key), shape.eps.into()));
    keys.push((format!("{arch}.rope.freq_base"), shape.rope_base.into()));
    Ok(keys)
}

/// A key that says a number.
fn count(key: String, n: usize) -> Result<(String, Value)> {
    match u32::try_from(n) {
        Ok(n) => Ok((key, n.into())),
        Err(_) => {
            let what = format!("{key}: {n}, allowed 1..={}", u32::MAX);
            Err(Error::new(ErrorKind::BadRequest, what))
        }
    }
}

/// The key and value heads of each layer, where only every layer of this number has some.
fn heads_kv(shape: &Shape, every: usize) -> Value {
    let heads = |layer: usize| if layer % every == every - 1 { shape.n_head_kv as u32 } else { 0 };
    Value::Array(Array::U32((0..shape.n_layer).map(heads).collect()))
}

/// Three sections that share the pairs of a head in turns, and a fourth of none.
fn sections(shape: &Shape) -> Value {
    let n_pairs = shape.head_dim_k as u32 / 2;
    Value::Array(Array::U32(vec![n_pairs.div_ceil(3), (n_pairs + 1) / 3, n_pairs / 3, 0]))
}

/// A file with these keys.
fn read_back(keys: &[(String, Value)]) -> Result<File> {
    let mut writer = Writer::new();
    for (key, value) in keys {
        writer.set(key, value.clone())?;
    }
    Ok(File::from_bytes(writer.start(Vec::new())?.finish()?)?)
}

/// Weights made at once: 16 MiB of f32.
const PIECE: usize = 64 * CHUNK;

/// What makes the weights of one tensor.
struct Maker {
    dtype: DType,
    weights: Weights,
}

enum Weights {
    Blocks(Box<Blocks>),
    Vector(VectorFill),
}

impl Maker {
    fn new(fill: Fill, dtype: DType) -> Self {
        let weights = match fill {
            Fill::Matrix { std, extremes } => {
                Weights::Blocks(Box::new(Blocks::new(dtype, std, extremes)))
            }
            Fill::Vector(fill) => Weights::Vector(fill),
        };
        Self { dtype, weights }
    }
}

/// A part of a tensor, and what all parts have in common.
struct Piece<'a> {
    request: Request<'a>,
    out: Vec<u8>,
}

impl Piece<'_> {
    /// Makes the `n` weights of a tensor from the one numbered `first` on; each thread has its share of the chunks.
    fn make(&mut self, maker: &Maker, name: &str, first: u64, n: usize) {
        let dtype = maker.dtype;
        self.out.resize(dtype.row_bytes(n), 0);
        let blocks = match &maker.weights {
            Weights::Blocks(blocks) => blocks,
            Weights::Vector(fill) => return self.vector(name, first, fill),
        };
        let seed = self.request.seed;
        let chunks = n.div_ceil(CHUNK);
        let share = chunks.div_ceil(self.request.threads.get());
        let chunk_bytes = dtype.row_bytes(CHUNK);
        std::thread::scope(|scope| {
            for (i, out) in self.out.chunks_mut(share * chunk_bytes).enumerate() {
                let start = first / CHUNK as u64 + (i * share) as u64;
                scope.spawn(move || {
                    for (chunk, out) in (start..).zip(out.chunks_mut(chunk_bytes)) {
                        blocks.fill(&mut blocks::generator(seed, name, chunk), out);
                    }
                });
            }
        });
    }

    /// A tensor of f32 with one number for each channel. Those numbered below are outliers, where there shall be any.
    fn vector(&mut self, name: &str, first: u64, fill: &VectorFill) {
        let (mean, std) = (fill.mean as f32, fill.std as f32);
        let mut rng = blocks::generator(self.request.seed, name, first);
        let n = self.out.len() / 4;
        for (i, out) in self.out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let ordinary = mean + std * blocks::normal(&mut rng);
            *out = outlier(i, n).filter(|_| fill.outliers).unwrap_or(ordinary).to_le_bytes();
        }
    }
}

/// Channels of 1e4, never two in one block of 32 where the model is not tiny, and one that is switched off.
fn outlier(channel: usize, n: usize) -> Option<f32> {
    match channel {
        0 => Some(0.0),
        _ if channel == n / 2 => Some(-1e4),
        _ if channel == n / 7 || channel == n - 1 => Some(1e4),
        _ => None,
    }
}
