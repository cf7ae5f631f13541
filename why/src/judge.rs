//! Is a value right, given what the side itself fed the op? The reference runs over the side's values: after each op its
//! result is compared with the side's and replaced by it, so that every op is evaluated on the side's own inputs. Both
//! are held against the op in f64 too: where only the reference is far from that, it is the reference that is wrong.

use crate::bound::Exact;
use crate::capture::{blocks, makers};
use crate::exact::{self, Cache, Given, Place};
use crate::kind::{self, Kind, Scene, Sureness};
use crate::{Result, Tolerance, Values, Worst};
use graph::compare::same_bits;
use graph::{Backend, Blocks, CacheUse, Graph, LoadOptions, Node, Op, Route, Step, Tap, Value};
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
    /// All, but not the reference's: how that is wrong.
    ReferenceOff(Box<Wrong>),
    /// The side does not have the value.
    Unmeasured,
}

/// How a value is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wrong {
    /// Elements over their bound.
    pub elements: usize,
    /// Largest distance from what is right; infinite where one of both is no number.
    pub max_error: f64,
    /// Normalised mean squared error.
    pub nmse: f64,
    /// Elements that are NaN or infinite and should not be, or the other way round.
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

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, sureness, elements, max_error, nmse, .. } = self;
        write!(f, "{kind} ({sureness}), {elements} wrong, most {max_error:.3e}, NMSE {nmse:.1e}")
    }
}

/// One op of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Index of the step.
    pub step: usize,
    /// Index of the node.
    pub node: usize,
    /// Elements of its value; all were looked at, or none.
    pub elements: usize,
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

/// A model as it was loaded: what a side was to compute.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// What is computed.
    pub graph: &'a Arc<Graph>,
    /// The model's files.
    pub files: &'a [&'a gguf::File],
    /// With which arithmetic and cache.
    pub options: LoadOptions,
}

/// Judges every op of a side on the inputs that it had. `oracle` is what is right: the reference, or a backend that has
/// been shown to give its bits. `heard` is called with the ops judged so far.
///
/// # Errors
/// Where the oracle cannot run the steps.
pub fn judge(
    oracle: &dyn Backend,
    subject: Subject<'_>,
    side: Side<'_>,
    heard: &mut dyn FnMut(usize),
) -> Result<Vec<Measured>> {
    let Subject { graph, files, options } = subject;
    let mut loaded = oracle.load(Arc::clone(graph), files, options, &mut |_| {})?;
    let Side { steps, values, fed, tolerance } = side;
    let mut kv = loaded.new_kv(&Blocks::Each(blocks(steps)))?;
    let mut bench = Bench {
        subject,
        tolerance,
        makers: makers(graph),
        step: &Step::default(),
        at: 0,
        found: &[],
        fed: None,
        heard,
        current: vec![Vec::new(); graph.values.len()],
        cache: Cache::new(graph, blocks(steps)),
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
    subject: Subject<'a>,
    tolerance: Tolerance,
    makers: Vec<usize>,
    step: &'a Step,
    at: usize,
    found: &'a [Option<Vec<f32>>],
    fed: Option<&'a [Option<Vec<f32>>]>,
    heard: &'a mut dyn FnMut(usize),
    /// The side's values of this step, and of the step before where they are not yet made.
    current: Vec<Vec<f32>>,
    /// The side's keys and values of all steps.
    cache: Cache,
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
        // The oracle may run another graph, if it is wrong.
        let node = &self.subject.graph.nodes[index];
        self.remember(node);
        let here = match self.found.get(index).and_then(Option::as_ref) {
            Some(found) if found.len() == data.len() => {
                let here = self.compare(node, value, data, found);
                let next = self.fed.and_then(|fed| fed.get(index)).and_then(Option::as_ref);
                data.copy_from_slice(
                    next.filter(|next| next.len() == found.len()).unwrap_or(found),
                );
                here
            }
            // What only moves rows or columns has nothing to be wrong by itself where others do not name it.
            Some(_) | None if moves(&node.op) => Here::Right,
            Some(_) | None => Here::Unmeasured,
        };
        self.current[v.0] = data.to_vec();
        (self.heard)(self.measured.len() + 1);
        self.measured.push(Measured { step: self.at, node: index, elements: data.len(), here });
    }
}

