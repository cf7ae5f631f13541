//! Reads the header of one GGUF file: metadata and tensor infos, every number checked before it is used.
//!
//! Layout: magic, version u32, n_tensors u64, n_kv u64; then n_kv times key string, type u32, value; then n_tensors
//! times name string, n_dims u32, dims u64 each, type u32, offset u64; then padding to the alignment, then the data.

use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result, Shown, key_subject, tensor_subject};
use crate::index::NameIndex;
use crate::limits::Limits;
use crate::reader::{Reader, Section};
use crate::sniff;
use crate::source::Source;
use crate::tensor::{MAX_DIMS, TensorInfo, n_bytes};
use crate::value::{Array, Strings, TYPE_ARRAY, Value};

/// Bytes of magic, version and the two counts.
const HEADER_BYTES: u64 = 24;
/// A key-value pair takes no less: key length, type, one byte of value.
const MIN_KV_BYTES: u64 = 13;
/// A tensor info takes no less: name length, n_dims, type, offset.
const MIN_TENSOR_BYTES: u64 = 24;
const DEFAULT_ALIGNMENT: u64 = 32;
const KEY_ALIGNMENT: &str = "general.alignment";

/// What the header of one file says.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) metadata: Metadata,
    /// Offsets count from the start of the file, not of the data.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) names: NameIndex,
    pub(crate) warnings: Vec<String>,
}

/// Key-value pairs in file order, findable by key.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    entries: Vec<(Box<str>, Value)>,
    keys: NameIndex,
}

impl Metadata {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.find(key, |i| &self.entries[i as usize].0).map(|i| &self.entries[i].1)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }
}

/// Parses the GGUF file that begins at `start` of `source`.
pub(crate) fn parse(source: &Source, start: u64, limits: &Limits) -> Result<Header> {
    parse_inner(source, start, limits).map_err(|error| error.in_file(source.path()))
}

fn parse_inner(source: &Source, start: u64, limits: &Limits) -> Result<Header> {
    let mut reader = Reader::new(source, start, limits.metadata_bytes);
    let version = parse_version(source, start, &mut reader)?;
    let (n_tensors, n_kv) = (reader.u64("n_tensors")?, reader.u64("n_kv")?);
    check_count(&reader, "n_kv", n_kv, MIN_KV_BYTES, limits.n_kv)?;
    check_count(&reader, "n_tensors", n_tensors, MIN_TENSOR_BYTES, limits.n_tensors)?;

    let mut warnings = Vec::new();
    reader.section = Section::Metadata;
    let metadata = parse_metadata(&mut reader, n_kv, limits, &mut warnings)?;
    let alignment = alignment(&metadata, limits)?;

    reader.section = Section::TensorInfos;
    let (mut tensors, names) = parse_tensors(&mut reader, n_tensors, limits)?;
    let end = place_tensors(&mut tensors, start, reader.pos(), alignment, source.len())?;
    // The last tensor may or may not be padded.
    if source.len().saturating_sub(end) >= alignment {
        warnings
            .push(format!("{} bytes follow the last tensor and are ignored", source.len() - end));
    }
    Ok(Header { version, alignment, metadata, tensors, names, warnings })
}

/// Checks the magic and the version, with a message of its own for each way to be wrong.
fn parse_version(source: &Source, start: u64, reader: &mut Reader<'_>) -> Result<u32> {
    let here = reader.remaining();
    if here == 0 {
        let what = if start == 0 { "file is empty" } else { "file ends before it" };
        return Err(Error::new(ErrorKind::NotGguf, format!("not a GGUF file: {what}")));
    }
    let mut head = vec![0; here.min(512) as usize];
    source.read_exact_at(&mut head, start)?;
    if head.iter().zip(b"GGUF").any(|(found, magic)| found != magic) {
        return Err(sniff::not_gguf(&head));
    }
    if let Some(&[_, _, _, _, a, b, c, d]) = head.first_chunk::<8>() {
        check_version(u32::from_le_bytes([a, b, c, d]))?;
    }
    if here < HEADER_BYTES {
        let what = format!("header truncated: need {HEADER_BYTES} bytes, file has {here}");
        return Err(Error::new(ErrorKind::Truncated, what).hint("is the download complete?"));
    }
    reader.u32("magic")?;
    reader.u32("version")
}

fn check_version(version: u32) -> Result<()> {
    let unsupported = |what: &str| Error::new(ErrorKind::Unsupported, what);
    match version {
        2 | 3 => Ok(()),
        0 => Err(Error::malformed("GGUF version 0 does not exist, supported: 2 and 3")),
        1 => Err(unsupported("GGUF v1 is no longer supported, supported: 2 and 3")
            .hint("get a newer version of the model")),
        _ if version & 0xffff == 0 => {
            let what = format!(
                "big-endian GGUF file (its version {} reads as {version})",
                version.swap_bytes()
            );
            Err(unsupported(&what).hint("get the little-endian version of the model"))
        }
        _ => {
            Err(unsupported(&format!("GGUF version {version} is newer than 3, supported: 2 and 3"))
                .hint("a newer karat may read it"))
        }
    }
}

