//! The tensors of a file, checked as they are asked for: none missing, every shape and format right, and at the end none
//! left that nobody asked for.

use super::{Dim, Found, Source, TensorSpec};
use crate::meta::{Meta, shown};
use crate::{Error, ErrorKind, Result, Spec};
use gguf::{DType, File, TensorInfo};
use graph::FileId;
use std::collections::HashSet;

/// A file as the source of a graph's tensors.
pub(crate) struct FileTensors<'a> {
    file: &'a File,
    spec: &'a Spec,
    /// Names that were asked for.
    known: HashSet<String>,
}

impl<'a> FileTensors<'a> {
    pub(crate) fn new(spec: &'a Spec, file: &'a File) -> Self {
        Self { file, spec, known: HashSet::new() }
    }

    /// A tensor that nobody reads means that the file's model is another one than its metadata says.
    pub(crate) fn refuse_unknown(&self) -> Result<()> {
        let mut unknown = self
            .file
            .tensors()
            .iter()
            .filter(|info| !self.known.contains(&info.name) && !self.foretells(&info.name));
        let Some(first) = unknown.next() else { return Ok(()) };
        let more = match unknown.count() {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let layers = self.spec.layers.len();
        let what = format!("unknown to {} models of {layers} layers{more}", self.spec.arch);
        Err(bad(&first.name, what))
    }
}

impl FileTensors<'_> {
    /// Whether a tensor is of a layer behind those that answer.
    fn foretells(&self, name: &str) -> bool {
        let n = self.spec.layers.len();
        let rest = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        let layer: Option<usize> = rest.and_then(|number| number.parse().ok());
        layer.is_some_and(|layer| (n..n + self.spec.n_foretelling).contains(&layer))
    }
}

impl Source for FileTensors<'_> {
    fn find(&mut self, wanted: &TensorSpec) -> Result<Option<Found>> {
        let Some(info) = self.file.tensor(&wanted.name) else { return Ok(None) };
        let shape: Vec<u64> = wanted.shape.iter().map(|dim| dim.n as u64).collect();
        if without_ones(&info.dims) != without_ones(&shape) {
            return Err(wrong_shape(info, &wanted.shape));
        }
        // A block format there is a mistake of the converter.
        let is_float = matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16);
        if wanted.role.is_elementwise() && !is_float {
            let what = format!("format {}, allowed F32, F16, BF16", info.dtype.name());
            return Err(bad(&info.name, what));
        }
        self.known.insert(wanted.name.clone());
        Ok(Some(Found { file: FileId::BASE, dtype: info.dtype }))
    }

    fn refuse_apart(&self, wanted: &TensorSpec, first: &str) -> Result<()> {
        if self.file.tensor(&wanted.name).is_some() || self.file.tensor(first).is_none() {
            return Ok(());
        }
        let what = format!(
            "a tensor for each expert, allowed one for all, \"{}\": the file is of before April 2024, convert the model anew",
            wanted.name
        );
        Err(bad(first, what))
    }
}

/// The values of a rope factor tensor, or `None` where the file has none of that name.
pub(crate) fn rope_factors(meta: &Meta<'_>, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
    let Some(info) = meta.file.tensor(name) else { return Ok(None) };
    if without_ones(&info.dims) != without_ones(&[n as u64]) {
        let from = format!("half of {}", meta.key("rope.dimension_count"));
        return Err(wrong_shape(info, &[Dim { n, from }]));
    }
    if info.dtype != DType::F32 {
        return Err(bad(name, format!("format {}, allowed F32", info.dtype.name())));
    }
    let bytes = meta.file.data(info)?;
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().position(|x| !x.is_finite() || *x <= 0.0) {
        Some(i) => {
            Err(bad(name, format!("element {i} is {}, allowed finite numbers above 0", values[i])))
        }
        None => Ok(Some(values)),
    }
}

/// Dimensions without the ones at their end: `[64, 1]` is the shape of `[64]`.
fn without_ones(dims: &[u64]) -> &[u64] {
    let n = dims.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    &dims[..n]
}

/// The error for a tensor that must be there.
pub(crate) fn missing(wanted: &TensorSpec) -> Error {
    bad(&wanted.name, format!("missing, expected with shape {:?}", wanted.sizes()))
}

fn bad(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadTensor, format!("tensor \"{}\": {what}", shown(name)))
}

fn wrong_shape(info: &TensorInfo, expected: &[Dim]) -> Error {
    let sizes: Vec<_> = expected.iter().map(|dim| dim.n).collect();
    let from: Vec<_> = expected.iter().map(|dim| dim.from.as_str()).collect();
    bad(
        &info.name,
        format!("shape {:?}, expected {sizes:?} (from {})", info.dims, from.join(" and ")),
    )
}