impl Bench<'_> {
    /// Before attention the keys and values of this step, which its store has put into the cache; before a convolution the
    /// rows of this step.
    fn remember(&mut self, node: &Node) {
        if let Op::SsmConv { cache, .. } = node.op {
            let group = self.subject.graph.state(cache).group;
            self.cache.add_rows(cache, group, self.step, &self.current[node.inputs[0].0]);
        }
        let Op::Attention(a) = node.op else { return };
        let stores = |node: &&Node| node.op.cache() == Some((a.cache, CacheUse::Writes));
        let store = self.subject.graph.nodes.iter().find(stores);
        for (which, v) in store.into_iter().flat_map(|node| &node.inputs).enumerate() {
            let group = self.subject.graph.kv(a.cache).group;
            let at = Place { cache: a.cache, group, which };
            self.cache.store(at, self.step, self.subject.options.kv, &self.current[v.0]);
        }
    }

    fn compare(&mut self, node: &Node, value: &Value, reference: &[f32], found: &[f32]) -> Here {
        let inputs: Vec<&[f32]> =
            node.inputs.iter().map(|v| self.current[v.0].as_slice()).collect();
        let given = Given {
            node,
            inputs: &inputs,
            step: self.step,
            cache: &self.cache,
            tolerance: self.tolerance,
        };
        let exact = match exact::evaluate(self.subject, &given) {
            Ok(exact) => exact,
            Err(error) => {
                self.failed.get_or_insert(error);
                return Here::Unmeasured;
            }
        };
        let scene = Scene {
            graph: self.subject.graph,
            files: self.subject.files,
            node,
            step: self.step,
            inputs,
            right: reference,
            found,
            cols: value.cols.max(1),
            others: &self.current,
            before: node.output.map(|v| self.current[v.0].as_slice()),
            cache: &self.cache,
        };
        verdict(&scene, &exact, self.tolerance)
    }
}

/// Who is right: the side, the reference, both or neither.
fn verdict(scene: &Scene<'_>, exact: &Exact, tolerance: Tolerance) -> Here {
    let (reference, found) = (scene.right, scene.found);
    let near = exact.allows_all(found);
    if !exact.allows_all(reference) {
        let right = exact.rounded();
        let scene = |found| Scene { right: &right, found, ..scene.clone() };
        return if near {
            Here::ReferenceOff(Box::new(explained(&scene(reference), exact, Tolerance::Rounding)))
        } else {
            Here::Wrong(Box::new(explained(&scene(found), exact, Tolerance::Rounding)))
        };
    }
    let right = match tolerance {
        Tolerance::Bits => reference.iter().zip(found).all(|(&r, &f)| same_bits(r, f)),
        Tolerance::Rounding => near,
    };
    if right {
        return Here::Right;
    }
    let mut wrong = explained(scene, exact, tolerance);
    if near && wrong.sureness != Sureness::Certain {
        (wrong.kind, wrong.sureness) = (Kind::Rounding, Sureness::Certain);
    }
    Here::Wrong(Box::new(wrong))
}

/// Distances of all elements from the right ones of a scene, and what they look like.
fn explained(scene: &Scene<'_>, exact: &Exact, tolerance: Tolerance) -> Wrong {
    let Scene { right, found, cols, .. } = *scene;
    // What is within its bound is no part of the fault's shape.
    let shown: Vec<f32> = match tolerance {
        Tolerance::Bits => right.to_vec(),
        Tolerance::Rounding => {
            let or = |(i, &right): (usize, &f32)| {
                if exact.allows(i, found[i]) { found[i] } else { right }
            };
            right.iter().enumerate().map(or).collect()
        }
    };
    let (kind, sureness) = kind::explain(&Scene { right: &shown, ..scene.clone() });
    let mut wrong = Wrong {
        elements: 0,
        max_error: 0.0,
        nmse: graph::compare::nmse(found, right),
        not_finite: 0,
        worst: Vec::new(),
        histogram: vec![0; 19],
        kind,
        sureness,
    };
    let mut all: Vec<(f64, usize)> = Vec::new();
    for (i, (&r, &f)) in right.iter().zip(found).enumerate() {
        let error = match tolerance {
            Tolerance::Bits if same_bits(r, f) => 0.0,
            Tolerance::Bits if r.is_finite() && f.is_finite() => {
                (f64::from(r) - f64::from(f)).abs()
            }
            Tolerance::Bits => f64::INFINITY,
            Tolerance::Rounding => exact.error(i, f),
        };
        wrong.not_finite += usize::from(r.is_finite() != f.is_finite());
        let bucket = if error == 0.0 { -9.0 } else { error.log10().floor().clamp(-9.0, 9.0) };
        wrong.histogram[(bucket + 9.0) as usize] += 1;
        let within = match tolerance {
            Tolerance::Bits => same_bits(r, f),
            Tolerance::Rounding => exact.allows(i, f),
        };
        if !within {
            wrong.elements += 1;
            wrong.max_error = wrong.max_error.max(error);
            all.push((error, i));
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst = |&(_, i): &(f64, usize)| Worst {
        row: i / cols,
        col: i % cols,
        found: format!("{:e}", found[i]),
        right: format!("{:e}", right[i]),
        exact: format!("{:.9e}", exact.value[i]),
        bound: format!("{:.1e}", exact.bound[i]),
    };
    wrong.worst = all.iter().take(WORST).map(worst).collect();
    wrong
}
/// Whether an op computes nothing: it says where numbers stand.
fn moves(op: &Op) -> bool {
    let of_heads = matches!(op, Op::HeadColumns { .. } | Op::Route(Route::Each));
    of_heads || matches!(op, Op::OutputRows | Op::Columns { .. })
}
