//! Importance matrices: how much an error in each column of a tensor counts, as llama-imatrix measured it on some text.
//! A GGUF file, or llama.cpp's older form.

use crate::{Error, ErrorKind, Result};
use gguf::{Access, DType, File, TensorInfo, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// An importance matrix.
#[derive(Clone, Debug)]
pub struct ImportanceMatrix {
    /// The file, as the caller named it.
    path: String,
    /// The first text that it was measured on.
    dataset: Option<String>,
    /// Pieces of text that it was measured on.
    chunks: u32,
    /// For each tensor its columns, those of one expert behind those of another.
    columns: BTreeMap<String, Vec<f32>>,
}

impl ImportanceMatrix {
    /// Reads a file.
    ///
    /// # Errors
    /// `Read`, `BadTensor` and `MissingKey` by what is wrong with the file.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let read = |e: std::io::Error| Error::new(ErrorKind::Read, format!("{shown}: {e}"));
        let mut start = Vec::new();
        let mut file = std::fs::File::open(path).map_err(read)?;
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, 4), &mut start)
            .map_err(read)?;
        let mut matrix = if start == b"GGUF" {
            Self::of_gguf(&File::open(path, Access::Pread)?)
        } else {
            Self::of_bytes(&std::fs::read(path).map_err(read)?)
        }
        .map_err(|error| Error::new(error.kind(), format!("{shown}: {error}")))?;
        let bad = |(_, columns): &(&String, &Vec<f32>)| columns.iter().any(|x| !x.is_finite());
        if let Some((name, _)) = matrix.columns.iter().find(bad) {
            let what = format!("{shown}: {name}: NaN or infinity in an importance matrix");
            return Err(Error::new(ErrorKind::BadTensor, what));
        }
        matrix.path = shown;
        Ok(matrix)
    }

    /// Sums of squares of each column's activations, and how many there were, for each expert.
    fn of_gguf(file: &File) -> Result<Self> {
        let required = ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"];
        if let Some(key) = required.into_iter().find(|key| file.get(key).is_none()) {
            let what = format!("no importance matrix: the key {key} is missing");
            return Err(Error::new(ErrorKind::MissingKey, what));
        }
        let mut columns = BTreeMap::new();
        for sums in file.tensors() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts = file.tensor(&format!("{name}.counts")).ok_or_else(|| {
                Error::new(ErrorKind::BadTensor, format!("{name}: sums without counts"))
            })?;
            let (mut sums, counts) = (floats(file, sums)?, floats(file, counts)?);
            if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
                let what = format!("{name}: {} sums with {} counts", sums.len(), counts.len());
                return Err(Error::new(ErrorKind::BadTensor, what));
            }
            let width = sums.len() / counts.len();
            for (sums, count) in sums.chunks_mut(width.max(1)).zip(counts) {
                let count = count.round();
                // An expert that saw nothing has no preferences.
                sums.iter_mut().for_each(|sum| *sum = if count > 0.0 { *sum / count } else { 1.0 });
            }
            columns.insert(name.to_owned(), sums);
        }
        let datasets = file.strings("imatrix.datasets")?;
        let first = datasets.and_then(|all| all.iter().next());
        let dataset = first.map(|text| String::from_utf8_lossy(text).into_owned());
        let chunks = file.u32("imatrix.chunk_count")?.unwrap_or(0);
        Self { path: String::new(), dataset, chunks, columns }.if_any()
    }

    /// llama.cpp's older form: a count, then for each tensor the length of its name, the name, how often it was met, how
    /// many values, and the values; at the end, in later versions, chunks and the text's name.
    fn of_bytes(bytes: &[u8]) -> Result<Self> {
        let mut rest = Bytes(bytes);
        let n = rest.number().filter(|&n| n > 0).ok_or_else(no_matrix)?;
        let mut columns = BTreeMap::new();
        for _ in 0..n {
            let name = rest.text().ok_or_else(no_matrix)?;
            let calls = rest.number().ok_or_else(no_matrix)?;
            let len = rest.number().filter(|&n| n > 0).ok_or_else(no_matrix)?;
            let values = rest.take(4 * u64::from(len.unsigned_abs())).ok_or_else(no_matrix)?;
            let calls = if calls > 0 { calls as f32 } else { 1.0 };
            let values = values.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) / calls);
            columns.insert(name, values.collect());
        }
        let chunks = rest.number().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let dataset = rest.text().filter(|name| !name.is_empty());
        Self { path: String::new(), dataset, chunks, columns }.if_any()
    }

    fn if_any(self) -> Result<Self> {
        if self.columns.is_empty() { Err(no_matrix()) } else { Ok(self) }
    }

    /// The importance of a tensor's columns, for each expert; `None` where it was not measured.
    pub(super) fn of(&self, info: &TensorInfo) -> Result<Option<&[f32]>> {
        let Some(columns) = self.columns.get(&info.name) else { return Ok(None) };
        let n = info.row_len().saturating_mul(info.dims.get(2).copied().unwrap_or(1));
        if columns.len() as u64 == n {
            return Ok(Some(columns));
        }
        // Tables are not multiplied with, so what was measured under their names is something else.
        if matches!(info.name.as_str(), "token_embd.weight" | "per_layer_token_embd.weight") {
            return Ok(None);
        }
        let (path, name, found) = (&self.path, &info.name, columns.len());
        let what = format!(
            "{path}: {name} has {found} columns, the model's has {n}: is it another model's?"
        );
        Err(Error::new(ErrorKind::BadTensor, what))
    }

    /// What llama-quantize adds to the file's metadata.
    pub(super) fn keys(&self) -> Vec<(&'static str, Value)> {
        // llama.cpp keeps 127 bytes of a text.
        let cut = |text: &str| text[..text.floor_char_boundary(127)].to_owned();
        let mut keys = vec![("quantize.imatrix.file", cut(&self.path).into())];
        keys.extend(self.dataset.iter().map(|name| ("quantize.imatrix.dataset", cut(name).into())));
        let entries = u32::try_from(self.columns.len()).unwrap_or(u32::MAX);
        keys.push(("quantize.imatrix.entries_count", entries.into()));
        keys.extend(
            (self.chunks > 0).then(|| ("quantize.imatrix.chunks_count", self.chunks.into())),
        );
        keys
    }
}

fn no_matrix() -> Error {
    let what = "no importance matrix: wanted a GGUF file with sums and counts, or the older form";
    Error::new(ErrorKind::BadTensor, what)
}

/// The numbers of a tensor in F32.
fn floats(file: &File, info: &TensorInfo) -> Result<Vec<f32>> {
    if info.dtype != DType::F32 {
        let what = format!("{}: {}, an importance matrix has F32", info.name, info.dtype);
        return Err(Error::new(ErrorKind::BadTensor, what));
    }
    let bytes = file.data(info)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<i32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i32::from_le_bytes(*taken))
    }

    fn text(&mut self) -> Option<String> {
        let len = u64::try_from(self.number()?).ok()?;
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }
}
