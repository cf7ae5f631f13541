//! The verdicts of a comparison as plain data, and what follows from what.

use crate::{Here, Measured, Wrong};
use graph::{CacheUse, Graph};
use serde::Serialize;

/// What is to be said of one op of side B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Verdict {
    /// Right on right inputs.
    Right,
    /// Right inputs or wrong ones: the op itself is wrong.
    WrongHere,
    /// Right for what it was given, which an earlier fault has touched.
    Propagated,
    /// Side A or karat's reference is wrong here, and B is not.
    ReferenceOff,
    /// There is no value to look at; never counted as right.
    Unmeasured,
}

impl Verdict {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Right => "RIGHT",
            Self::WrongHere => "WRONG-HERE",
            Self::Propagated => "PROPAGATED",
            Self::ReferenceOff => "REFERENCE-OFF",
            Self::Unmeasured => "UNMEASURED",
        }
    }
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Worst {
    /// Row of the value: token or output.
    pub row: usize,
    /// Column.
    pub col: usize,
    /// The side's value. Numbers are text with all their digits: JSON has no NaN.
    pub found: String,
    /// What the op gives on the side's own inputs.
    pub right: String,
    /// The same in f64.
    pub exact: String,
    /// How far from that a right value in f32 may be.
    pub bound: String,
}

/// One op of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Index of the step; 0 is the prompt.
    pub step: usize,
    /// Index of the node.
    pub node: usize,
    /// Number of the layer, where the name has one.
    pub layer: Option<u32>,
    /// llama.cpp's name of the value.
    pub name: String,
    /// ggml's name of the op.
    pub op: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// Elements of the value.
    pub elements: usize,
    /// Elements looked at: all or none.
    pub checked: usize,
    /// How it is wrong; of REFERENCE-OFF how side A or the reference is.
    pub wrong: Option<Wrong>,
}

/// A whole comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Names of the two sides.
    pub sides: [String; 2],
    /// Tokens of each step.
    pub steps: Vec<usize>,
    /// All ops, in the order in which they ran.
    pub rows: Vec<Row>,
    /// For each step the likeliest id of side A's logits and of side B's.
    pub ids: Vec<[Option<u32>; 2]>,
    /// What watching side B costs.
    pub capture: Option<Capture>,
    /// What else was found: a run that differs from itself, or from an unobserved one.
    pub remarks: Vec<String>,
}

/// The same steps with every value captured, and as in production.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Capture {
    /// Seconds with all values, the best of some runs.
    pub watched: f64,
    /// Seconds without.
    pub plain: f64,
}

impl Report {
    /// Whether every op is right and nothing else was found.
    pub fn all_right(&self) -> bool {
        self.remarks.is_empty() && self.rows.iter().all(|row| row.verdict == Verdict::Right)
    }

    /// How many rows have a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }

    /// Elements looked at, and all there are.
    pub fn checked(&self) -> (usize, usize) {
        let sum = |of: fn(&Row) -> usize| self.rows.iter().map(of).sum();
        (sum(|row| row.checked), sum(|row| row.elements))
    }

    /// The rows to blame, in order.
    pub fn faults(&self) -> impl Iterator<Item = &Row> {
        let blamed = |row: &&Row| matches!(row.verdict, Verdict::WrongHere | Verdict::ReferenceOff);
        self.rows.iter().filter(blamed)
    }

    /// What is wrong, in one line; `None` where all is right.
    pub fn summary(&self) -> Option<String> {
        if self.all_right() {
            return None;
        }
        Some(match (self.faults().next(), self.remarks.first()) {
            (Some(row), _) => format!(
                "{} of {} ops wrong, the first {}:{} in step {}",
                self.faults().count(),
                self.rows.len(),
                row.name,
                row.op,
                row.step
            ),
            (None, Some(remark)) => remark.clone(),
            (None, None) => format!("{} values unmeasured", self.count(Verdict::Unmeasured)),
        })
    }
}

/// The verdicts on B, from what was measured of both sides; A's may be empty.
pub fn combine(graph: &Graph, a: &[Measured], b: &[Measured]) -> Vec<Row> {
    let mut tainted = vec![false; graph.values.len()];
    let mut caches = vec![false; graph.caches.len()];
    let mut rows = Vec::with_capacity(b.len());
    let mut found = b.iter().peekable();
    let last = b.last().map_or(0, |m| m.step);
    for step in 0..=last {
        tainted.fill(false);
        for (index, node) in graph.nodes.iter().enumerate() {
            let mut touched = node.inputs.iter().any(|v| tainted[v.0]);
            match node.op.cache() {
                Some((id, CacheUse::Writes)) => caches[id.0] |= touched,
                Some((id, CacheUse::Reads)) => touched |= caches[id.0],
                Some((id, CacheUse::Updates)) => {
                    touched |= caches[id.0];
                    caches[id.0] = touched;
                }
                None => {}
            }
            let Some(v) = node.output else { continue };
            let Some(b) = found.next_if(|m| (m.step, m.node) == (step, index)) else { continue };
            let of_a = a.iter().find(|m| (m.step, m.node) == (step, index));
            let (verdict, wrong) = match (&b.here, of_a.map(|m| &m.here)) {
                (Here::Unmeasured, _) => (Verdict::Unmeasured, None),
                (Here::Wrong(wrong), _) => (Verdict::WrongHere, Some(wrong)),
                (Here::ReferenceOff(wrong), _) | (Here::Right, Some(Here::Wrong(wrong))) => {
                    (Verdict::ReferenceOff, Some(wrong))
                }
                (Here::Right, _) if touched => (Verdict::Propagated, None),
                (Here::Right, _) => (Verdict::Right, None),
            };
            tainted[v.0] = touched || verdict == Verdict::WrongHere;
            let value = graph.value(v);
            rows.push(Row {
                step,
                node: index,
                layer: value.name.rsplit_once('-').and_then(|(_, n)| n.parse().ok()),
                name: value.name.clone(),
                op: node.op.kind(),
                verdict,
                elements: b.elements,
                checked: if matches!(b.here, Here::Unmeasured) { 0 } else { b.elements },
                wrong: wrong.map(|wrong| (**wrong).clone()),
            });
        }
    }
    rows
}
