//! Runs the tests of one model: fills contexts, warms up, repeats, times.

use super::limit::{Probe, Shown};
use super::ops::{Measured, Ops};
use super::plan::{Kind, Test};
use super::progress::Progress;
use super::stats::Spread;
use crate::exit::{Code, failure};
use crate::interrupt::Answering;
use anyhow::Result;
use graph::{Limits, LoadOptions, NoTap, Timing, Traffic};
use karat::Model;
use model::{Engine, SeqId, Wanted, Work};
use std::ops::ControlFlow;
use std::time::Instant;
use tokenizer::{Ends, Special};

/// What is read in the benchmark; repeated to the wanted length.
pub(super) const TEXT: &str =
    "The sky is blue because air scatters short waves of light more than long ones. ";

/// The runs of one test.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Outcome {
    /// `pp512`, `tg128 x4 @ d2048`.
    pub(super) name: String,
    /// Tokens of the prompt, or 0.
    pub(super) n_prompt: usize,
    /// Tokens generated for each sequence, or 0.
    pub(super) n_gen: usize,
    /// Positions that were there before.
    pub(super) n_depth: usize,
    /// Sequences at the same time.
    pub(super) batch: usize,
    /// Tokens a second of each run, of all sequences together.
    pub(super) per_second: Vec<f64>,
    /// Of those.
    #[serde(flatten)]
    pub(super) spread: Spread,
    /// How near the fastest of as many runs again, timed op by op, came to the limit that binds it, if that was asked
    /// for.
    pub(super) of_limit: Option<f64>,
    /// Where the time of that run went.
    pub(super) ops: Option<Ops>,
}

/// One model under test.
pub(super) struct Bench<'a> {
    pub(super) model: &'a Model,
    /// Its engine, for as long as the tests run.
    pub(super) engine: &'a mut Engine,
    pub(super) load: LoadOptions,
    pub(super) repetitions: usize,
    /// Set where the time of ops is wanted.
    pub(super) probe: Option<Probe>,
    pub(super) interrupt: &'a Answering,
}

/// One run.
struct Run {
    seconds: f64,
    timings: Vec<Timing>,
    traffic: Option<Traffic>,
}

/// Whether a run shall be timed node by node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timed {
    Whole,
    ByNode,
}

