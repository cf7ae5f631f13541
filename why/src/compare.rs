//! Two sides over the same steps: what they compute, whether they compute it again, and what is to be said of each op.

use crate::capture::{capture, capture_alone, forced, greedy, likeliest, logits};
use crate::judge::judge;
use crate::{Capture, Measured, Report, Result, Side, Subject, Tolerance, Trace, Values, combine};
use graph::reference::Reference;
use graph::{Graph, Loaded, Step};
use std::time::Instant;

/// Runs of side B where more than one is wanted: the best of them is what watching costs.
const RUNS: usize = 4;
/// How the remark on a side begins whose fused ops give other logits than the observed ones.
const UNOBSERVED: &str = "fusion or race: unobserved, side B gives";

/// Where a side's values come from.
pub enum Source {
    /// A backend of ours that runs the steps.
    Live {
        /// As the report names it.
        name: String,
        /// The model on that backend.
        loaded: Box<dyn Loaded>,
    },
    /// A run that was recorded, by karat or another engine.
    Recorded {
        /// As the report names it.
        name: String,
        /// What was recorded.
        trace: Trace,
    },
}

impl Source {
    /// As the report names it.
    pub fn name(&self) -> &str {
        match self {
            Self::Live { name, .. } | Self::Recorded { name, .. } => name,
        }
    }

    /// The recorded run, if it is one.
    pub fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Live { .. } => None,
            Self::Recorded { trace, .. } => Some(trace),
        }
    }

    /// What is demanded of it: karat's own backends owe the reference's bits, nobody else does.
    pub fn tolerance(&self) -> Tolerance {
        match self {
            Self::Live { .. } => Tolerance::Bits,
            Self::Recorded { .. } => Tolerance::Rounding,
        }
    }

    fn values(&mut self, graph: &Graph, steps: &[Step]) -> Result<Values> {
        match self {
            Self::Live { loaded, .. } => capture(&mut **loaded, steps, None),
            Self::Recorded { trace, .. } => Ok(trace.values(graph, steps)),
        }
    }
}

/// The steps that both sides can do: the prompt, and up to `n_predict` tokens behind it, a step each. Which those are a
/// trace says; otherwise it is side A's own greedy choice.
///
/// # Errors
/// Where side A cannot run them.
pub fn common_steps(
    graph: &Graph,
    a: &mut Source,
    b: &Source,
    prompt: &[u32],
    n_predict: usize,
) -> Result<Vec<Step>> {
    if let Some(trace) = a.trace().or(b.trace()) {
        let behind = trace.tokens().and_then(|all| all.get(prompt.len()..)).unwrap_or(&[]);
        let n = behind.len().min(trace.n_steps().saturating_sub(1)).min(n_predict);
        return Ok(forced(graph, prompt, &behind[..n]));
    }
    match a {
        Source::Live { loaded, .. } => greedy(&mut **loaded, prompt, n_predict),
        Source::Recorded { .. } => Ok(forced(graph, prompt, &[])),
    }
}

/// How two sides are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thoroughness {
    /// Side A's values are put in after each op of side B, so that what is wrong behind the first fault is fed rightly.
    /// Only where side B is a backend.
    pub feed: bool,
    /// Every op of side B is computed once more by itself, on the inputs that it had in the stream.
    pub isolate: bool,
    /// Runs of side B whose bits are compared.
    pub runs: usize,
}

impl Default for Thoroughness {
    fn default() -> Self {
        Self { feed: false, isolate: false, runs: 2 }
    }
}

/// How far the judging of both sides has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Ops judged so far.
    pub done: usize,
    /// Ops to be judged in all.
    pub total: usize,
}

/// Compares two sides over some steps, the first of which is the prompt: every op of side B is judged by the reference,
/// on the inputs that it had there. `heard` is called after each op.
///
/// # Errors
/// Where a side or the reference cannot run the steps.
pub fn compare(
    subject: Subject<'_>,
    [a, b]: [&mut Source; 2],
    steps: &[Step],
    thoroughness: Thoroughness,
    heard: &mut dyn FnMut(Judged),
) -> Result<Report> {
    let graph = subject.graph;
    let mut remarks = Vec::new();
    let of_a = a.values(graph, steps)?;
    let feed = (thoroughness.feed && matches!(b, Source::Live { .. })).then_some(&of_a);
    let (of_b, capture) = match &mut *b {
        Source::Live { loaded, .. } => {
            let mut runs = Runs { graph, loaded: &mut **loaded, steps, feed, remarks };
            let seen = runs.all(thoroughness)?;
            remarks = runs.remarks;
            seen
        }
        Source::Recorded { trace, .. } => (trace.values(graph, steps), None),
    };
    let chosen = [of_a.ids(graph.n_vocab), of_b.ids(graph.n_vocab)];
    remarks.extend(sampled(a, "A", steps, &chosen[0]));
    remarks.extend(sampled(b, "B", steps, &chosen[1]));
    let alike = feed.is_none() && a.tolerance() == b.tolerance() && of_a == of_b;
    let ops = graph.nodes.iter().filter(|node| node.output.is_some()).count() * steps.len();
    let total = if alike { ops } else { 2 * ops };
    let side = |values, fed, source: &Source| {
        let tolerance = source.tolerance();
        Side { steps, values, fed, tolerance }
    };
    let measured_b = judge(&Reference, subject, side(&of_b, feed, b), &mut |done| {
        heard(Judged { done, total });
    })?;
    let measured_a = if alike {
        measured_b.clone()
    } else {
        judge(&Reference, subject, side(&of_a, None, a), &mut |done| {
            heard(Judged { done: ops + done, total });
        })?
    };
    Ok(report([a, b], steps, [&measured_a, &measured_b], chosen, Found { graph, capture, remarks }))
}

