//! Writes a model again in another format, with the bytes that llama-quantize gives (without importance matrix).
//! Which tensor gets which format is in `mix.rs`, how a block is quantised in the gguf crate.

mod file_type;
pub(crate) mod mix;

pub use file_type::FileType;

use crate::output::{self, Existing, Output};
use crate::{Error, ErrorKind, Result};
use gguf::{DType, File, TensorInfo, Writer};
use mix::{Plan, Planned};
use std::fs;
use std::num::NonZero;
use std::path::Path;

/// How far a [`quantize`] is; told after each piece.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Its format in the source.
    pub from: DType,
    /// Its format in the output.
    pub to: DType,
    /// Weights written so far, of all tensors.
    pub done: u64,
    /// Weights of all tensors.
    pub total: u64,
}

/// What a [`quantize`] has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the tensors in the source.
    pub bytes_before: u64,
    /// Bytes of the tensors in the output.
    pub bytes_after: u64,
    /// Weights.
    pub weights: u64,
    /// Tensors whose rows fit no block of the format that the mix wants, and got a related one.
    pub fallbacks: usize,
}

/// How to write a model again.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The format.
    pub file_type: FileType,
    /// What becomes of a file that has the output's name.
    pub existing: Existing,
    /// Threads that share the quantising; the bytes do not depend on them.
    pub threads: NonZero<usize>,
}

/// Writes the model of `source` to `output`; a quantised source goes through f32.
///
/// One piece of one tensor is in memory at a time. The file appears under its name when it is whole; a failed run
/// leaves nothing behind.
///
/// # Errors
/// One line by [`Error::kind`]: `BadRequest` where `output` is a file of the source, or one that shall stay; `BadTensor`
/// for weights that are NaN or infinite, `Unsupported` for an architecture with rules that karat does not have, `Read`,
/// `Write`.
pub fn quantize(
    source: &File,
    output: &Path,
    request: Request,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Report> {
    let Request { file_type, existing, threads } = request;
    refuse_source(source, output)?;
    let sink = Output::create(output, existing)?;
    let plan = mix::plan(source, file_type)?;
    let writer = header(source, file_type, &plan)?;
    sink.needs(writer.data_bytes())?;
    let mut data = writer.start(sink).map_err(|error| output::error(output, &error))?;

    let mut report = Report {
        bytes_before: 0,
        bytes_after: writer.data_bytes(),
        weights: 0,
        fallbacks: plan.fallbacks,
    };
    let total = plan.tensors.iter().map(|planned| planned.info.n_elements()).sum();
    let mut piece = Piece::new(threads);
    for planned in &plan.tensors {
        let (mut done, n) = (0, planned.info.n_elements());
        while done < n {
            let weights = piece.convert(source, planned, done)?;
            data.write(&piece.out).map_err(|error| output::error(output, &error))?;
            done += weights;
            report.weights += weights;
            progress(Progress {
                tensor: &planned.info.name,
                from: planned.info.dtype,
                to: planned.dtype,
                done: report.weights,
                total,
            });
        }
        report.bytes_before += planned.info.n_bytes;
    }
    let sink = data.finish().map_err(|error| output::error(output, &error))?;
    sink.keep()?;
    Ok(report)
}

fn refuse_source(source: &File, output: &Path) -> Result<()> {
    // A path that does not resolve is no file yet, so it cannot be the source.
    let Ok(resolved) = fs::canonicalize(output) else { return Ok(()) };
    if source.paths().any(|path| fs::canonicalize(path).is_ok_and(|path| path == resolved)) {
        let what = format!("{}: is the source, write to another file", output.display());
        return Err(Error::new(ErrorKind::BadRequest, what));
    }
    Ok(())
}

/// The source's metadata, and its tensors in the planned formats. A split source becomes one file.
fn header(source: &File, file_type: FileType, plan: &Plan<'_>) -> Result<Writer> {
    const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];
    let mut writer = Writer::new();
    for (key, value) in source.keys().filter(|(key, _)| !SPLIT_KEYS.contains(key)) {
        writer.set(key, value.clone())?;
    }
    writer.set("general.quantization_version", 2u32)?;
    writer.set("general.file_type", file_type.id())?;
    for planned in &plan.tensors {
        writer.tensor(&planned.info.name, planned.dtype, &planned.info.dims)?;
    }
    Ok(writer)
}

