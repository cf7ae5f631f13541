//! Writes a model again in another format, with the bytes that llama-quantize gives (without importance matrix).
//! Which tensor gets which format is in `mix.rs`, how a block is quantised in the gguf crate.

pub(crate) mod mix;

use crate::output::{self, Output};
use crate::{Error, ErrorKind, Result};
use gguf::{DType, File, TensorInfo, Writer};
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::str::FromStr;

/// A format of whole files: mostly one [`DType`], with better ones where they pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs, reason = "the names are those of llama-quantize")]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q4_K_M,
    Q5_0,
    Q5_1,
    Q4_0,
    Q4_1,
}

impl FileType {
    /// Every file type, largest first.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6_K,
        Self::Q5_K_M,
        Self::Q4_K_M,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_0,
        Self::Q4_1,
    ];

    /// The name, as llama-quantize takes it.
    pub fn name(self) -> &'static str {
        self.traits().0
    }

    /// What most tensors become.
    pub fn dtype(self) -> DType {
        self.traits().1
    }

    /// The number that `general.file_type` gets.
    pub fn id(self) -> u32 {
        self.traits().2
    }

    fn traits(self) -> (&'static str, DType, u32) {
        match self {
            Self::F32 => ("F32", DType::F32, 0),
            Self::F16 => ("F16", DType::F16, 1),
            Self::BF16 => ("BF16", DType::BF16, 32),
            Self::Q8_0 => ("Q8_0", DType::Q8_0, 7),
            Self::Q6_K => ("Q6_K", DType::Q6_K, 18),
            Self::Q5_K_M => ("Q5_K_M", DType::Q5_K, 17),
            Self::Q4_K_M => ("Q4_K_M", DType::Q4_K, 15),
            Self::Q5_0 => ("Q5_0", DType::Q5_0, 8),
            Self::Q5_1 => ("Q5_1", DType::Q5_1, 9),
            Self::Q4_0 => ("Q4_0", DType::Q4_0, 2),
            Self::Q4_1 => ("Q4_1", DType::Q4_1, 3),
        }
    }
}

impl FromStr for FileType {
    type Err = Error;

    /// A name in any case; the plain K-quant names stand for their mixes (`Q4_K` for `Q4_K_M`), as in llama-quantize.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|file_type| {
            let names = [file_type.name(), file_type.dtype().name()];
            names.iter().any(|known| known.eq_ignore_ascii_case(name))
        });
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(" ");
            let what = format!("unknown type \"{}\"; known: {known}", name.escape_debug());
            Error::new(ErrorKind::BadRequest, what)
        })
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// How far a [`quantize`] is; told after each piece.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being written.
    pub tensor: &'a str,
    /// Its format in the source and in the output.
    pub formats: (DType, DType),
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

/// Writes the model of `source` to `output` as `file_type`; a quantised source goes through f32.
///
/// One piece of one tensor is in memory at a time. The file appears under its name when it is whole; a failed run
/// leaves nothing behind. `threads` share the quantising.
///
/// # Errors
/// One line by [`Error::kind`]: `BadRequest` where `output` is a file of the source, `BadTensor` for weights that are
/// NaN or infinite, `Unsupported` for an architecture with rules that karat does not have, `Read`, `Write`.
pub fn quantize(
    source: &File,
    output: &Path,
    file_type: FileType,
    threads: NonZero<usize>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Report> {
    refuse_source(source, output)?;
    let plan = mix::plan(source, file_type)?;
    let writer = header(source, file_type, &plan)?;
    let mut data =
        writer.start(Output::create(output)?).map_err(|error| output::error(output, &error))?;

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
            let formats = (planned.info.dtype, planned.dtype);
            progress(Progress { tensor: &planned.info.name, formats, done: report.weights, total });
        }
        report.bytes_before += planned.info.n_bytes;
    }
    let sink = data.finish().map_err(|error| output::error(output, &error))?;
    sink.keep(output::Existing::Replace)?;
    Ok(report)
}

/// What becomes of one tensor.
pub(crate) struct Planned<'a> {
    pub(crate) info: &'a TensorInfo,
    pub(crate) dtype: DType,
}

fn refuse_source(source: &File, output: &Path) -> Result<()> {
    // A path that does not resolve is no file yet, so it cannot be the source.
    let Ok(resolved) = fs::canonicalize(output) else { return Ok(()) };
    if resolved.is_dir() {
        let what = format!("{}: is a folder, wanted the name of a file", output.display());
        return Err(Error::new(ErrorKind::BadRequest, what));
    }
    if source.paths().any(|path| fs::canonicalize(path).is_ok_and(|path| path == resolved)) {
        let what = format!("{}: is the source, write to another file", output.display());
        return Err(Error::new(ErrorKind::BadRequest, what));
    }
    Ok(())
}

/// The source's metadata, and its tensors in the planned formats. A split source becomes one file.
fn header(source: &File, file_type: FileType, plan: &mix::Plan<'_>) -> Result<Writer> {
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
        if let Some(block) = gguf::check_tensor(from, &self.source) {
            let found = "NaN or infinity";
            return Err(bad_weights(planned.info, first, block * from.block_len(), found));
        }
        if from == to {
            self.out.clone_from(&self.source);
            return Ok(n as u64);
        }
        self.weights.resize(n, 0.0);
        self.out.resize(to.row_bytes(n), 0);
        self.split(from, to);
        if let Some(block) = gguf::check_tensor(to, &self.out) {
            let found = format!("weights too large for {to}");
            return Err(bad_weights(planned.info, first, block * to.block_len(), &found));
        }
        Ok(n as u64)
    }

    /// Dequantises and quantises, each thread its share.
    fn split(&mut self, from: DType, to: DType) {
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

/// The weight that is at fault is numbered `at` in a piece that starts with the one numbered `first`.
fn bad_weights(info: &TensorInfo, first: u64, at: usize, found: &str) -> Error {
    let row = (first + at as u64) / info.row_len().max(1);
    let what = format!("tensor {}: {found} in row {row}, which cannot be quantised", info.name);
    Error::new(ErrorKind::BadTensor, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_file_types() {
        for file_type in FileType::ALL {
            assert_eq!(file_type.name().parse::<FileType>().unwrap(), file_type);
            assert_eq!(file_type.name().to_lowercase().parse::<FileType>().unwrap(), file_type);
            assert!(file_type.dtype().has_encoder());
        }
        assert_eq!("q4_k".parse::<FileType>().unwrap(), FileType::Q4_K_M);
        let error = "Q9\n".parse::<FileType>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown type \"Q9\\n\"; known: F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q4_K_M Q5_0 Q5_1 Q4_0 Q4_1"
        );
    }
}
