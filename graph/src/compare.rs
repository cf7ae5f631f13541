//! Comparing two runs of one graph, value by value: bits between our own backends, NMSE against strangers.

use crate::{Graph, Loaded, Node, Result, Step, Tap, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Which row of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    seq: u32,
    position: u32,
}

/// The rows of a value.
type Rows = BTreeMap<RowKey, Vec<f32>>;

/// Every row of every value of a run, by `name:OP`, sequence and position: however the run was cut into steps, the
/// rows are the same, and so must be their bits.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// By `name:OP`.
    of_values: BTreeMap<String, Rows>,
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
        self.of_values.values().map(Rows::len).sum()
    }

    /// Number of values recorded.
    pub fn values(&self) -> usize {
        self.of_values.values().flat_map(Rows::values).map(Vec::len).sum()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.of_values.values().all(Rows::is_empty)
    }

    /// Every row that was recorded, by key, sequence and position.
    pub fn rows(&self) -> Vec<RecordedRow<'_>> {
        let mut all = Vec::with_capacity(self.len());
        for (key, rows) in &self.of_values {
            all.extend(rows.iter().map(|(&RowKey { seq, position }, values)| RecordedRow {
                key,
                seq,
                position,
                values,
            }));
        }
        all
    }

    /// The first difference in the graph's order between this recording and `other`, bit by bit (NaN equals NaN).
    /// Rows that only one of them has are differences too.
    pub fn first_difference(&self, other: &Self, graph: &Graph) -> Option<Difference> {
        let order: HashMap<String, usize> =
            graph.nodes.iter().enumerate().map(|(i, n)| (graph.key(n), i)).collect();
        let mut keys: Vec<&String> = self.of_values.keys().chain(other.of_values.keys()).collect();
        keys.sort_by_key(|key| (order.get(*key), *key));
        keys.dedup();
        let none = Rows::new();
        keys.into_iter().find_map(|key| {
            let (left, right) = (self.of_values.get(key), other.of_values.get(key));
            first_of_value(key, left.unwrap_or(&none), right.unwrap_or(&none))
        })
    }
}

/// The first difference between the rows that two recordings have of the value `key`.
fn first_of_value(key: &str, left: &Rows, right: &Rows) -> Option<Difference> {
    let mut rows: Vec<RowKey> = left.keys().chain(right.keys()).copied().collect();
    rows.sort_unstable();
    rows.dedup();
    rows.into_iter().find_map(|row| {
        let difference = |col, values| {
            let RowKey { seq, position } = row;
            Some(Difference { key: key.to_owned(), seq, position, col, values })
        };
        match (left.get(&row), right.get(&row)) {
            (None, _) => difference(0, (None, Some(f32::NAN))),
            (_, None) => difference(0, (Some(f32::NAN), None)),
            (Some(left), Some(right)) => {
                let col = first_column(left, right)?;
                difference(col, (left.get(col).copied(), right.get(col).copied()))
            }
        }
    })
}

/// The first column in which two rows differ, their lengths included.
fn first_column(left: &[f32], right: &[f32]) -> Option<usize> {
    let unlike = left.iter().zip(right).position(|(&l, &r)| !same_bits(l, r));
    let shorter = left.len().min(right.len());
    unlike.or_else(|| (left.len() != right.len()).then_some(shorter))
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
        let Recording { of_values, step } = &mut *self.recording;
        let rows = of_values.entry(self.graph.key(node)).or_default();
        for (i, row) in data.chunks(value.cols).enumerate() {
            let token = step.token_of(value.rows, i);
            let key = RowKey { seq: step.seqs[token], position: step.positions[token] };
            rows.insert(key, row.to_vec());
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
