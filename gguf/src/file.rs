//! A model file, opened: its metadata, its tensors, and their bytes. Follows a model split over several files.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result, tensor_subject};
use crate::header::{self, Metadata};
use crate::index::NameIndex;
use crate::limits::Limits;
use crate::source::Source;
use crate::split;
use crate::tensor::TensorInfo;
use crate::value::Value;

/// How the bytes of tensors get into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Read into memory of our own: what happens to the file afterwards does not matter.
    #[default]
    Pread,
    /// Mapped: faster to start and shared between processes. If another program shortens the file while it is in
    /// use, this process prints so and exits with code 4 (on Unix; elsewhere the system may end it).
    Mmap,
}

/// How to open a file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How the bytes of tensors get into memory.
    pub access: Access,
    /// The largest sizes that are accepted.
    pub limits: Limits,
    /// Where in the file the GGUF data starts; not 0 only for GGUF inside of something larger.
    pub start: u64,
}

/// An open GGUF model: one file, or all files of a split one. Every size and offset was checked.
#[derive(Debug)]
pub struct File {
    sources: Vec<Source>,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: NameIndex,
    warnings: Vec<String>,
}

impl File {
    /// Opens the model at `path` with the default limits. Any file of a split model opens all of them.
    ///
    /// # Errors
    /// What is wrong with the file, by [`Error::kind`].
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        Self::open_with(path, &Options { access, ..Options::default() })
    }

    /// Opens the model at `path` with limits and start of one's own.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let parts = split::open_all(path.as_ref(), options)?;
        Self::join(parts, &options.limits)
    }

    /// Reads a model from memory. A file of a split model is refused: its other files have no place.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::from_bytes_with(bytes, &Options::default())
    }

    /// Reads a model from memory with limits and start of one's own; `access` does not matter.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn from_bytes_with(bytes: Vec<u8>, options: &Options) -> Result<Self> {
        Self::alone(Source::memory(bytes), options)
    }

    /// Reads a model from a file that is open for reading already. A file of a split model is refused: where the others
    /// are is not known.
    ///
    /// A file that its process holds locked can be read in no other way on Windows: a lock keeps out all handles but its
    /// own.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn from_handle(file: std::fs::File) -> Result<Self> {
        Self::alone(Source::opened(file, Access::Pread)?, &Options::default())
    }

    /// The only file of a model.
    fn alone(source: Source, options: &Options) -> Result<Self> {
        let header = header::parse(&source, options.start, &options.limits)?;
        split::refuse_part(&header)?;
        Self::join(vec![split::Part { source, header }], &options.limits)
    }

    fn join(parts: Vec<split::Part>, limits: &Limits) -> Result<Self> {
        let joined = split::join(parts, limits)?;
        let split::Joined { sources, first, tensors, names, warnings } = joined;
        let header::Header { version, alignment, metadata, .. } = first;
        Ok(Self { sources, version, alignment, metadata, tensors, names, warnings })
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor data is aligned to, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The path of the first file; `None` for a model from memory.
    pub fn path(&self) -> Option<&Path> {
        self.sources.first().and_then(Source::path)
    }

    /// The paths of all files in order; empty for a model from memory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().filter_map(Source::path)
    }

    /// Bytes of all files together.
    pub fn n_bytes(&self) -> u64 {
        self.sources.iter().map(Source::len).sum()
    }

    /// What is odd about the file and does no harm, in words: text that is not UTF-8, bytes after the last tensor.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// Keys and values in file order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.metadata.iter()
    }

    /// All tensors in file order, those of the first file first.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.names.find(name, |i| &self.tensors[i as usize].name).map(|i| &self.tensors[i])
    }

    /// The data of a tensor of this file: `n_bytes` bytes. Read with [`Access::Pread`], borrowed otherwise.
    ///
    /// # Errors
    /// `Changed` if the file was rewritten or shortened since it was opened; `Io`; `OutOfMemory`; `Usage` for a
    /// tensor of another file.
    pub fn data(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>> {
        let source = self.source_of(tensor, 0, tensor.n_bytes)?;
        let Ok(len) = usize::try_from(tensor.n_bytes) else {
            let what = format!("{} bytes do not fit in this machine's memory", tensor.n_bytes);
            return Err(
                Error::new(ErrorKind::OutOfMemory, what).about(|| tensor_subject(&tensor.name))
            );
        };
        source
            .bytes(tensor.offset, len)
            .map_err(|error| error.about(|| tensor_subject(&tensor.name)))
    }

    /// Fills `buf` with the data of a tensor from byte `offset` of it, for reading a large one in pieces.
    ///
    /// # Errors
    /// As [`File::data`]; `Usage` for a range outside of the tensor.
    pub fn read_into(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<()> {
        let source = self.source_of(tensor, offset, buf.len() as u64)?;
        source
            .read_exact_at(buf, tensor.offset + offset)
            .map_err(|error| error.about(|| tensor_subject(&tensor.name)))
    }

    /// The file that holds the tensor, found unchanged.
    fn source_of(&self, tensor: &TensorInfo, offset: u64, len: u64) -> Result<&Source> {
        let usage = |what: String| {
            Error::new(ErrorKind::Usage, what).about(|| tensor_subject(&tensor.name))
        };
        if self.tensor(&tensor.name) != Some(tensor) {
            return Err(usage("not a tensor of this file".to_owned()));
        }
        if offset.checked_add(len).is_none_or(|end| end > tensor.n_bytes) {
            return Err(usage(format!(
                "bytes {offset}..+{len} are outside of the tensor's {}",
                tensor.n_bytes
            )));
        }
        let source = &self.sources[tensor.shard];
        source.check_unchanged()?;
        Ok(source)
    }
}
