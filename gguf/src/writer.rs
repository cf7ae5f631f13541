//! Writes GGUF v3: metadata and tensor infos first, then the tensors' data in the order of declaration.
//!
//! Where each tensor lies is known before its data is, so a quantiser can write as it goes.

use std::collections::HashSet;
use std::io::{self, Write};

use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result, key_subject, tensor_subject};
use crate::limits::Limits;
use crate::tensor::{MAX_DIMS, n_bytes};
use crate::value::{Array, TYPE_ARRAY, Value};

const KEY_ALIGNMENT: &str = "general.alignment";

/// The header of a file to be written.
///
/// ```
/// # fn main() -> gguf::Result<()> {
/// let mut writer = gguf::Writer::new();
/// writer.set("general.architecture", "llama")?;
/// writer.tensor("norm", gguf::DType::F32, &[2])?;
/// let mut data = writer.start(Vec::new())?;
/// data.write(&[0; 8])?;
/// let file = gguf::File::from_bytes(data.finish()?)?;
/// assert_eq!(file.tensors()[0].dims, [2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    alignment: u64,
    entries: Vec<(String, Value)>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
    next_offset: u64,
}

#[derive(Clone, Debug)]
struct Declared {
    name: String,
    dtype: DType,
    dims: Vec<u64>,
    offset: u64,
    n_bytes: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            alignment: 32,
            entries: Vec::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
            next_offset: 0,
        }
    }
}

impl Writer {
    /// An empty file: no keys, no tensors, alignment 32.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key: adds it at the end, or replaces its value in place. `general.alignment` (u32) sets the alignment.
    ///
    /// # Errors
    /// `Usage` for an empty key or one with NUL; for an alignment that is not a power of two up to 1 MiB, or that
    /// is set after a tensor was declared.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<&mut Self> {
        let value = value.into();
        let usage = |what: &str| Err(Error::new(ErrorKind::Usage, what).about(|| key_subject(key)));
        if key.is_empty() || key.contains('\0') {
            return usage("empty, or holds NUL");
        }
        if key == KEY_ALIGNMENT {
            let n = if let Value::U32(n) = value { n } else { 0 };
            if !n.is_power_of_two() || n > Limits::default().alignment {
                return usage("wanted a u32 that is a power of two in 1..=1048576");
            }
            if !self.tensors.is_empty() && self.alignment != u64::from(n) {
                return usage("set after a tensor was declared");
            }
            self.alignment = n.into();
        }
        match self.entries.iter_mut().find(|(there, _)| there == key) {
            Some((_, there)) => *there = value,
            None => self.entries.push((key.to_owned(), value)),
        }
        Ok(self)
    }

    /// Declares the next tensor; `dims` in ggml's order, the row length first.
    ///
    /// # Errors
    /// `Usage` for a name that is there already, empty, with NUL or over 63 bytes, and for over 4 dimensions;
    /// `Malformed` for a row that is no multiple of the format's block, or a size over 2^63.
    pub fn tensor(&mut self, name: &str, dtype: DType, dims: &[u64]) -> Result<&mut Self> {
        let usage =
            |what: String| Error::new(ErrorKind::Usage, what).about(|| tensor_subject(name));
        let max_name = Limits::default().tensor_name_bytes;
        if name.is_empty() || name.len() as u64 > max_name || name.contains('\0') {
            return Err(usage(format!(
                "name of {} bytes, allowed 1..={max_name} without NUL",
                name.len()
            )));
        }
        if dims.len() > MAX_DIMS as usize {
            return Err(usage(format!("{} dimensions, allowed 0..={MAX_DIMS}", dims.len())));
        }
        let n_bytes = n_bytes(dtype, dims).map_err(|error| error.about(|| tensor_subject(name)))?;
        let offset = self.next_offset;
        let next = offset
            .checked_add(n_bytes)
            .and_then(|end| end.checked_next_multiple_of(self.alignment));
        let Some(next) = next.filter(|&next| next <= i64::MAX as u64) else {
            return Err(Error::malformed("sizes of the tensors add up to over 2^63")
                .about(|| tensor_subject(name)));
        };
        if !self.names.insert(name.to_owned()) {
            return Err(usage("declared twice".to_owned()));
        }
        self.next_offset = next;
        self.tensors.push(Declared {
            name: name.to_owned(),
            dtype,
            dims: dims.to_vec(),
            offset,
            n_bytes,
        });
        Ok(self)
    }

    /// Bytes of data of the tensors that are declared, padding included.
    pub fn data_bytes(&self) -> u64 {
        self.next_offset
    }

    /// Writes the header and makes ready for the data. A buffered `sink` is faster.
    ///
    /// # Errors
    /// `Io` if the sink fails.
    pub fn start<W: Write>(&self, mut sink: W) -> Result<DataWriter<W>> {
        let mut head = self.header();
        // A file without tensors has no data section to pad for.
        if !self.tensors.is_empty() {
            pad(&mut head, self.alignment);
        }
        sink.write_all(&head).map_err(|error| io_error(&error))?;
        let sizes =
            self.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.n_bytes)).collect();
        let mut data =
            DataWriter { sink, alignment: self.alignment, tensors: sizes, current: 0, written: 0 };
        data.pass_full()?;
        Ok(data)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(b"GGUF");
        out.extend_from_slice(&3u32.to_le_bytes());
        put_u64(&mut out, self.tensors.len() as u64);
        put_u64(&mut out, self.entries.len() as u64);
        for (key, value) in &self.entries {
            put_string(&mut out, key.as_bytes());
            out.extend_from_slice(&value.type_id().to_le_bytes());
            put_value(&mut out, value);
        }
        for tensor in &self.tensors {
            put_string(&mut out, tensor.name.as_bytes());
            out.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
            put_all(&mut out, &tensor.dims, u64::to_le_bytes);
            out.extend_from_slice(&tensor.dtype.id().to_le_bytes());
            put_u64(&mut out, tensor.offset);
        }
        out
    }
}

