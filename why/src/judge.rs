//! Is a value right, given what the side itself fed the op? The reference runs over the side's values: after each op its
//! result is compared with the side's and replaced by it, so that every op is evaluated on the side's own inputs.

use crate::bound::Bounds;
use crate::capture::{blocks, makers};
use crate::kind::{self, Kind, Scene, Sureness};
use crate::{Result, Tolerance, Values, Worst};
use graph::compare::same_bits;
use graph::{Backend, Graph, LoadOptions, Node, Op, Step, Tap, Value};
use serde::Serialize;
use std::sync::Arc;

/// Worst elements that are kept of a wrong value.
const WORST: usize = 8;

/// What was found of one op of one side.
#[derive(Clone, Debug, PartialEq)]
pub enum Here {
    /// All elements within the bound.
    Right,
    /// Not all.
    Wrong(Box<Wrong>),
    /// The side does not have the value.
    Unmeasured,
}

/// How a value is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wrong {
    /// Elements over their bound.
    pub elements: usize,
    /// Largest distance from the reference; infinite where one of both is no number.
    pub max_error: f64,
    /// Normalised mean squared error.
    pub nmse: f64,
    /// Elements that are NaN or infinite here and not in the reference, or the other way round.
    pub not_finite: usize,
    /// The worst elements.
    pub worst: Vec<Worst>,
    /// Elements by the power of ten of their error, from 1e-9 to 1e9; the first holds the smaller ones too.
    pub histogram: Vec<usize>,
    /// What sort of fault it is.
    pub kind: Kind,
    /// How sure that is.
    pub sureness: Sureness,
}

/// One op of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Index of the step.
    pub step: usize,
    /// Index of the node.
    pub node: usize,
    /// What was found.
    pub here: Here,
}

/// What is judged: a side's values over some steps.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The steps, from an empty cache on.
    pub steps: &'a [Step],
    /// What the side computed.
    pub values: &'a Values,
    /// What its ops were given, where that was not its own values: [`crate::capture()`]'s `feed`.
    pub fed: Option<&'a Values>,
    /// What is demanded.
    pub tolerance: Tolerance,
}

/// Judges every op of a side on the inputs that it had. `oracle` is what is right: the reference, or a backend that has
/// been shown to give its bits. `heard` is called with the ops judged so far.
///
/// # Errors
/// Where the oracle cannot run the steps.
pub fn judge(
    oracle: &dyn Backend,
    (graph, file, options): (&Arc<Graph>, &gguf::File, LoadOptions),
    side: Side<'_>,
    heard: &mut dyn FnMut(usize),
) -> Result<Vec<Measured>> {
    let mut loaded = oracle.load(Arc::clone(graph), file, options, &mut |_| {})?;
    let Side { steps, values, fed, tolerance } = side;
    let mut kv = loaded.new_kv(blocks(steps))?;
    let mut bench = Bench {
        graph,
        file,
        tolerance,
        bounds: Bounds::new(graph, file, options),
        makers: makers(graph),
        step: &Step::default(),
        at: 0,
        found: &[],
        fed: None,
        heard,
        current: vec![Vec::new(); graph.values.len()],
        past: vec![Default::default(); graph.kv_layers.len()],
        measured: Vec::new(),
        failed: None,
    };
    for (at, step) in steps.iter().enumerate() {
        bench.step = step;
        bench.at = at;
        bench.found = values.steps.get(at).map_or(&[], Vec::as_slice);
        bench.fed = fed.and_then(|fed| fed.steps.get(at)).map(Vec::as_slice);
        loaded.run(step, &mut kv, &mut bench)?;
    }
    match bench.failed {
        Some(error) => Err(error.into()),
        None => Ok(bench.measured),
    }
}

struct Bench<'a> {
    graph: &'a Graph,
    file: &'a gguf::File,
    tolerance: Tolerance,
    bounds: Bounds<'a>,
    makers: Vec<usize>,
    step: &'a Step,
    at: usize,
    found: &'a [Option<Vec<f32>>],
    fed: Option<&'a [Option<Vec<f32>>]>,
    heard: &'a mut dyn FnMut(usize),
    /// The side's values of this step, and of the step before where they are not yet made.
    current: Vec<Vec<f32>>,
    /// For each layer the side's keys and values of all steps, position after position.
    past: Vec<[Vec<f32>; 2]>,
    measured: Vec<Measured>,
    failed: Option<graph::Error>,
}