/// Refuses a count that the rest of the file cannot hold, before anything is allocated for it.
fn check_count(reader: &Reader<'_>, name: &str, n: u64, min_bytes: u64, limit: u64) -> Result<()> {
    if n > reader.remaining() / min_bytes {
        let what = format!("{name} {n} cannot fit in {} remaining bytes", reader.remaining());
        return Err(reader.malformed(what).hint("is the download complete?"));
    }
    if n > limit {
        return Err(reader.error(ErrorKind::Limit, format!("{name} is {n}, limit {limit}")));
    }
    Ok(())
}

fn parse_metadata(
    reader: &mut Reader<'_>,
    n_kv: u64,
    limits: &Limits,
    warnings: &mut Vec<String>,
) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for i in 0..n_kv {
        let key = parse_key(reader, i, limits)?;
        let value =
            parse_value(reader, limits).map_err(|error| error.about(|| key_subject(&key)))?;
        if let Value::String(bytes) = &value
            && warnings.len() < 16
            && std::str::from_utf8(bytes).is_err()
        {
            warnings.push(format!(
                "{}: not UTF-8, shown with U+FFFD in place of what is wrong",
                key_subject(&key)
            ));
        }
        let Metadata { entries, keys } = &mut metadata;
        if let Err(first) = keys.insert(&key, i as u32, |i| &entries[i as usize].0) {
            let what = format!("duplicate key: entries {first} and {i}");
            return Err(reader.malformed(what).about(|| key_subject(&key)));
        }
        grow_slowly(entries).map_err(|what| reader.error(ErrorKind::OutOfMemory, what))?;
        entries.push((key, value));
    }
    Ok(metadata)
}

fn parse_key(reader: &mut Reader<'_>, i: u64, limits: &Limits) -> Result<Box<str>> {
    let subject = || format!("key {i}");
    let bytes = string(reader, limits.string_bytes, "key").map_err(|error| error.about(subject))?;
    let what = match String::from_utf8(bytes) {
        Ok(key) if key.is_empty() => "empty key".to_owned(),
        Ok(key) if key.contains('\0') => format!("NUL in key \"{}\"", Shown(&key)),
        Ok(key) => return Ok(key.into_boxed_str()),
        Err(error) => {
            format!("key \"{}\" is not UTF-8", Shown(&String::from_utf8_lossy(error.as_bytes())))
        }
    };
    Err(reader.malformed(what).about(subject))
}

fn parse_value(reader: &mut Reader<'_>, limits: &Limits) -> Result<Value> {
    let id = reader.u32("value type")?;
    Ok(match id {
        0 => Value::U8(u8::from_le_bytes(reader.array("u8 value")?)),
        1 => Value::I8(i8::from_le_bytes(reader.array("i8 value")?)),
        2 => Value::U16(u16::from_le_bytes(reader.array("u16 value")?)),
        3 => Value::I16(i16::from_le_bytes(reader.array("i16 value")?)),
        4 => Value::U32(u32::from_le_bytes(reader.array("u32 value")?)),
        5 => Value::I32(i32::from_le_bytes(reader.array("i32 value")?)),
        6 => Value::F32(f32::from_le_bytes(reader.array("f32 value")?)),
        7 => Value::Bool(parse_bool(reader)?),
        8 => Value::String(string(reader, limits.string_bytes, "string value")?),
        TYPE_ARRAY => Value::Array(parse_array(reader, limits)?),
        10 => Value::U64(u64::from_le_bytes(reader.array("u64 value")?)),
        11 => Value::I64(i64::from_le_bytes(reader.array("i64 value")?)),
        12 => Value::F64(f64::from_le_bytes(reader.array("f64 value")?)),
        _ => return Err(reader.malformed(format!("value type {id}, allowed 0..=12"))),
    })
}

fn parse_bool(reader: &mut Reader<'_>) -> Result<bool> {
    let [byte] = reader.array("bool value")?;
    match byte {
        0 | 1 => Ok(byte == 1),
        _ => Err(reader.malformed(format!("bool is {byte}, allowed 0 and 1"))),
    }
}

