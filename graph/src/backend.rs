//! The seam between the graph and whatever runs it.

use crate::{Blocks, Error, ErrorKind, Graph, Node, Result, Step, Stop, Value};
use std::any::Any;
use std::sync::Arc;

/// How matrix products with quantised weights are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Activations rounded to 8 bits exactly as ggml's CPU backend does, integer products inside a block.
    Int8,
    /// Activations rounded to 15 bits and a sign in blocks of 32, integer products among weights that share a scale: the
    /// answers of `f32` at nearly the speed of `int8`.
    Int16,
    /// Weights dequantised to f32, activations in f32.
    F32,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int16, Self::F32];

    /// As it is printed and, after `--arithmetic`, given.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::F32 => "f32",
        }
    }
}

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE half, rounded to nearest even when stored; |x| above 65504 becomes infinite and is reported, not hidden.
    F16,
    /// Single precision.
    F32,
}

/// What a backend needs to know besides the graph and the file.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Arithmetic of matrix products.
    pub arithmetic: Arithmetic,
    /// Element type of the cache.
    pub kv: KvType,
}

impl KvType {
    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// As it is printed and, after `--cache-type`, given.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { arithmetic: Arithmetic::Int8, kv: KvType::F16 }
    }
}

/// A KV cache: memory that only the backend that made it can read.
pub struct Kv(pub Box<dyn Any + Send>);

/// Something that can run a graph. All backends give the bits of [`crate::reference::Reference`].
pub trait Backend {
    /// Name for people and logs, e.g. `cpu (avx512-vnni, 2 threads)`.
    fn name(&self) -> String;

    /// Whether this node can run here with these options; the error is the reason.
    fn supports(
        &self,
        graph: &Graph,
        node: &Node,
        options: LoadOptions,
    ) -> std::result::Result<(), String>;

    /// Makes the weights resident. `files` are the model and its adapters, as [`crate::Weight::file`] counts them;
    /// `progress` hears the bytes of them read so far.
    fn load(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>>;
}

/// A graph with resident weights.
pub trait Loaded: Send {
    /// The graph that was loaded.
    fn graph(&self) -> &Arc<Graph>;

    /// Bytes that a cache of this number of blocks takes.
    fn kv_bytes(&self, blocks: &Blocks) -> usize;

    /// Allocates a cache: for each group its number of blocks of [`crate::KV_BLOCK`] positions.
    fn new_kv(&self, blocks: &Blocks) -> Result<Kv>;

    /// Runs one step: stores its keys and values in `kv`, and returns the graph's result row by row: the logits of
    /// `step.outputs`, `[n_outputs, n_vocab]`, or embeddings.
    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>>;

    /// Runs one step and returns for each of `step.outputs` the likeliest id only: greedy decoding needs no more, and a
    /// device has less to send.
    ///
    /// # Errors
    /// As [`Loaded::run`].
    fn run_greedy(&mut self, step: &Step, kv: &mut Kv) -> Result<Vec<Best>> {
        let n_vocab = self.graph().n_vocab;
        let logits = self.run(step, kv, &mut NoTap)?;
        Ok(logits.chunks(n_vocab.max(1)).map(Best::of).collect())
    }

    /// Steps from now on end with [`ErrorKind::Stopped`] soon after `stop` is requested, also in the middle, with nothing of
    /// the step to be relied on. A backend that cannot give up a step that has begun looks at it before each.
    fn stop_with(&mut self, stop: Stop);

    /// What the device can do at most, measured now; `None` from a backend that does not know.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn limits(&mut self) -> Result<Option<Limits>> {
        Ok(None)
    }

    /// Whether the steps from now on are timed; starts from nothing.
    fn profile(&mut self, _on: bool) {}

    /// Where the time went since [`Loaded::profile`] was switched on; empty while it is off, and from a backend that
    /// does not time its nodes.
    fn timings(&self) -> Vec<Timing> {
        Vec::new()
    }

    /// What the steps that were timed had moved; `None` from a backend that does not count.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}

/// The likeliest id of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The id of the largest logit; of equals the lowest.
    pub id: u32,
    /// Why `id` means nothing, by id: the first logit that is NaN or +∞, or else, where all are −∞, the first. A −∞ beside
    /// others is an id that is never taken.
    pub invalid: Option<(u32, f32)>,
}