impl Bench<'_> {
    /// The outcomes; those until Ctrl-C was pressed, if it was.
    pub(super) fn run(&mut self, tests: &[Test]) -> Result<Vec<Outcome>> {
        let rounds = if self.probe.is_some() { 2 } else { 1 };
        let runs = self.repetitions.saturating_mul(rounds).saturating_add(1);
        let mut progress = Progress::new(tests.len().saturating_mul(runs));
        let ids = self.ids()?;
        let batch = tests.iter().map(Test::batch).max().unwrap_or(1);
        let seqs: Vec<SeqId> = (0..batch).map(|_| self.engine.add()).collect();
        let mut outcomes = Vec::new();
        for test in tests {
            let mut sequences = Sequences { ids: &ids, seqs: &seqs[..test.batch()] };
            match self.test(test, &mut sequences, &mut progress)? {
                Some(outcome) => outcomes.push(outcome),
                None => break,
            }
        }
        for &seq in &seqs {
            self.engine.remove(seq)?;
        }
        Ok(outcomes)
    }

    /// Real text, to be read again and again.
    fn ids(&self) -> Result<Vec<u32>> {
        let ids = self.model.tokenizer().encode(TEXT, Special::AsText, Ends::None)?;
        if ids.is_empty() {
            return Err(failure(Code::Rejected, "the tokenizer makes no tokens of a sentence"));
        }
        Ok(ids)
    }

    fn test(
        &mut self,
        test: &Test,
        sequences: &mut Sequences<'_>,
        progress: &mut Progress,
    ) -> Result<Option<Outcome>> {
        let name = test.name();
        // Before the warm-up, which fills the caches again.
        let limits = match &mut self.probe {
            Some(probe) => {
                progress.say(format!("{name}, the machine's limits"));
                Some(match self.engine.limits()? {
                    Some(limits) => {
                        (limits, Shown::new(self.model.info().backend.clone(), &limits))
                    }
                    None => {
                        let limits = probe.measure()?;
                        (limits, probe.shown(&limits))
                    }
                })
            }
            None => None,
        };
        progress.say(format!("{name}, warming up"));
        let Some(_) = self.once(test, sequences, Timed::Whole, progress)? else { return Ok(None) };
        progress.step();
        let mut per_second = Vec::new();
        for i in 0..self.repetitions {
            progress.say(format!("{name}, run {} of {}", i + 1, self.repetitions));
            let Some(run) = self.once(test, sequences, Timed::Whole, progress)? else {
                return Ok(None);
            };
            per_second.push(test.tokens() as f64 / run.seconds);
            progress.step();
        }
        let mut ops = None;
        if let Some((limits, shown)) = limits {
            let Some(run) = self.best_by_node(test, sequences, progress)? else { return Ok(None) };
            if run.timings.is_empty() {
                let what = format!("--ops: {} has no timestamps", self.model.info().backend);
                return Err(failure(Code::Device, what));
            }
            ops = Some(self.taken_apart(test, &run, &limits, shown));
        }
        let (n_prompt, n_gen) = match test.kind {
            Kind::Prompt(n) => (n, 0),
            Kind::Generate { tokens, .. } => (0, tokens),
        };
        Ok(Some(Outcome {
            name,
            n_prompt,
            n_gen,
            n_depth: test.depth,
            batch: test.batch(),
            spread: Spread::of(&per_second),
            per_second,
            of_limit: ops.as_ref().map(Ops::of_limit),
            ops,
        }))
    }

    /// Where the time of a run went.
    fn taken_apart(&self, test: &Test, run: &Run, limits: &Limits, shown: Shown) -> Ops {
        let Run { seconds: wall, ref timings, traffic } = *run;
        let shapes = test.shapes(self.engine.options().n_batch);
        let measured = Measured { shapes: &shapes, timings, traffic, wall };
        Ops::new(self.engine.graph(), self.load, &measured, limits, shown)
    }

    /// The fastest of as many runs again, timed node by node: the limits are the best of several measurements too.
    fn best_by_node(
        &mut self,
        test: &Test,
        sequences: &mut Sequences<'_>,
        progress: &mut Progress,
    ) -> Result<Option<Run>> {
        let mut best: Option<Run> = None;
        for i in 0..self.repetitions {
            progress.say(format!("{}, by ops, run {} of {}", test.name(), i + 1, self.repetitions));
            let Some(run) = self.once(test, sequences, Timed::ByNode, progress)? else {
                return Ok(None);
            };
            best = best.filter(|best| best.seconds <= run.seconds).or(Some(run));
            progress.step();
        }
        Ok(best)
    }

    /// One run after the context is there; `None` where Ctrl-C was pressed.
    fn once(
        &mut self,
        test: &Test,
        sequences: &mut Sequences<'_>,
        timed: Timed,
        progress: &mut Progress,
    ) -> Result<Option<Run>> {
        for &seq in sequences.seqs {
            if self.fill(seq, test.depth, sequences.ids, progress)?.is_break() {
                return Ok(None);
            }
        }
        if timed == Timed::ByNode {
            self.engine.profile(true);
        }
        let start = Instant::now();
        let done = match test.kind {
            Kind::Prompt(n) => self.prefill(sequences, n, progress)?,
            Kind::Generate { tokens, .. } => self.generate(sequences, tokens, progress)?,
        };
        let seconds = start.elapsed().as_secs_f64();
        let engine = &mut *self.engine;
        let (timings, traffic) = (engine.timings(), engine.traffic());
        engine.profile(false);
        Ok(done.is_continue().then_some(Run { seconds, timings, traffic }))
    }

    /// Brings a sequence to `depth` positions; what is there already is kept.
    fn fill(
        &mut self,
        seq: SeqId,
        depth: usize,
        ids: &[u32],
        progress: &mut Progress,
    ) -> Result<ControlFlow<()>> {
        let engine = &mut *self.engine;
        let len = engine.truncate(seq, depth)?;
        if len < depth {
            let context: Vec<u32> = ids.iter().copied().cycle().take(depth - len).collect();
            engine.prefill(seq, &context, &mut |n| {
                progress.within("context", len + n, depth);
                flow(self.interrupt)
            })?;
        }
        Ok(flow(self.interrupt))
    }

    fn prefill(
        &mut self,
        sequences: &Sequences<'_>,
        n: usize,
        progress: &mut Progress,
    ) -> Result<ControlFlow<()>> {
        let prompt: Vec<u32> = sequences.ids.iter().copied().cycle().take(n).collect();
        for &seq in sequences.seqs {
            self.engine.prefill(seq, &prompt, &mut |done| {
                progress.within("token", done, n);
                flow(self.interrupt)
            })?;
        }
        Ok(flow(self.interrupt))
    }

    /// The tokens are those of the text, as llama-bench takes any: what is measured is the model, not the sampler.
    fn generate(
        &mut self,
        sequences: &Sequences<'_>,
        tokens: usize,
        progress: &mut Progress,
    ) -> Result<ControlFlow<()>> {
        let ids = sequences.ids;
        for i in 0..tokens {
            // Sequences read different tokens.
            let next: Vec<[u32; 1]> =
                (0..sequences.seqs.len()).map(|s| [ids[(i + s) % ids.len()]]).collect();
            let work: Vec<Work<'_>> = sequences
                .seqs
                .iter()
                .zip(&next)
                .map(|(&seq, tokens)| Work { seq, tokens, wanted: Wanted::Last })
                .collect();
            self.engine.step(&work, &mut NoTap)?;
            progress.within("token", i, tokens);
            if self.interrupt.stopped() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The sequences of a test, and what they read.
struct Sequences<'a> {
    ids: &'a [u32],
    seqs: &'a [SeqId],
}

fn flow(interrupt: &Answering) -> ControlFlow<()> {
    if interrupt.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
