//! Comparing two runs of one graph, value by value: bits between our own backends, NMSE against strangers.

use crate::{Graph, Loaded, Node, Result, Step, Tap, Value};
use std::collections::HashMap;
use std::fmt;

/// Which row of a run: of which value (`name:OP`), sequence and position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RowKey {
    value: String,
    seq: u32,
    position: u32,
}

/// Every row of every value of a run, by `name:OP`, sequence and position: however the run was cut into steps, the
/// rows are the same, and so must be their bits.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    rows: HashMap<RowKey, Vec<f32>>,
    step: Step,
}

impl Recording {
    /// Runs one step and records it. `seq_names` gives the sequence's identity for each table of the step, so that
    /// steps that hold different subsets of sequences record the same keys.
    pub fn run(
        &mut self,
        loaded: &mut dyn Loaded,
        kv: &mut crate::Kv,
        step: &Step,
        seq_names: &[u32],
    ) -> Result<Vec<f32>> {
        self.step = step.clone();
        for s in &mut self.step.seqs {
            *s = seq_names[*s as usize];
        }
        let graph = std::sync::Arc::clone(loaded.graph());
        loaded.run(step, kv, &mut RecordingTap { graph: &graph, recording: self })
    }

    /// Number of rows recorded.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Number of values recorded.
    pub fn values(&self) -> usize {
        self.rows.values().map(Vec::len).sum()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every row that was recorded, by key, sequence and position.
    pub fn rows(&self) -> Vec<RecordedRow<'_>> {
        let rows = self.rows.iter().map(|(key, values)| RecordedRow {
            key: &key.value,
            seq: key.seq,
            position: key.position,
            values,
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| (row.key, row.seq, row.position));
        rows
    }

    /// The first difference in the graph's order between this recording and `other`, bit by bit (NaN equals NaN).
    /// Rows that only one of them has are differences too.
    pub fn first_difference(&self, other: &Self, graph: &Graph) -> Option<Difference> {
        let order: HashMap<String, usize> =
            graph.nodes.iter().enumerate().map(|(i, n)| (graph.key(n), i)).collect();
        let mut keys: Vec<_> = self.rows.keys().chain(other.rows.keys()).collect();
        keys.sort_by_key(|key| (order.get(&key.value).copied(), key.seq, key.position));
        keys.dedup();
        for key in keys {
            let (left, right) = (self.rows.get(key), other.rows.get(key));
            let (Some(left), Some(right)) = (left, right) else {
                return Some(Difference::missing(key, left.is_none()));
            };
            if let Some(col) =
                (0..left.len().max(right.len())).find(|&i| match (left.get(i), right.get(i)) {
                    (Some(&l), Some(&r)) => !same_bits(l, r),
                    _ => true,
                })
            {
                let values = (left.get(col).copied(), right.get(col).copied());
                return Some(Difference {
                    key: key.value.clone(),
                    seq: key.seq,
                    position: key.position,
                    col,
                    values,
                });
            }
        }
        None
    }
}

/// A row of a [`Recording`].
#[derive(Clone, Copy, Debug)]
pub struct RecordedRow<'a> {
    /// `name:OP`
    pub key: &'a str,
    /// Sequence.
    pub seq: u32,
    /// Position in the sequence.
    pub position: u32,
    /// One for each column.
    pub values: &'a [f32],
}

struct RecordingTap<'a> {
    graph: &'a Graph,
    recording: &'a mut Recording,
}

impl Tap for RecordingTap<'_> {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        true
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        let step = &self.recording.step;
        for (i, row) in data.chunks(value.cols).enumerate() {
            let token = step.token_of(value.rows, i);
            let key = RowKey {
                value: self.graph.key(node),
                seq: step.seqs[token],
                position: step.positions[token],
            };
            self.recording.rows.insert(key, row.to_vec());
        }
    }

    fn watches(&self) -> bool {
        true
    }
}

/// Where two recordings part.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `name:OP`
    pub key: String,
    /// Sequence.
    pub seq: u32,
    /// Position in the sequence.
    pub position: u32,
    /// Column.
    pub col: usize,
    /// Left and right value, where there is one.
    pub values: (Option<f32>, Option<f32>),
}

impl Difference {
    fn missing(key: &RowKey, left: bool) -> Self {
        let values = if left { (None, Some(f32::NAN)) } else { (Some(f32::NAN), None) };
        let RowKey { value, seq, position } = key.clone();
        Self { key: value, seq, position, col: 0, values }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, seq, position, col, values } = self;
        write!(f, "{key} seq {seq} pos {position} col {col}: ")?;
        match values {
            (Some(l), Some(r)) => {
                write!(f, "{l:e} ({:08x}) and {r:e} ({:08x})", l.to_bits(), r.to_bits())
            }
            (None, _) => write!(f, "only on the right"),
            (_, None) => write!(f, "only on the left"),
        }
    }
}

/// Bit equality; all NaN are one.
pub fn same_bits(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// `Σ (a - b)² / Σ b²` in f64, ggml's normalised mean squared error; NaN anywhere gives NaN, 0/0 gives 0.
pub fn nmse(ours: &[f32], theirs: &[f32]) -> f64 {
    let (mut err, mut norm) = (0.0f64, 0.0f64);
    for (&a, &b) in ours.iter().zip(theirs) {
        err += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(b).powi(2);
    }
    if err == 0.0 { 0.0 } else { err / norm }
}