fn parse_array(reader: &mut Reader<'_>, limits: &Limits) -> Result<Array> {
    let id = reader.u32("array element type")?;
    let n = reader.u64("array length")?;
    if n > limits.array_len && n <= reader.remaining() {
        return Err(reader.error(
            ErrorKind::Limit,
            format!("array of {n} elements, limit {}", limits.array_len),
        ));
    }
    Ok(match id {
        0 => Array::U8(reader.list(n, u8::from_le_bytes, "array of u8")?),
        1 => Array::I8(reader.list(n, i8::from_le_bytes, "array of i8")?),
        2 => Array::U16(reader.list(n, u16::from_le_bytes, "array of u16")?),
        3 => Array::I16(reader.list(n, i16::from_le_bytes, "array of i16")?),
        4 => Array::U32(reader.list(n, u32::from_le_bytes, "array of u32")?),
        5 => Array::I32(reader.list(n, i32::from_le_bytes, "array of i32")?),
        6 => Array::F32(reader.list(n, f32::from_le_bytes, "array of f32")?),
        7 => Array::Bool(parse_bools(reader, n)?),
        8 => Array::String(parse_strings(reader, n, limits)?),
        TYPE_ARRAY => return Err(reader.malformed("array of arrays, allowed nesting 1")),
        10 => Array::U64(reader.list(n, u64::from_le_bytes, "array of u64")?),
        11 => Array::I64(reader.list(n, i64::from_le_bytes, "array of i64")?),
        12 => Array::F64(reader.list(n, f64::from_le_bytes, "array of f64")?),
        _ => return Err(reader.malformed(format!("array element type {id}, allowed 0..=12 but 9"))),
    })
}

fn parse_bools(reader: &mut Reader<'_>, n: u64) -> Result<Vec<bool>> {
    let bytes = reader.list(n, u8::from_le_bytes, "array of bool")?;
    match bytes.iter().position(|&byte| byte > 1) {
        Some(i) => {
            Err(reader.malformed(format!("bool {i} of the array is {}, allowed 0 and 1", bytes[i])))
        }
        None => Ok(bytes.into_iter().map(|byte| byte == 1).collect()),
    }
}

fn parse_strings(reader: &mut Reader<'_>, n: u64, limits: &Limits) -> Result<Strings> {
    // Each string has at least its length.
    reader.check(n.saturating_mul(8), "array of string")?;
    let mut strings = Strings::default();
    for _ in 0..n {
        let len = string_len(reader, limits.string_bytes, "string of the array")?;
        reader.append(len, strings.tail(), "string of the array")?;
        strings.close();
    }
    Ok(strings)
}

fn string(reader: &mut Reader<'_>, limit: u64, what: &str) -> Result<Vec<u8>> {
    let len = string_len(reader, limit, what)?;
    let mut bytes = Vec::new();
    reader.append(len, &mut bytes, what)?;
    Ok(bytes)
}

fn string_len(reader: &mut Reader<'_>, limit: u64, what: &str) -> Result<u64> {
    let len = reader.u64("string length")?;
    if len > limit && len <= reader.remaining() {
        return Err(reader.error(ErrorKind::Limit, format!("{what} of {len} bytes, limit {limit}")));
    }
    reader.check(len, what)?;
    Ok(len)
}

fn alignment(metadata: &Metadata, limits: &Limits) -> Result<u64> {
    let max = limits.alignment;
    let what = match metadata.get(KEY_ALIGNMENT) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() && *n <= max => return Ok(u64::from(*n)),
        Some(Value::U32(n)) => format!("found {n}, allowed a power of two in 1..={max}"),
        Some(other) => format!("found {}, wanted u32", other.type_name()),
    };
    Err(Error::malformed(what).about(|| key_subject(KEY_ALIGNMENT)))
}

fn parse_tensors(
    reader: &mut Reader<'_>,
    n: u64,
    limits: &Limits,
) -> Result<(Vec<TensorInfo>, NameIndex)> {
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut names = NameIndex::default();
    for i in 0..n {
        let name = parse_tensor_name(reader, i, limits)?;
        let tensor = parse_tensor(reader, name)?;
        if let Err(first) = names.insert(&tensor.name, i as u32, |i| &tensors[i as usize].name) {
            let what = format!("duplicate name: tensors {first} and {i}");
            return Err(reader.malformed(what).about(|| tensor_subject(&tensor.name)));
        }
        grow_slowly(&mut tensors).map_err(|what| reader.error(ErrorKind::OutOfMemory, what))?;
        tensors.push(tensor);
    }
    Ok((tensors, names))
}