/// Takes the data of the declared tensors, one after the other, in pieces of any size.
#[derive(Debug)]
#[must_use = "the file is whole only after finish()"]
pub struct DataWriter<W: Write> {
    sink: W,
    alignment: u64,
    /// Name and bytes of each tensor.
    tensors: Vec<(String, u64)>,
    /// The tensor that is being written, and how much of it is.
    current: usize,
    written: u64,
}

impl<W: Write> DataWriter<W> {
    /// Writes the next bytes: the rest of the current tensor or a part of it.
    ///
    /// # Errors
    /// `Usage` for more bytes than the current tensor has left; `Io` if the sink fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let Some((name, n_bytes)) = self.tensors.get(self.current) else {
            return match len {
                0 => Ok(()),
                _ => {
                    Err(Error::new(ErrorKind::Usage, format!("{len} bytes after the last tensor")))
                }
            };
        };
        if len > n_bytes - self.written {
            let what = format!("{len} bytes, the tensor has {} left", n_bytes - self.written);
            return Err(Error::new(ErrorKind::Usage, what).about(|| tensor_subject(name)));
        }
        self.sink.write_all(bytes).map_err(|error| io_error(&error))?;
        self.written += len;
        self.pass_full()
    }

    /// The name of the tensor whose data comes next; `None` when all are written.
    pub fn next_tensor(&self) -> Option<&str> {
        self.tensors.get(self.current).map(|(name, _)| name.as_str())
    }

    /// Flushes and returns the sink.
    ///
    /// # Errors
    /// `Usage` if data is missing; `Io` if the sink fails.
    pub fn finish(mut self) -> Result<W> {
        if let Some((name, n_bytes)) = self.tensors.get(self.current) {
            let what = format!("{} of {n_bytes} bytes were written", self.written);
            return Err(Error::new(ErrorKind::Usage, what).about(|| tensor_subject(name)));
        }
        self.sink.flush().map_err(|error| io_error(&error))?;
        Ok(self.sink)
    }

    /// Pads tensors that are complete (an empty one is at once) and goes to the next that is not.
    fn pass_full(&mut self) -> Result<()> {
        while self.tensors.get(self.current).is_some_and(|&(_, n_bytes)| n_bytes == self.written) {
            let padding = self.written.next_multiple_of(self.alignment) - self.written;
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.sink)
                .map_err(|error| io_error(&error))?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }
}

/// Builds a small file in memory, header and data together: for tests.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    writer: Writer,
    data: Vec<u8>,
    sizes: Vec<usize>,
    error: Option<String>,
}

impl Builder {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    #[must_use]
    pub fn kv(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Err(error) = self.writer.set(key, value) {
            self.keep(&error);
        }
        self
    }

    /// Adds a tensor with its data.
    #[must_use]
    pub fn tensor(mut self, name: &str, dtype: DType, dims: &[u64], data: &[u8]) -> Self {
        if let Err(error) = self.writer.tensor(name, dtype, dims) {
            self.keep(&error);
        }
        self.data.extend_from_slice(data);
        self.sizes.push(data.len());
        self
    }

    /// Adds a tensor of F32.
    #[must_use]
    pub fn f32(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, DType::F32, dims, &data)
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// The first error of any call, or data of a wrong size.
    pub fn build(self) -> Result<Vec<u8>> {
        if let Some(what) = self.error {
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let mut out = self.writer.start(Vec::new())?;
        let mut rest = self.data.as_slice();
        for size in self.sizes {
            let (data, after) = rest.split_at(size);
            out.write(data)?;
            rest = after;
        }
        out.finish()
    }

    fn keep(&mut self, error: &Error) {
        self.error.get_or_insert_with(|| error.to_string());
    }
}

fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_all<T: Copy, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes: fn(T) -> [u8; N]) {
    out.extend(values.iter().flat_map(|&v| bytes(v)));
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    debug_assert_ne!(array.element_type_id(), TYPE_ARRAY);
    out.extend_from_slice(&array.element_type_id().to_le_bytes());
    put_u64(out, array.len() as u64);
    match array {
        Array::U8(v) => out.extend_from_slice(v),
        Array::I8(v) => put_all(out, v, i8::to_le_bytes),
        Array::U16(v) => put_all(out, v, u16::to_le_bytes),
        Array::I16(v) => put_all(out, v, i16::to_le_bytes),
        Array::U32(v) => put_all(out, v, u32::to_le_bytes),
        Array::I32(v) => put_all(out, v, i32::to_le_bytes),
        Array::F32(v) => put_all(out, v, f32::to_le_bytes),
        Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        Array::String(v) => v.iter().for_each(|string| put_string(out, string)),
        Array::U64(v) => put_all(out, v, u64::to_le_bytes),
        Array::I64(v) => put_all(out, v, i64::to_le_bytes),
        Array::F64(v) => put_all(out, v, f64::to_le_bytes),
    }
}

fn pad(out: &mut Vec<u8>, alignment: u64) {
    // The alignment is at most 1 MiB, so it fits any `usize`.
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
}

fn io_error(error: &io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write: {error}"))
}
