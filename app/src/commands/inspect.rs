//! `karat inspect`: metadata and tensors of a GGUF file, without its weights.

use crate::exit::{Code, Failure};
use crate::load::{self, NamedModel};
use crate::out::{Controls, Out};
use anyhow::Result;
use gguf::{Array, DType, TensorInfo, Value};
use karat::Config;
use karat::text;
use serde_json::{Map, Value as Json, json};
use std::fmt::Write as _;

/// Characters of a text, and elements of an array, that are shown without `--all`.
const MAX_CHARS: usize = 80;
const MAX_ELEMENTS: usize = 4;

/// What `karat inspect` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: NamedModel,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show long texts and arrays whole
    #[arg(long)]
    all: bool,
}

/// Prints what a file holds.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let Some(model) = args.model.name()? else {
        return Err(Failure::new(Code::Usage, "no model").hint("karat inspect model.gguf").into());
    };
    let path = load::resolve(Some(model), config)?;
    let file = load::open(&path)?;
    let max =
        if args.all { Max { chars: usize::MAX, elements: usize::MAX } } else { Max::default() };
    let mut out = Out::new(Controls::Escaped);
    if args.json { out.json(&report(&file, max)) } else { Ok(out.text(&page(&file, max))?) }
}

#[derive(Clone, Copy)]
struct Max {
    chars: usize,
    elements: usize,
}

impl Default for Max {
    fn default() -> Self {
        Self { chars: MAX_CHARS, elements: MAX_ELEMENTS }
    }
}

