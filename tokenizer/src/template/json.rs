//! The `tojson` filter as chat templates know it: Python's `json.dumps(value, ensure_ascii=False)`, nothing escaped for HTML.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::MAX_OUTPUT_BYTES;

const MAX_INDENT: usize = 32;

/// `value | tojson(indent=None, ensure_ascii=false, separators=None, sort_keys=false)`.
///
/// Of separators the default pair and the compact one are known.
#[allow(clippy::needless_pass_by_value, reason = "the engine calls filters with owned arguments")]
pub(super) fn tojson(state: &State<'_, '_>, value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let compact =
        options.get::<Option<Vec<String>>>("separators")?.is_some_and(|s| s == [",", ":"]);
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "tojson").with_source(e))?;
    if sorted == Some(true) {
        json.sort_all_objects();
    }
    let mut out = Charged { state, bytes: Vec::new() };
    let written = match (indent, compact) {
        (Some(width), _) => {
            if width > MAX_INDENT {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: indent is over {MAX_INDENT}"),
                ));
            }
            let spaces = " ".repeat(width);
            json.serialize(&mut Serializer::with_formatter(
                &mut out,
                PrettyFormatter::with_indent(spaces.as_bytes()),
            ))
        }
        (None, true) => json.serialize(&mut Serializer::new(&mut out)),
        (None, false) => json.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    written.map_err(|_| Error::new(ErrorKind::OutOfFuel, "tojson"))?;
    let text = String::from_utf8(out.bytes)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "tojson").with_source(e))?;
    Ok(Value::from(if ascii == Some(true) { escape_non_ascii(&text) } else { text }))
}

/// `\uXXXX` for everything beyond ASCII; in JSON that is inside strings only.
fn escape_non_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// Output that pays for what it holds and is bounded like the prompt.
struct Charged<'s, 't, 'e> {
    state: &'s State<'t, 'e>,
    bytes: Vec<u8>,
}

impl io::Write for Charged<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let steps = u64::try_from(bytes.len() / 64 + 1).unwrap_or(u64::MAX);
        if self.state.consume_fuel(steps).is_err()
            || self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES
        {
            return Err(io::Error::other("limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
