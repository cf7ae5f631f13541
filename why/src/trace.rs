//! Recorded values in a safetensors file; the layout is docs/traces.md's.

use crate::{Error, ErrorKind, Result, Values};
use graph::{Arithmetic, Graph, Node, Rows, Step};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::json;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

/// A larger file is no trace that anyone can look at.
const MAX_BYTES: u64 = 4 << 30;
/// Metadata key of the token ids.
const TOKENS: &str = "tokens";
/// Metadata key of the arithmetic that karat recorded in.
const ARITHMETIC: &str = "arithmetic";
/// A longer header is none: some hundred bytes for each value of a step.
const MAX_HEADER: u64 = 100 << 20;

/// A trace: for each step `(name, op)` → values.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    steps: Vec<HashMap<(String, String), Vec<f32>>>,
    tokens: Option<Vec<u32>>,
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Trace, format!("{}: {what}", path.display()))
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{}: {error}", path.display()))
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], and [`ErrorKind::Trace`] for a file that is none.
    pub fn open(path: &Path) -> Result<Self> {
        let size = path.metadata().map_err(|e| io(path, &e))?.len();
        if size > MAX_BYTES {
            return Err(bad(path, format!("{size} bytes, allowed {MAX_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(|e| io(path, &e))?;
        let no_trace = |e: safetensors::SafeTensorError| bad(path, format!("no trace: {e}"));
        let tensors = SafeTensors::deserialize(&bytes).map_err(no_trace)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(no_trace)?;
        let mut trace = Self::default();
        if let Some(ids) = header.metadata().as_ref().and_then(|all| all.get(TOKENS)) {
            let ids = serde_json::from_str(ids);
            trace.tokens = Some(ids.map_err(|e| bad(path, format!("metadata {TOKENS}: {e}")))?);
        }
        let mut names = tensors.names();
        names.sort_unstable();
        for name in names {
            let layout = "STEP/INDEX/NAME#N:OP, STEP/ only behind the first step";
            let Some((step, label, op)) = parse(name) else {
                return Err(bad(path, format!("tensor {name:?}, allowed {layout}")));
            };
            let tensor = tensors.tensor(name).map_err(no_trace)?;
            if tensor.dtype() != Dtype::F32 {
                return Err(bad(path, format!("tensor {name}: {:?}, allowed F32", tensor.dtype())));
            }
            if step > trace.steps.len() {
                return Err(bad(path, format!("tensor {name}: step {} is missing", step - 1)));
            }
            if step == trace.steps.len() {
                trace.steps.push(HashMap::new());
            }
            let floats = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            let key = (label.to_owned(), op.to_owned());
            trace.steps[step].entry(key).or_insert_with(|| floats.collect());
        }
        Ok(trace)
    }

    /// The arithmetic of a trace of karat's own; `None` for one of another engine, which does not say, and for what is
    /// no trace, which [`Trace::open`] refuses. Reads the header only.
    pub fn arithmetic_of(path: &Path) -> Option<Arithmetic> {
        let mut file = std::fs::File::open(path).ok()?;
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let length = u64::from_le_bytes(length);
        let mut header = Vec::new();
        file.take(length.min(MAX_HEADER)).read_to_end(&mut header).ok()?;
        let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
        let name = header["__metadata__"][ARITHMETIC].as_str()?;
        Arithmetic::ALL.into_iter().find(|arithmetic| arithmetic.name() == name)
    }

    /// The ids that the trace was recorded from, where it says so.
    pub fn tokens(&self) -> Option<&[u32]> {
        self.tokens.as_deref()
    }

    /// Steps recorded.
    pub fn n_steps(&self) -> usize {
        self.steps.len()
    }

    /// The first value of this name and op in a step.
    pub fn get(&self, step: usize, name: &str, op: &str) -> Option<&[f32]> {
        let key = (name.to_owned(), op.to_owned());
        self.steps.get(step)?.get(&key).map(Vec::as_slice)
    }

    /// The graph's values, by name and op, and by the names that other engines give them. A value of another size than
    /// the step's is not taken for it; one of all rows, where the graph has those that are wanted, is taken by its rows.
    pub fn values(&self, graph: &Graph, steps: &[Step]) -> Values {
        let of = |(i, step): (usize, &Step)| {
            let find = |node: &Node| {
                let value = graph.value(node.output?);
                let rows = step.rows(value.rows);
                let fitting = |found: &[f32]| {
                    if found.len() == rows * value.cols {
                        return Some(found.to_vec());
                    }
                    let is_all = value.rows == Rows::Outputs
                        && found.len() == step.tokens.len() * value.cols;
                    is_all.then(|| wanted_rows(step, value.cols, found))
                };
                let named = |name: &str| {
                    let mut ops = node.op.traced_as().iter();
                    ops.find_map(|op| self.get(i, name, op).and_then(fitting))
                };
                named(&value.name)
                    .or_else(|| other_names(&value.name).find_map(|name| named(&name)))
            };
            graph.nodes.iter().map(find).collect()
        };
        Values { steps: steps.iter().enumerate().map(of).collect() }
    }

    /// Writes values that karat computed as a trace, each straight from where it lies: of gigabytes there should not be two copies.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(
        out: &mut dyn Write,
        graph: &Graph,
        arithmetic: Arithmetic,
        steps: &[Step],
        values: &Values,
    ) -> std::io::Result<()> {
        let ids: Vec<u32> = steps.iter().flat_map(|step| step.tokens.iter().copied()).collect();
        let mut header = serde_json::Map::new();
        let metadata =
            json!({ TOKENS: serde_json::to_string(&ids)?, ARITHMETIC: arithmetic.name() });
        header.insert("__metadata__".to_owned(), metadata);
        let mut end = 0;
        for (name, cols, data) in named(graph, values) {
            let (start, shape) = (end, [data.len() / cols.max(1), cols]);
            end += size_of_val(data);
            let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
            header.insert(name, tensor);
        }
        let mut header = serde_json::to_vec(&header)?;
        // The numbers behind it begin at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (_, _, data) in named(graph, values) {
            for chunk in data.chunks(1 << 14) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}

/// The rows of a value of all tokens whose logits are wanted.
fn wanted_rows(step: &Step, cols: usize, all: &[f32]) -> Vec<f32> {
    step.outputs.iter().flat_map(|&row| &all[row as usize * cols..][..cols]).copied().collect()
}

/// Values that llama.cpp calls differently from model to model: karat's name, and one that another model's has.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("inp_scaled", "embd"),
    ("Qcur", "Qcur_scaled"),
    ("Qcur_norm", "Qcur_normed"),
    ("Kcur_norm", "Kcur_normed"),
    ("Qcur", "Qcur_rope"),
    ("Kcur", "Kcur_rope"),
    ("wqkv", "wqkv_b"),
    ("ffn_up", "ffn_up_b"),
    ("ffn_gate", "ffn_gate_b"),
    ("ffn_relu_sqr", "ffn_sqr(relu)"),
    ("ffn_out", "ffn_down"),
    ("result_output", "result_output_no_bias"),
    ("sa_out", "ffn_inp"),
    ("ffn_inp", "sa_out"),
    ("ffn_norm", "attn_post_norm"),
    ("ffn_norm", "post_attn_norm"),
    ("ffn_shexp", "ffn_mlp"),
    ("ffn_shexp", "ffn_shexp_out"),
    ("result_norm", "h_nextn"),
    ("attn_post_norm", "post_attn_norm"),
    ("ffn_post_norm", "post_mlp_norm"),
];

/// What other models of llama.cpp call a value, `sa_out-3` for `ffn_inp-3`.
fn other_names(name: &str) -> impl Iterator<Item = String> {
    let (base, layer) = match name.rfind('-') {
        Some(at) => name.split_at(at),
        None => (name, ""),
    };
    let others = OTHER_NAMES.iter().filter(move |(ours, _)| *ours == base);
    others.map(move |(_, other)| format!("{other}{layer}"))
}

/// Each recorded value with its name in the file and its columns.
fn named<'v>(
    graph: &'v Graph,
    values: &'v Values,
) -> impl Iterator<Item = (String, usize, &'v [f32])> {
    values.steps.iter().enumerate().flat_map(move |(s, nodes)| {
        let step = if s == 0 { String::new() } else { format!("{s:05}/") };
        graph.nodes.iter().zip(nodes).enumerate().filter_map(move |(i, (node, data))| {
            let (value, data) = (graph.value(node.output?), data.as_ref()?);
            let name = format!("{step}{i:05}/{}#0:{}", value.name, node.op.kind());
            Some((name, value.cols, data.as_slice()))
        })
    })
}

/// Step, name and op of `[STEP/]INDEX/NAME#N:OP`.
fn parse(tensor: &str) -> Option<(usize, &str, &str)> {
    let mut parts = tensor.rsplitn(3, '/');
    let (label, index, step) = (parts.next()?, parts.next()?, parts.next());
    index.parse::<usize>().ok()?;
    let step = step.map_or(Some(0), |step| step.parse().ok())?;
    let (label, op) = label.rsplit_once(':')?;
    let (name, nth) = label.rsplit_once('#')?;
    nth.parse::<usize>().ok()?;
    Some((step, name, op))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(parse("00003/Qcur-0#0:MUL_MAT"), Some((0, "Qcur-0", "MUL_MAT")));
        assert_eq!(parse("00002/00003/Qcur-0#1:ROPE"), Some((2, "Qcur-0", "ROPE")));
        for bad in ["Qcur-0#0:MUL_MAT", "1/Qcur-0:MUL_MAT", "x/1/a#0:B", "1/a#b:C", ""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_have_other_names_in_other_models() {
        assert_eq!(other_names("ffn_inp-12").collect::<Vec<_>>(), ["sa_out-12"]);
        assert_eq!(other_names("inp_scaled").collect::<Vec<_>>(), ["embd"]);
        assert_eq!(other_names("Vcur-3").count(), 0);
    }

    #[test]
    fn what_is_no_trace_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        assert_eq!(Trace::open(&path).unwrap_err().kind(), ErrorKind::Io);
        for bytes in [&b""[..], b"12345678", &[255; 64]] {
            std::fs::write(&path, bytes).unwrap();
            let error = Trace::open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Trace);
            assert!(error.to_string().contains("t.safetensors: no trace"), "{error}");
        }
        let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        safetensors::serialize_to_file([("what", view)], None, &path).unwrap();
        assert!(Trace::open(&path).unwrap_err().to_string().contains("\"what\""));
    }
}