impl Best {
    /// Of one row.
    pub fn of(logits: &[f32]) -> Self {
        let mut best = 0;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = id;
            }
        }
        let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        let all_off = logits.get(best) == Some(&f32::NEG_INFINITY);
        let invalid = logits.iter().position(is_bad).or(all_off.then_some(best));
        Self { id: best as u32, invalid: invalid.map(|id| (id as u32, logits[id])) }
    }
}

/// What a device can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes a second that it reads from its memory.
    pub read: f64,
    /// Multiplications a second of two 8-bit integers, each with the addition of its result.
    pub int8: f64,
    /// Fused multiply-adds a second in f32.
    pub f32: f64,
}

/// What steps had moved between a device and its memory: of each dispatch the bytes that it reads and writes, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Kernels that were started.
    pub dispatches: u64,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of the cache.
    pub kv: u64,
    /// Bytes of logits.
    pub logits: u64,
    /// Bytes of all other values.
    pub other: u64,
}

impl Traffic {
    /// With those of other dispatches.
    pub fn add(&mut self, other: Self) {
        self.dispatches += other.dispatches;
        self.weights += other.weights;
        self.kv += other.kv;
        self.logits += other.logits;
        self.other += other.other;
    }
}

/// The time that a backend spent on one node, or on several that it computes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Indices into the graph's nodes, ascending.
    pub nodes: Vec<usize>,
    /// Nanoseconds, summed over the steps.
    pub ns: u64,
}

/// Sees each named value in the order in which it is computed, and may change it: what it leaves is what the
/// following ops read. `karat why` puts the right tensor in this way and goes on.
pub trait Tap {
    /// Whether this value is wanted, asked of every node before a step begins; a backend need not bring the others to
    /// the host, or compute them apart from their readers.
    fn wants(&mut self, node: &Node, value: &Value) -> bool;

    /// A wanted value: `data` is `[rows, value.cols]`.
    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]);

    /// Whether each op is to run alone, in the kernel of its own: what a backend computes together otherwise, for speed,
    /// is then computed apart.
    fn isolates(&self) -> bool {
        false
    }

    /// Whether it only looks, and leaves every value as it is: a device may then copy the values as the step runs, and
    /// bring them all at its end, in order.
    fn watches(&self) -> bool {
        false
    }
}

/// The tap that wants nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        false
    }

    fn value(&mut self, _: &Node, _: &Value, _: &mut [f32]) {}
}

/// A graph's weight in its file.
#[derive(Clone, Copy)]
pub struct Found<'f> {
    /// The file.
    pub file: &'f gguf::File,
    /// The tensor.
    pub info: &'f gguf::TensorInfo,
}

/// The tensor of a graph's weight, checked against what the graph expects of it.
///
/// # Errors
/// [`ErrorKind::Read`] where it is not there, [`ErrorKind::Shape`] where it is another.
pub fn find_weight<'f>(files: &[&'f gguf::File], weight: &crate::Weight) -> Result<Found<'f>> {
    let read = |what: String| Error::new(ErrorKind::Read, what);
    let Some(&file) = files.get(weight.file.0) else {
        let (given, at) = (files.len(), weight.file.0);
        return Err(read(format!("{}: stands in file {at}, {given} are given", weight.name)));
    };
    let info = file
        .tensor(&weight.name)
        .ok_or_else(|| read(format!("{}: not in the file", weight.name)))?;
    let elements: u64 = info.dims.iter().product();
    if info.dtype != weight.dtype || elements != (weight.n_in * weight.rows()) as u64 {
        let message = format!(
            "{}: file has {} {:?}, the graph expects {} {:?}",
            weight.name,
            info.dtype,
            info.dims,
            weight.dtype,
            weight.shape()
        );
        return Err(Error::new(ErrorKind::Shape, message));
    }
    Ok(Found { file, info })
}

/// The bytes of a graph's weight, checked as by [`find_weight`].
///
/// # Errors
/// As [`find_weight`], and [`ErrorKind::Read`] where the file cannot be read.
pub fn read_weight<'f>(
    files: &[&'f gguf::File],
    weight: &crate::Weight,
) -> Result<std::borrow::Cow<'f, [u8]>> {
    let Found { file, info } = find_weight(files, weight)?;
    file.data(info).map_err(|e| Error::new(ErrorKind::Read, e.to_string()))
}