impl Tap for Bench<'_> {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        true
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        let Some(v) = node.output else { return };
        let index = self.makers[v.0];
        self.remember(node);
        let here = match self.found.get(index).and_then(Option::as_ref) {
            Some(found) if found.len() == data.len() => {
                let here = self.compare((node, v.0), value, (data, found));
                let next = self.fed.and_then(|fed| fed.get(index)).and_then(Option::as_ref);
                data.copy_from_slice(
                    next.filter(|next| next.len() == found.len()).unwrap_or(found),
                );
                here
            }
            // What only moves rows or columns has nothing to be wrong by itself where others do not name it.
            Some(_) | None if matches!(node.op, Op::OutputRows | Op::Columns { .. }) => Here::Right,
            Some(_) | None => Here::Unmeasured,
        };
        self.current[v.0] = data.to_vec();
        (self.heard)(self.measured.len() + 1);
        self.measured.push(Measured { step: self.at, node: index, here });
    }
}

impl Bench<'_> {
    /// Before attention: the keys and values of this step, which its store has put into the cache.
    fn remember(&mut self, node: &Node) {
        let Op::Attention(a) = node.op else { return };
        let store = self
            .graph
            .nodes
            .iter()
            .find(|node| matches!(node.op, Op::StoreKv { kv_layer } if kv_layer == a.kv_layer));
        if let Some([k, v]) = store.map(|node| node.inputs.as_slice()) {
            let (k, v) = (self.current[k.0].clone(), self.current[v.0].clone());
            self.past[a.kv_layer][0].extend(k);
            self.past[a.kv_layer][1].extend(v);
        }
    }

    fn compare(
        &mut self,
        (node, v): (&Node, usize),
        value: &Value,
        (right, found): (&[f32], &[f32]),
    ) -> Here {
        let inputs: Vec<&[f32]> =
            node.inputs.iter().map(|v| self.current[v.0].as_slice()).collect();
        let bounds = match self.tolerance {
            Tolerance::Bits if right.iter().zip(found).all(|(&r, &f)| same_bits(r, f)) => {
                return Here::Right;
            }
            Tolerance::Bits => None,
            Tolerance::Rounding => match self.bounds.of(node, (&inputs, self.step), right) {
                Ok(bounds) => Some(bounds),
                Err(error) => {
                    self.failed.get_or_insert(error);
                    return Here::Unmeasured;
                }
            },
        };
        let Some(mut wrong) = errors(value.cols, (right, found), bounds.as_deref()) else {
            return Here::Right;
        };
        let scene = Scene {
            graph: self.graph,
            file: self.file,
            node,
            step: self.step,
            inputs,
            right,
            found,
            cols: value.cols.max(1),
            others: &self.current,
            before: Some(&self.current[v]),
            past: if let Op::Attention(a) = node.op { Some(&self.past[a.kv_layer]) } else { None },
        };
        (wrong.kind, wrong.sureness) = kind::explain(&scene);
        Here::Wrong(Box::new(wrong))
    }
}

/// Distances of all elements; `None` if all are within their bound.
fn errors(cols: usize, (right, found): (&[f32], &[f32]), bounds: Option<&[f32]>) -> Option<Wrong> {
    let mut wrong = Wrong {
        elements: 0,
        max_error: 0.0,
        nmse: graph::compare::nmse(found, right),
        not_finite: 0,
        worst: Vec::new(),
        histogram: vec![0; 19],
        kind: Kind::Unknown,
        sureness: Sureness::Guess,
    };
    let mut all: Vec<(f64, usize)> = Vec::new();
    for (i, (&r, &f)) in right.iter().zip(found).enumerate() {
        let parity = r.is_finite() == f.is_finite();
        let error = if same_bits(r, f) {
            0.0
        } else if r.is_finite() && f.is_finite() {
            (f64::from(r) - f64::from(f)).abs()
        } else {
            f64::INFINITY
        };
        wrong.not_finite += usize::from(!parity);
        let bucket = if error == 0.0 { -9.0 } else { error.log10().floor().clamp(-9.0, 9.0) };
        wrong.histogram[(bucket + 9.0) as usize] += 1;
        let within = match bounds {
            None => same_bits(r, f),
            Some(bounds) => error <= f64::from(bounds.get(i).copied().unwrap_or(0.0)),
        };
        if !within {
            wrong.elements += 1;
            wrong.max_error = wrong.max_error.max(error);
            all.push((error, i));
        }
    }
    if wrong.elements == 0 {
        return None;
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst = |&(_, i): &(f64, usize)| Worst {
        row: i / cols.max(1),
        col: i % cols.max(1),
        found: shown(found[i]),
        right: shown(right[i]),
    };
    wrong.worst = all.iter().take(WORST).map(worst).collect();
    Some(wrong)
}

/// With all digits; JSON has no NaN.
fn shown(x: f32) -> String {
    format!("{x:e}")
}
