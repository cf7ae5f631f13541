//! Reads hyper-parameters out of a file's metadata; every error names the key, what was found and what is allowed.

use crate::{Error, ErrorKind, Result};
use gguf::{Array, File, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Most keys that a warning names.
const MAX_NAMED: usize = 8;
/// Longest piece of a file's text that an error repeats, in characters.
const MAX_SHOWN: usize = 80;

/// The metadata of one architecture: `meta.count("block_count", ..)` reads `llama.block_count`.
pub(crate) struct Meta<'a> {
    /// The whole file, for tensors.
    pub(crate) file: &'a File,
    /// The prefix of the architecture's keys.
    pub(crate) arch: &'a str,
    /// Keys that were asked for, without the prefix.
    asked: RefCell<BTreeSet<String>>,
}

/// Keys that say how a model was made, and change no number of it.
const INFORMATION: &[&str] = &[
    // Whether the model was trained further with its longer context.
    "rope.scaling.finetuned",
    // The order of rows in a checkpoint before it was converted.
    "tensor_data_layout",
];

impl<'a> Meta<'a> {
    pub(crate) fn new(file: &'a File, arch: &'a str) -> Self {
        Self { file, arch, asked: RefCell::default() }
    }

    /// `block_count` → `llama.block_count`.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.file.get(&self.key(key))
    }

    /// A line that names the architecture's keys of the file that nobody asked for: they may change what the model
    /// computes elsewhere.
    pub(crate) fn unused(&self) -> Option<String> {
        let prefix = self.key("");
        let asked = self.asked.borrow();
        let is_unused =
            |key: &&str| !asked.contains(*key) && !INFORMATION.contains(key) && !key.is_empty();
        let keys = self.file.keys().filter_map(|(key, _)| key.strip_prefix(&prefix));
        let mut unused: Vec<String> =
            keys.filter(is_unused).map(|key| shown(&self.key(key))).collect();
        let more = unused.len().saturating_sub(MAX_NAMED);
        unused.truncate(MAX_NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        (!unused.is_empty()).then(|| {
            format!(
                "{}{more}: not used by karat's {}, the model may be meant to compute something else",
                unused.join(", "),
                self.arch
            )
        })
    }

    /// An error about a key of the architecture.
    pub(crate) fn bad(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::BadHyperParameter, format!("{}: {what}", self.key(key)))
    }

    pub(crate) fn missing(&self, key: &str) -> Error {
        Error::new(ErrorKind::MissingKey, format!("missing key \"{}\"", self.key(key)))
    }

    /// An integer of any width in `allowed`, or `None` where the key is absent.
    pub(crate) fn opt_count(
        &self,
        key: &str,
        allowed: RangeInclusive<usize>,
    ) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        count(&self.key(key), value, &allowed).map(Some)
    }

    /// An integer that must be there.
    pub(crate) fn count(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<usize> {
        self.opt_count(key, allowed)?.ok_or_else(|| self.missing(key))
    }

    /// An integer for each layer: one for all, or an array with one for each.
    pub(crate) fn opt_per_layer(
        &self,
        key: &str,
        n_layer: usize,
        allowed: RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let name = self.key(key);
        let Some(array) = value.as_array() else {
            return Ok(Some(vec![count(&name, value, &allowed)?; n_layer]));
        };
        if array.len() != n_layer {
            return Err(
                self.bad(key, format!("{} elements, the model has {n_layer} layers", array.len()))
            );
        }
        let layers = (0..n_layer)
            .filter_map(|i| array.get(i).map(|v| count(&format!("{name}[{i}]"), &v, &allowed)));
        layers.collect::<Result<Vec<_>>>().map(Some)
    }

    pub(crate) fn per_layer(
        &self,
        key: &str,
        n_layer: usize,
        allowed: RangeInclusive<usize>,
    ) -> Result<Vec<usize>> {
        self.opt_per_layer(key, n_layer, allowed)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number above zero, or `None` where the key is absent.
    pub(crate) fn opt_positive(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let x = float(&self.key(key), value)?;
        if x.is_finite() && x > 0.0 {
            return Ok(Some(x));
        }
        Err(self.bad(key, format!("{x}, allowed a finite number above 0")))
    }

    /// A finite number of zero or more, where zero says "off" and reads as `None`.
    pub(crate) fn opt_factor(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let x = float(&self.key(key), value)?;
        if x == 0.0 { Ok(None) } else { self.opt_positive(key) }
    }

    /// The window of attention: positions that a token sees, its own included. 0 says "none" and reads as `None`; a file that
    /// says nothing has `default`.
    pub(crate) fn window(&self, default: Option<u32>) -> Result<Option<u32>> {
        let stated = self.opt_count("attention.sliding_window", 0..=u32::MAX as usize)?;
        Ok(stated.map_or(default, |n| u32::try_from(n).ok()).filter(|&n| n > 0))
    }

    /// Whether a key says `true` or `false`, or `None` where it is absent.
    pub(crate) fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(other) => Err(wrong_type(&self.key(key), other, "bool")),
        }
    }

    pub(crate) fn opt_text(&self, key: &str) -> Result<Option<String>> {
        let name = self.key(key);
        self.value(key).map(|value| text(&name, value)).transpose()
    }
}

/// `general.architecture`.
pub(crate) fn architecture(file: &File) -> Result<String> {
    let key = "general.architecture";
    match file.get(key) {
        Some(value) => text(key, value),
        None => Err(Error::new(ErrorKind::MissingKey, format!("missing key \"{key}\""))),
    }
}

/// Entries of the token list, or `None` where the file has no vocabulary.
pub(crate) fn n_tokens(file: &File) -> Result<Option<usize>> {
    let key = "tokenizer.ggml.tokens";
    let Some(value) = file.get(key) else { return Ok(None) };
    match value.as_array() {
        Some(Array::String(list)) => Ok(Some(list.len())),
        Some(_) | None => Err(wrong_type(key, value, "array of string")),
    }
}

fn text(key: &str, value: &Value) -> Result<String> {
    let text = value.as_str().ok_or_else(|| wrong_type(key, value, "string"))?;
    Ok(shown(&text))
}

/// Text of a file made fit to print: control characters escaped, cut.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().count() > MAX_SHOWN {
        out.push('…');
    }
    out
}

fn count(name: &str, value: &Value, allowed: &RangeInclusive<usize>) -> Result<usize> {
    let found = value.as_int().ok_or_else(|| wrong_type(name, value, "integer"))?;
    match usize::try_from(found) {
        Ok(n) if allowed.contains(&n) => Ok(n),
        Ok(_) | Err(_) => {
            let what = format!("{name}: {found}, allowed {}..={}", allowed.start(), allowed.end());
            Err(Error::new(ErrorKind::BadHyperParameter, what))
        }
    }
}

fn float(name: &str, value: &Value) -> Result<f32> {
    match *value {
        Value::F32(x) => Ok(x),
        Value::F64(x) => Ok(x as f32),
        Value::U8(_)
        | Value::I8(_)
        | Value::U16(_)
        | Value::I16(_)
        | Value::U32(_)
        | Value::I32(_)
        | Value::U64(_)
        | Value::I64(_)
        | Value::Bool(_)
        | Value::String(_)
        | Value::Array(_) => Err(wrong_type(name, value, "f32")),
    }
}

fn wrong_type(name: &str, value: &Value, wanted: &str) -> Error {
    Error::new(
        ErrorKind::WrongType,
        format!("{name}: found {}, wanted {wanted}", value.type_name()),
    )
}
