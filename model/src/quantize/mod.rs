//! Writes a model again in another format, with the bytes that llama-quantize gives, by an importance matrix or without.
//! Which tensor gets which format is in `mix.rs` and `rules.rs`, how a block is quantised in the gguf crate.

mod file_type;
mod matrix;
pub(crate) mod mix;
mod name;
mod piece;
mod recipe;
mod rules;

pub use file_type::FileType;
pub use matrix::ImportanceMatrix;
pub use name::file_name;
pub use recipe::{Mixing, Named, OutputMatrix, Recipe, Target};

use crate::output::{self, Existing, Output};
use crate::{Error, ErrorKind, Result};
use gguf::{DType, File, Writer};
use mix::{Facts, Plan, Planned};
use piece::Piece;
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
    /// Tensors that were quantised before, and have lost something twice.
    pub requantised: usize,
    /// Tensors that an importance matrix says nothing of, though their formats heed one.
    pub unmeasured: usize,
    /// Whether a tensor has the format that the file is named for: a model without experts has none for MXFP4_MOE.
    pub has_its_type: bool,
}

/// How to write a model again.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The formats.
    pub recipe: Recipe<'a>,
    /// How much errors count, where it was measured.
    pub matrix: Option<&'a ImportanceMatrix>,
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
    request: Request<'_>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Report> {
    let Request { recipe, matrix, existing, threads } = request;
    refuse_source(source, output)?;
    let sink = Output::create(output, existing)?;
    let plan = mix::plan(&Facts::of(source)?, source.tensors(), recipe, matrix.is_some())?;
    let jobs = jobs(&plan, matrix)?;
    refuse_without_matrix(&jobs, recipe.target)?;
    let writer = header(source, request, &plan)?;
    sink.needs(writer.data_bytes())?;
    let mut data = writer.start(sink).map_err(|error| output::error(output, &error))?;

    let mut report = Report {
        bytes_before: 0,
        bytes_after: writer.data_bytes(),
        weights: 0,
        fallbacks: plan.fallbacks,
        requantised: plan.tensors.iter().filter(|planned| planned.is_requantised()).count(),
        unmeasured: jobs.iter().filter(|job| matrix.is_some() && job.is_unmeasured()).count(),
        has_its_type: plan.has_type(recipe.target),
    };
    let total = plan.tensors.iter().map(|planned| planned.info.n_elements()).sum();
    let mut piece = Piece::new(threads);
    for job in &jobs {
        let planned = job.planned;
        let (mut done, n) = (0, planned.info.n_elements());
        while done < n {
            let weights = piece.convert(source, job, done)?;
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

/// One tensor to be written.
struct Job<'a> {
    planned: &'a Planned<'a>,
    /// The importance of its columns, for each expert.
    importance: Option<&'a [f32]>,
}

impl Job<'_> {
    fn is_converted(&self) -> bool {
        self.planned.dtype != self.planned.info.dtype
    }

    fn is_unmeasured(&self) -> bool {
        self.is_converted() && self.planned.dtype.heeds_importance() && self.importance.is_none()
    }
}

fn jobs<'a>(plan: &'a Plan<'a>, matrix: Option<&'a ImportanceMatrix>) -> Result<Vec<Job<'a>>> {
    let job = |planned: &'a Planned<'a>| {
        let importance = match matrix {
            Some(matrix) if planned.dtype != planned.info.dtype => matrix.of(planned.info)?,
            Some(_) | None => None,
        };
        Ok(Job { planned, importance })
    };
    plan.tensors.iter().map(job).collect()
}

/// llama-quantize gives no tensor Q2_K in Q2_K_S without an importance matrix, and nor does karat.
fn refuse_without_matrix(jobs: &[Job<'_>], target: Target) -> Result<()> {
    let tables = ["token_embd.weight", "per_layer_token_embd.weight", "output.weight"];
    let needs = |job: &&Job<'_>| {
        job.planned.dtype == DType::Q2_K
            && job.is_unmeasured()
            && !tables.contains(&job.planned.info.name.as_str())
    };
    match jobs.iter().find(needs) {
        Some(job) if target == Target::Type(FileType::Q2_K_S) => {
            let name = &job.planned.info.name;
            let what = format!(
                "Q2_K_S needs an importance matrix, of tensor {name} too; hint: --imatrix FILE, or Q2_K, which needs none"
            );
            Err(Error::new(ErrorKind::BadRequest, what))
        }
        Some(_) | None => Ok(()),
    }
}

/// The source's metadata, and its tensors in the planned formats. A split source becomes one file.
fn header(source: &File, request: Request<'_>, plan: &Plan<'_>) -> Result<Writer> {
    const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];
    let mut writer = Writer::new();
    for (key, value) in source.keys().filter(|(key, _)| !SPLIT_KEYS.contains(key)) {
        writer.set(key, value.clone())?;
    }
    writer.set("general.quantization_version", 2u32)?;
    if let Target::Type(file_type) = request.recipe.target {
        writer.set("general.file_type", file_type.id())?;
    }
    for (key, value) in request.matrix.into_iter().flat_map(ImportanceMatrix::keys) {
        writer.set(key, value)?;
    }
    for planned in &plan.tensors {
        writer.tensor(&planned.info.name, planned.dtype, &planned.info.dims)?;
    }
    Ok(writer)
}