/// What a report holds besides the sides and their ops.
struct Found<'a> {
    graph: &'a Graph,
    capture: Option<Capture>,
    remarks: Vec<String>,
}

fn report(
    sides: [&Source; 2],
    steps: &[Step],
    [a, b]: [&[Measured]; 2],
    [chosen_a, chosen_b]: [Vec<Option<u32>>; 2],
    found: Found<'_>,
) -> Report {
    Report {
        sides: sides.map(|side| side.name().to_owned()),
        steps: steps.iter().map(|step| step.tokens.len()).collect(),
        rows: combine(found.graph, a, b),
        ids: chosen_a.into_iter().zip(chosen_b).map(|(a, b)| [a, b]).collect(),
        capture: found.capture,
        remarks: found.remarks,
    }
}

/// The runs of a backend that is side B.
struct Runs<'a> {
    graph: &'a Graph,
    loaded: &'a mut dyn Loaded,
    steps: &'a [Step],
    feed: Option<&'a Values>,
    remarks: Vec<String>,
}

impl Runs<'_> {
    /// The values of the backend, and whether it gives them again: with every value captured, each op alone, and
    /// unobserved.
    fn all(&mut self, thoroughness: Thoroughness) -> Result<(Values, Option<Capture>)> {
        let values = capture(self.loaded, self.steps, self.feed)?;
        let capture = self.again(&values, thoroughness.runs)?;
        if thoroughness.isolate {
            let alone = capture_alone(self.loaded, self.steps, &values)?;
            if let Some(key) = first_other(self.graph, &values, &alone) {
                self.remarks.push(format!(
                    "race or aliasing: alone, on the same inputs, side B differs at {key}"
                ));
            }
        }
        if self.feed.is_some() {
            return Ok((values, None));
        }
        if thoroughness.runs < 2 {
            self.unobserved(&values)?;
        }
        self.picked(&values)?;
        Ok((values, capture.plain.is_finite().then_some(capture)))
    }

    /// Runs the steps again, each time captured and unobserved: the seconds that both take.
    fn again(&mut self, values: &Values, runs: usize) -> Result<Capture> {
        // What is made ready at the first run is no cost of watching, and one run may be disturbed.
        let runs = if runs > 1 { runs.max(RUNS) } else { 1 };
        let mut seconds = Capture { watched: f64::INFINITY, plain: f64::INFINITY };
        for run in 2..=runs {
            let again = timed(|| capture(self.loaded, self.steps, self.feed))?;
            seconds.watched = seconds.watched.min(again.seconds);
            if let Some(key) = first_other(self.graph, values, &again.made) {
                self.remarks
                    .push(format!("race: run {run} of side B differs from the first at {key}"));
                break;
            }
            if self.feed.is_none() {
                seconds.plain = seconds.plain.min(self.unobserved(values)?);
            }
        }
        Ok(seconds)
    }

    /// Runs the steps as in production, and tells where that gives other logits; the seconds that it took.
    fn unobserved(&mut self, values: &Values) -> Result<f64> {
        let plain = timed(|| logits(self.loaded, self.steps))?;
        let seen = |step: usize| values.steps[step].last().and_then(Option::as_ref);
        let differs = |i: &usize| seen(*i).is_some_and(|seen| !same(seen, &plain.made[*i]));
        let said = |remark: &String| remark.starts_with(UNOBSERVED);
        if let Some(step) = (0..self.steps.len()).find(differs)
            && !self.remarks.iter().any(said)
        {
            self.remarks.push(format!("{UNOBSERVED} other logits in step {step} than observed"));
        }
        Ok(plain.seconds)
    }

    /// Whether the backend's own greedy decoding picks what its logits say.
    fn picked(&mut self, values: &Values) -> Result<()> {
        let (picked, chosen) =
            (likeliest(self.loaded, self.steps)?, values.ids(self.graph.n_vocab));
        let other = |i: &usize| chosen[*i].is_some() && chosen[*i] != picked[*i];
        if let Some(step) = (0..self.steps.len()).find(other) {
            let shown = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
            self.remarks.push(format!(
                "sampling: behind step {step} side B picks {}, its own logits say {}",
                shown(picked[step]),
                shown(chosen[step])
            ));
        }
        Ok(())
    }
}

/// Something, and how long it took to make.
struct Timed<T> {
    made: T,
    seconds: f64,
}

fn timed<T>(run: impl FnOnce() -> Result<T>) -> Result<Timed<T>> {
    let start = Instant::now();
    let made = run()?;
    Ok(Timed { made, seconds: start.elapsed().as_secs_f64() })
}

/// Where a trace did not go on with what its own logits say.
fn sampled(side: &Source, name: &str, steps: &[Step], chosen: &[Option<u32>]) -> Option<String> {
    let behind = side.trace()?.tokens()?.get(steps.first()?.tokens.len()..)?;
    behind.iter().zip(chosen).enumerate().find_map(|(step, (&went, &says))| {
        let says = says.filter(|&says| says != went)?;
        Some(format!(
            "sampling: behind step {step} side {name} went on with {went}, its own logits say {says}"
        ))
    })
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| graph::compare::same_bits(a, b))
}

/// The first value that two runs do not share.
fn first_other(graph: &Graph, one: &Values, other: &Values) -> Option<String> {
    for (s, (one, other)) in one.steps.iter().zip(&other.steps).enumerate() {
        for (i, pair) in one.iter().zip(other).enumerate() {
            if let (Some(one), Some(other)) = pair
                && !same(one, other)
            {
                return Some(format!("{} of step {s}", graph.key(&graph.nodes[i])));
            }
        }
    }
    None
}