/// All tensors of one type.
struct Total {
    dtype: DType,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

/// In the order of [`DType::ALL`], without types that the file does not have.
fn totals(tensors: &[TensorInfo]) -> Vec<Total> {
    let total = |dtype: DType| {
        let of = || tensors.iter().filter(move |tensor| tensor.dtype == dtype);
        // The file's own size bounds the sums.
        let elements = of().map(TensorInfo::n_elements).fold(0, u64::saturating_add);
        let bytes = of().map(|tensor| tensor.n_bytes).fold(0, u64::saturating_add);
        Total { dtype, tensors: of().count(), elements, bytes }
    };
    DType::ALL.into_iter().map(total).filter(|total| total.tensors > 0).collect()
}

fn bits_per_weight(bytes: u64, elements: u64) -> Option<f64> {
    (elements > 0).then(|| bytes as f64 * 8.0 / elements as f64)
}

fn page(file: &gguf::File, max: Max) -> String {
    let mut page = String::new();
    let tensors = file.tensors();
    for path in file.paths() {
        push(&mut page, format_args!("{}", text::path(path)));
    }
    let (version, alignment, size) =
        (file.version(), file.alignment(), text::bytes(file.n_bytes()));
    push(&mut page, format_args!("GGUF version {version}, alignment {alignment}, {size}\n"));
    push(&mut page, format_args!("metadata: {} keys", file.keys().len()));
    let width = file.keys().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(50);
    for (key, value) in file.keys() {
        let (key, kind) = (text::one_line(key), value.type_name());
        push(&mut page, format_args!("  {key:width$}  {kind:<16} {}", shown(value, max)));
    }
    push(&mut page, format_args!("\ntensors: {}", tensors.len()));
    let width = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
    for tensor in tensors {
        let (name, dims) = (text::one_line(&tensor.name), dims(tensor));
        let (dtype, offset, bytes) = (tensor.dtype.name(), tensor.offset, tensor.n_bytes);
        let shard =
            if tensor.shard > 0 { format!("  file {}", tensor.shard + 1) } else { String::new() };
        push(
            &mut page,
            format_args!(
                "  {name:width$}  {dtype:<7} {dims:<16} offset {offset:<12} {bytes} bytes{shard}"
            ),
        );
    }
    push(&mut page, format_args!("\ntypes"));
    for Total { dtype, tensors, elements, bytes } in totals(tensors) {
        let (dtype, size) = (dtype.name(), text::bytes(bytes));
        push(
            &mut page,
            format_args!("  {dtype:<7} {tensors:>6} tensors {elements:>14} weights {size:>12}"),
        );
    }
    let (elements, bytes) = sums(tensors);
    let bits = bits_per_weight(bytes, elements).map_or("-".to_owned(), |bits| format!("{bits:.3}"));
    let size = text::bytes(bytes);
    push(
        &mut page,
        format_args!(
            "  all     {:>6} tensors {elements:>14} weights {size:>12}, {bits} bits per weight",
            tensors.len()
        ),
    );
    page
}

/// Adds a line. Writing to a string cannot fail.
fn push(page: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(page, "{line}");
}

fn sums(tensors: &[TensorInfo]) -> (u64, u64) {
    totals(tensors).iter().fold((0u64, 0u64), |(elements, bytes), total| {
        (elements.saturating_add(total.elements), bytes.saturating_add(total.bytes))
    })
}

/// `[576, 49152]`, the row length first.
fn dims(tensor: &TensorInfo) -> String {
    format!("{:?}", tensor.dims)
}

/// A value on one line.
fn shown(value: &Value, max: Max) -> String {
    match value {
        Value::String(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let cut = text::one_line(&text::shortened(&text, max.chars));
            let chars = text.chars().count();
            if chars > max.chars {
                format!("\"{cut}\" ({chars} characters)")
            } else {
                format!("\"{cut}\"")
            }
        }
        Value::Array(array) => {
            let n = array.len();
            let first = (0..n.min(max.elements)).filter_map(|i| array.get(i));
            let mut items: Vec<String> = first.map(|item| shown(&item, max)).collect();
            if n > max.elements {
                items.push(format!("… {n} elements"));
            }
            format!("[{}]", items.join(", "))
        }
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(x) => x.to_string(),
        Value::U8(_)
        | Value::I8(_)
        | Value::U16(_)
        | Value::I16(_)
        | Value::U32(_)
        | Value::I32(_) => int(value),
        Value::U64(_) | Value::I64(_) => int(value),
    }
}

fn int(value: &Value) -> String {
    value.as_int().map_or_else(String::new, |n| n.to_string())
}

fn report(file: &gguf::File, max: Max) -> Json {
    let tensors = file.tensors();
    let (elements, bytes) = sums(tensors);
    let metadata: Map<String, Json> = file
        .keys()
        .map(|(key, value)| {
            (key.to_owned(), json!({"type": value.type_name(), "value": json(value, max)}))
        })
        .collect();
    let types: Vec<Json> = totals(tensors)
        .iter()
        .map(|t| json!({"type": t.dtype.name(), "tensors": t.tensors, "weights": t.elements, "bytes": t.bytes}))
        .collect();
    let list: Vec<Json> = tensors
        .iter()
        .map(|t| {
            json!({"name": t.name, "type": t.dtype.name(), "shape": t.dims, "offset": t.offset, "bytes": t.n_bytes,
                   "file": t.shard})
        })
        .collect();
    let files: Vec<_> = file.paths().map(|path| path.to_string_lossy()).collect();
    json!({
        "files": files,
        "version": file.version(),
        "alignment": file.alignment(),
        "bytes": file.n_bytes(),
        "metadata": metadata,
        "tensors": list,
        "types": types,
        "weights": elements,
        "weight_bytes": bytes,
        "bits_per_weight": bits_per_weight(bytes, elements),
    })
}

/// A value as JSON. Shortened arrays and texts are objects with `length` and `first`; numbers that JSON does not have
/// are texts.
fn json(value: &Value, max: Max) -> Json {
    match value {
        Value::String(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let length = text.chars().count();
            if length > max.chars {
                json!({"length": length, "first": text.chars().take(max.chars).collect::<String>()})
            } else {
                text.into()
            }
        }
        Value::Array(array) if array.len() > max.elements => {
            json!({"length": array.len(), "first": elements(array, max)})
        }
        Value::Array(array) => elements(array, max),
        Value::Bool(x) => (*x).into(),
        Value::F32(x) => float(f64::from(*x)),
        Value::F64(x) => float(*x),
        Value::U8(_)
        | Value::I8(_)
        | Value::U16(_)
        | Value::I16(_)
        | Value::U32(_)
        | Value::I32(_) => number(value),
        Value::U64(_) | Value::I64(_) => number(value),
    }
}

fn elements(array: &Array, max: Max) -> Json {
    (0..array.len().min(max.elements))
        .filter_map(|i| array.get(i))
        .map(|item| json(&item, max))
        .collect()
}

fn float(x: f64) -> Json {
    if x.is_finite() { json!(x) } else { x.to_string().into() }
}

fn number(value: &Value) -> Json {
    let n = value.as_int().unwrap_or_default();
    match (u64::try_from(n), i64::try_from(n)) {
        (Ok(n), _) => n.into(),
        (Err(_), Ok(n)) => n.into(),
        // Integers of GGUF have at most 64 bits.
        (Err(_), Err(_)) => n.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> gguf::File {
        let long: String = "x".repeat(100);
        let bytes = gguf::Builder::new()
            .kv("general.architecture", "tiny")
            .kv("esc", "a\u{1b}[31m")
            .kv("long", long.as_str())
            .kv("nan", f32::NAN)
            .kv("list", Value::Array(Array::I32(vec![-1, 2, 3, 4, 5, 6])))
            .f32("a", &[2, 3], &[0.0; 6])
            .build()
            .unwrap();
        gguf::File::from_bytes(bytes).unwrap()
    }

    #[test]
    fn a_page_has_everything_and_no_escapes() {
        let page = page(&tiny(), Max::default());
        for part in [
            "\"a\\u{1b}[31m\"",
            "(100 characters)",
            "[-1, 2, 3, 4, … 6 elements]",
            "[2, 3]",
            "32.000 bits per weight",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains('\u{1b}'));
    }

    #[test]
    fn json_shortens_and_all_does_not() {
        let short = report(&tiny(), Max::default());
        assert_eq!(
            short["metadata"]["list"]["value"],
            json!({"length": 6, "first": [-1, 2, 3, 4]})
        );
        assert_eq!(short["metadata"]["nan"]["value"], "NaN");
        assert_eq!(short["tensors"][0]["shape"], json!([2, 3]));
        let all = report(&tiny(), Max { chars: usize::MAX, elements: usize::MAX });
        assert_eq!(all["metadata"]["list"]["value"], json!([-1, 2, 3, 4, 5, 6]));
        assert_eq!(all["bits_per_weight"], 32.0);
    }
}