fn parse_tensor_name(reader: &mut Reader<'_>, i: u64, limits: &Limits) -> Result<String> {
    let subject = || format!("tensor {i}");
    let len = reader.u64("length of the name").map_err(|error| error.about(subject))?;
    if len == 0 || len > limits.tensor_name_bytes {
        let what = format!("name of {len} bytes, allowed 1..={}", limits.tensor_name_bytes);
        return Err(reader.malformed(what).about(subject));
    }
    let mut bytes = Vec::new();
    reader.append(len, &mut bytes, "name").map_err(|error| error.about(subject))?;
    let what = match String::from_utf8(bytes) {
        Ok(name) if name.contains('\0') => format!("NUL in name \"{}\"", Shown(&name)),
        Ok(name) => return Ok(name),
        Err(error) => {
            format!("name \"{}\" is not UTF-8", Shown(&String::from_utf8_lossy(error.as_bytes())))
        }
    };
    Err(reader.malformed(what).about(subject))
}

/// Reads what follows the name. The offset is left as the file has it: relative to the data section.
fn parse_tensor(reader: &mut Reader<'_>, name: String) -> Result<TensorInfo> {
    let mut read = || {
        let n_dims = reader.u32("n_dims")?;
        if n_dims > MAX_DIMS {
            return Err(reader.malformed(format!("{n_dims} dimensions, allowed 0..={MAX_DIMS}")));
        }
        let dims = reader.list(n_dims.into(), u64::from_le_bytes, "dimensions")?;
        let id = reader.u32("type")?;
        let dtype = DType::from_id(id).map_err(|unknown| {
            let known: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            let what = match unknown.name {
                Some(name) => {
                    format!("unsupported tensor type {name} ({id}); supported: {}", known.join(" "))
                }
                None => format!("unknown tensor type {id}; supported: {}", known.join(" ")),
            };
            reader.error(ErrorKind::Unsupported, what)
        })?;
        let offset = reader.u64("offset")?;
        let section = reader.section.name();
        let n_bytes = n_bytes(dtype, &dims).map_err(|error| error.at(section, reader.pos()))?;
        Ok((dtype, dims, offset, n_bytes))
    };
    match read() {
        Ok((dtype, dims, offset, n_bytes)) => {
            Ok(TensorInfo { name, dtype, dims, offset, n_bytes, shard: 0 })
        }
        Err(error) => Err(error.about(|| tensor_subject(&name))),
    }
}

/// Checks that the tensors lie one after the other, padded, as every writer lays them, and inside the file; then
/// makes their offsets count from the start of the file. Returns where the last one ends.
fn place_tensors(
    tensors: &mut [TensorInfo],
    start: u64,
    infos_end: u64,
    alignment: u64,
    file_len: u64,
) -> Result<u64> {
    if tensors.is_empty() {
        return Ok(infos_end);
    }
    let overflow = || Error::malformed("sizes of the tensors add up to over 2^63");
    let add = |a: u64, b: u64| {
        a.checked_add(b).filter(|&sum| sum <= i64::MAX as u64).ok_or_else(overflow)
    };
    let pad = |n: u64| n.checked_next_multiple_of(alignment).ok_or_else(overflow);
    // Padding counts from the start of the GGUF data, which need not be the start of the file.
    let data_start = add(start, pad(infos_end - start)?)?;

    let mut next = 0;
    let mut end = data_start;
    for tensor in tensors.iter_mut() {
        let place = || -> Result<(u64, u64, u64)> {
            if tensor.offset != next {
                let what = format!(
                    "offset {} in the data section, expected {next} (no gaps, no overlaps)",
                    tensor.offset
                );
                return Err(Error::malformed(what));
            }
            let begin = add(data_start, next)?;
            Ok((begin, add(begin, tensor.n_bytes)?, pad(add(next, tensor.n_bytes)?)?))
        };
        let placed = place().map_err(|error| error.about(|| tensor_subject(&tensor.name)))?;
        (tensor.offset, end, next) = placed;
    }
    match tensors.iter().find(|tensor| tensor.offset + tensor.n_bytes > file_len) {
        Some(tensor) => Err(truncated(tensor, end, file_len)),
        None => Ok(end),
    }
}

fn truncated(tensor: &TensorInfo, end: u64, file_len: u64) -> Error {
    let percent = u128::from(file_len) * 100 / u128::from(end.max(1));
    let what = format!(
        "truncated: tensor \"{}\" needs bytes {}..{}, file ends at {file_len} (download incomplete? {percent} %)",
        Shown(&tensor.name),
        tensor.offset,
        tensor.offset + tensor.n_bytes,
    );
    Error::new(ErrorKind::Truncated, what)
}

/// Makes room for one more by a quarter, where `Vec` doubles: doubling would hold three times the list for a moment.
fn grow_slowly<T>(list: &mut Vec<T>) -> std::result::Result<(), &'static str> {
    if list.len() < list.capacity() {
        return Ok(());
    }
    list.try_reserve_exact(list.len() / 4 + 16).map_err(|_| "cannot allocate memory for the list")
}