/// Weights converted at once: a multiple of every block, and 16 MiB as f32.
const PIECE: u64 = 4 << 20;

/// Buffers for a part of a tensor.
struct Piece {
    threads: NonZero<usize>,
    source: Vec<u8>,
    weights: Vec<f32>,
    out: Vec<u8>,
}

impl Piece {
    fn new(threads: NonZero<usize>) -> Self {
        Self { threads, source: Vec::new(), weights: Vec::new(), out: Vec::new() }
    }

    /// Reads the next weights of a tensor, from the one numbered `first`, and leaves them converted in `out`; returns
    /// how many.
    fn convert(&mut self, source: &File, planned: &Planned<'_>, first: u64) -> Result<u64> {
        let (from, to) = (planned.info.dtype, planned.dtype);
        // A tensor is whole blocks of either format, so it may be cut at any multiple of the longest block.
        let n = PIECE.min(planned.info.n_elements() - first) as usize;
        self.source.resize(from.row_bytes(n), 0);
        let offset = first / from.block_len() as u64 * from.block_bytes() as u64;
        source.read_into(planned.info, offset, &mut self.source)?;
        if let Some(block) = gguf::check_named(&planned.info.name, from, &self.source) {
            let found = "NaN or infinity";
            return Err(bad_weights(planned.info, first, block * from.block_len(), found));
        }
        if from == to {
            self.out.clone_from(&self.source);
            return Ok(n as u64);
        }
        self.weights.resize(n, 0.0);
        self.out.resize(to.row_bytes(n), 0);
        self.requantize(from, to);
        if let Some(block) = gguf::check_named(&planned.info.name, to, &self.out) {
            let found = format!("weights too large for {to}");
            return Err(bad_weights(planned.info, first, block * to.block_len(), &found));
        }
        if let Some(at) = self.first_lost(to) {
            let found = format!("weights too large for {to}");
            return Err(bad_weights(planned.info, first, at, &found));
        }
        Ok(n as u64)
    }

    /// Where the first block begins whose largest weight the format does not hold: with weights beyond every scale some
    /// encoders write a block of zeros, which has nothing wrong about it but its numbers.
    fn first_lost(&self, to: DType) -> Option<usize> {
        // The largest f16, of which scales are made: smaller weights never come near what a format holds.
        let largest = 65_504.0;
        let len = to.block_len();
        let blocks = self.weights.chunks(len).zip(self.out.chunks(to.block_bytes()));
        let mut again = vec![0.0; len];
        let magnitude = |weights: &[f32]| weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let mut lost = |weights: &[f32], block: &[u8]| {
            let wanted = magnitude(weights);
            if wanted <= largest {
                return false;
            }
            to.dequantize(block, &mut again);
            // The coarsest formats keep the largest weight to a quarter.
            (magnitude(&again) - wanted).abs() > wanted / 4.0
        };
        let found = blocks.enumerate().find(|(_, (weights, block))| lost(weights, block));
        found.map(|(i, _)| i * len)
    }

    /// Dequantises and quantises what is in `source`; each thread takes a share of it.
    fn requantize(&mut self, from: DType, to: DType) {
        const BLOCK: usize = 256;
        let share = self.weights.len().div_ceil(BLOCK).div_ceil(self.threads.get()) * BLOCK;
        let sources = self.source.chunks(from.row_bytes(share));
        let outs = self.out.chunks_mut(to.row_bytes(share));
        let shares = self.weights.chunks_mut(share).zip(sources).zip(outs);
        std::thread::scope(|scope| {
            for ((weights, source), out) in shares {
                scope.spawn(move || {
                    from.dequantize(source, weights);
                    to.encode(weights, out);
                });
            }
        });
    }
}

/// The error about weight number `at` of a piece, whose first weight is number `first` of the tensor.
fn bad_weights(info: &TensorInfo, first: u64, at: usize, found: &str) -> Error {
    let row = (first + at as u64) / info.row_len().max(1);
    let what = format!("tensor {}: {found} in row {row}, which cannot be quantised", info.name);
    Error::new(ErrorKind::BadTensor, what)
}
