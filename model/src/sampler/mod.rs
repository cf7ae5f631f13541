//! From logits to a token id: llama.cpp's samplers, one after the other, and a draw.
//!
//! The same seed gives the same ids on every platform: sums and `exp` are in f64 by `libm`, in a fixed order; ties go
//! to the lowest id; the generator is ChaCha with 8 rounds, seeded by `seed_from_u64`, one `u64` for each draw, and one more
//! before it where XTC throws its coin.

mod adaptive;
mod candidates;
mod constraint;
mod cut;
mod dry;
#[cfg(test)]
mod golden;
mod mirostat;
mod params;
mod penalties;
mod probabilities;
mod settings;
mod temperature;

pub use constraint::{Allowed, Constraint, NoEnd};
pub use dry::Breaker;
pub use params::{
    Adaptive, Dry, DynamicTemperature, LogitBias, Mirostat, MirostatVersion, SamplerKind,
    SamplerParams, Xtc,
};
pub use probabilities::{LogSoftmax, Probabilities, ProbabilitiesOf, Probable, Told};
pub use settings::{Of, SETTINGS, Setting, SettingValue};

use crate::{Error, ErrorKind, Result};
use candidates::{Candidate, Candidates, max_logit, softmax};
use graph::Best;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, VecDeque};

/// Draws token ids for one sequence.
pub struct Sampler {
    params: SamplerParams,
    rng: ChaCha8Rng,
    /// The newest last; as many as a sampler looks back.
    recent: VecDeque<u32>,
    /// What is added to logits: −∞ for what is never taken.
    biases: BTreeMap<u32, f64>,
    breakers: Vec<Breaker>,
    mirostat: mirostat::Mirostat,
    adaptive: adaptive::Adaptive,
    constraint: Option<Box<dyn Constraint>>,
    wanted: Option<Probabilities>,
    told: Option<Told>,
}

/// The candidates that are left, and the one that was drawn.
struct Draw {
    list: Vec<Candidate>,
    at: usize,
}

impl Sampler {
    /// A sampler with an empty history; settings out of range are refused by name.
    pub fn new(params: SamplerParams) -> Result<Self> {
        params.check()?;
        let mut biases = BTreeMap::new();
        for LogitBias { id, bias } in &params.logit_bias {
            *biases.entry(*id).or_default() += f64::from(*bias);
        }
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(params.seed),
            recent: VecDeque::new(),
            biases,
            breakers: Vec::new(),
            mirostat: mirostat::Mirostat::new(params.mirostat),
            adaptive: adaptive::Adaptive::new(params.adaptive),
            constraint: None,
            wanted: None,
            told: None,
            params,
        })
    }

    /// The same sampler, which never takes these ids.
    #[must_use]
    pub fn without(mut self, ids: &[u32]) -> Self {
        self.biases.extend(ids.iter().map(|&id| (id, f64::NEG_INFINITY)));
        self
    }

    /// The same sampler, whose DRY goes across none of these: [`Dry::breakers`] in a vocabulary's tokens.
    #[must_use]
    pub fn with_breakers(mut self, breakers: Vec<Breaker>) -> Self {
        self.breakers = breakers;
        self
    }

    /// Only takes tokens that `constraint` allows; `None` allows all.
    pub fn constrain(&mut self, constraint: Option<Box<dyn Constraint>>) {
        self.constraint = constraint;
    }

    /// Takes the constraint out, to put it into another sampler.
    pub fn take_constraint(&mut self) -> Option<Box<dyn Constraint>> {
        self.constraint.take()
    }

    /// Whether the constraint has the text whole: nothing may come next but its end.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(|constraint| constraint.is_complete())
    }

    /// Tokens that make the text whole for the constraint, if it is to be closed where it comes to its length.
    ///
    /// # Errors
    /// No short end is found.
    pub fn closing(&mut self) -> std::result::Result<Vec<u32>, NoEnd> {
        // These are not chosen: there is nothing to tell of them.
        self.told = None;
        self.constraint.as_mut().map_or(Ok(Vec::new()), |constraint| constraint.closing())
    }

    /// Has the probabilities of each choice told, by [`Sampler::told`].
    #[must_use]
    pub fn telling(mut self, wanted: Option<Probabilities>) -> Self {
        self.tell(wanted);
        self
    }

    /// As [`Sampler::telling`], from the next choice on.
    pub fn tell(&mut self, wanted: Option<Probabilities>) {
        self.wanted = wanted;
        self.told = None;
    }

    /// The settings.
    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// Which probabilities are told.
    pub fn tells(&self) -> Option<Probabilities> {
        self.wanted
    }

    /// The probabilities of the last choice, where [`Sampler::telling`] asked for them.
    pub fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    /// A text begins behind this prompt: its tokens count for the penalties, what Mirostat and adaptive-p have learnt is
    /// forgotten, and a constraint begins anew. The generator goes on.
    pub fn begin(&mut self, prompt: &[u32]) {
        self.recent.clear();
        self.mirostat = mirostat::Mirostat::new(self.params.mirostat);
        self.adaptive = adaptive::Adaptive::new(self.params.adaptive);
        self.told = None;
        if let Some(constraint) = &mut self.constraint {
            constraint.begin();
        }
        prompt.iter().for_each(|&id| self.remember(id));
    }

    /// The text goes on with this token.
    pub fn accept(&mut self, id: u32) {
        self.adaptive.accept(id);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id);
        }
        self.remember(id);
    }

    /// Keeps what the penalties look back at.
    fn remember(&mut self, id: u32) {
        let penalties = if self.params.has_penalties() { self.params.penalty_last_n } else { 0 };
        let dry = if self.params.has_dry() { self.params.dry.last_n } else { 0 };
        let looks_back = penalties.max(dry);
        if looks_back == 0 {
            return;
        }
        self.recent.push_back(id);
        if self.recent.len() > looks_back {
            self.recent.pop_front();
        }
    }

    /// Whether the argmax of the logits is all that is needed: temperature 0, and nothing that changes which one that is, leaves
    /// an id out, or has probabilities told.
    pub fn is_argmax(&self) -> bool {
        let all = self.biases.is_empty() && self.constraint.is_none();
        self.params.takes_argmax() && all && self.wanted.is_none()
    }

    /// The id for the logits at `position`. A logit of −∞ is never taken. NaN, +∞, and −∞ for all are an error that names
    /// the position.
    pub fn sample(&mut self, logits: &[f32], position: usize) -> Result<u32> {
        let best = valid_best(logits, position)?;
        if self.is_argmax() {
            return Ok(best);
        }
        let allowed = match &mut self.constraint {
            Some(constraint) => Some(constraint.allowed().map_err(|error| {
                let what = format!("grammar: {error}, at token {position}");
                Error::new(ErrorKind::BadRequest, what)
            })?),
            None => None,
        };
        // Either might leave no token.
        let is_limited = allowed.is_some() || !self.biases.is_empty();
        let mut candidates = Candidates::among(logits, allowed);
        candidates.change(&self.biases, |logit, bias| logit + bias);
        if is_limited && candidates.is_hopeless() {
            return Err(nothing_left(position));
        }
        let Draw { list, at } = match self.params.mirostat.version {
            MirostatVersion::Off => self.by_sequence(candidates),
            MirostatVersion::V1 | MirostatVersion::V2 => self.by_mirostat(candidates, logits.len()),
        };
        let id = list[at].id;
        self.told = self.wanted.map(|wanted| Told::of(wanted, logits, &list, id));
        Ok(id)
    }

    /// The samplers in their order, and a draw from what they leave.
    fn by_sequence(&mut self, mut candidates: Candidates<'_>) -> Draw {
        let params = &self.params;
        for kind in &params.sequence {
            match kind {
                SamplerKind::Penalties if params.has_penalties() => {
                    let newest_first = self.recent.iter().rev().copied();
                    penalties::penalize(&mut candidates, newest_first, params);
                }
                SamplerKind::Dry if params.has_dry() => {
                    let text = self.recent.make_contiguous();
                    dry::penalize(&mut candidates, text, &params.dry, &self.breakers);
                }
                SamplerKind::TopK if params.top_k > 0 => candidates.keep_top(params.top_k),
                SamplerKind::TopNSigma if params.top_n_sigma > 0.0 => {
                    cut::top_n_sigma(candidates.list(), f64::from(params.top_n_sigma));
                }
                SamplerKind::TypicalP if params.typical_p < 1.0 => {
                    cut::typical_p(candidates.list(), f64::from(params.typical_p));
                }
                SamplerKind::TopP => cut::top_p(candidates.list(), f64::from(params.top_p)),
                SamplerKind::MinP => cut::min_p(candidates.list(), f64::from(params.min_p)),
                SamplerKind::Xtc if params.has_xtc() => {
                    if unit(&mut self.rng) <= f64::from(params.xtc.probability) {
                        cut::xtc(candidates.list(), f64::from(params.xtc.threshold));
                    }
                }
                SamplerKind::Temperature => heat(candidates.list(), params),
                // Off, or at the end.
                SamplerKind::Penalties
                | SamplerKind::Dry
                | SamplerKind::TopK
                | SamplerKind::TopNSigma
                | SamplerKind::TypicalP
                | SamplerKind::Xtc
                | SamplerKind::AdaptiveP => {}
            }
        }
        if self.params.asks(SamplerKind::AdaptiveP) {
            return self.by_adaptive(candidates.into_list());
        }
        let list = candidates.into_list();
        let at = draw(&list, unit(&mut self.rng));
        Draw { list, at }
    }

    fn by_adaptive(&mut self, mut list: Vec<Candidate>) -> Draw {
        let p = self.adaptive.aim(&mut list);
        let at = draw(&list, unit(&mut self.rng));
        self.adaptive.draw(list[at].id, p[at]);
        Draw { list, at }
    }

    /// The temperature, and Mirostat's draw.
    fn by_mirostat(&mut self, mut candidates: Candidates<'_>, n_vocab: usize) -> Draw {
        temperature::temperature(candidates.list(), f64::from(self.params.temperature));
        let mut list = candidates.into_list();
        self.mirostat.cut(&mut list, n_vocab);
        let at = draw(&list, unit(&mut self.rng));
        self.mirostat.observe(softmax(&list)[at]);
        Draw { list, at }
    }
}

/// The temperature, which follows the entropy where a range is set.
fn heat(candidates: &mut Vec<Candidate>, params: &SamplerParams) {
    let middle = f64::from(params.temperature);
    if params.dynamic_temperature.range > 0.0 {
        temperature::dynamic_temperature(candidates, middle, params.dynamic_temperature);
    } else {
        temperature::temperature(candidates, middle);
    }
}

/// 53 random bits: uniform in [0, 1).
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The most likely id; of equals the lowest. 0 for no logits.
pub fn argmax(logits: &[f32]) -> u32 {
    Best::of(logits).id
}

/// The likeliest id; refused where no id can be taken, naming the position in the sequence.
fn valid_best(logits: &[f32], position: usize) -> Result<u32> {
    if logits.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("no logits at token {position}")));
    }
    checked_best(Best::of(logits), position)
}

fn nothing_left(position: usize) -> Error {
    let what = format!("no token can follow token {position}: the logits of all ids are -inf");
    Error::new(ErrorKind::NonFinite, what)
}

/// The likeliest id; refused where a logit is NaN or +∞, or all are −∞, naming the position in the sequence.
pub(crate) fn checked_best(best: Best, position: usize) -> Result<u32> {
    match best.invalid {
        Some((_, f32::NEG_INFINITY)) => Err(nothing_left(position)),
        Some((id, logit)) => {
            let what = format!(
                "model produced non-finite logits at token {position}: the logit of id {id} is {logit}; hint: the file's \
                 weights may hold NaN, or a value overflowed (try an f32 KV cache)"
            );
            Err(Error::new(ErrorKind::NonFinite, what))
        }
        None => Ok(best.id),
    }
}

/// The place of the candidate at `unit` (in 0..1) of the cumulative distribution `softmax(logit)`.
fn draw(candidates: &[Candidate], unit: f64) -> usize {
    let max = max_logit(candidates);
    let weight = |c: &Candidate| libm::exp(c.logit - max);
    let total: f64 = candidates.iter().map(weight).sum();
    let mut left = unit * total;
    for (at, c) in candidates.iter().enumerate() {
        left -= weight(c);
        if left < 0.0 {
            return at;
        }
    }
    // The sum was rounded, so that `left` may stay just above 0: then the last candidate with a weight is drawn.
    candidates.iter().rposition(|c| weight(c) > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::candidates::tests::list;
    use super::*;

    /// Everything off but the temperature.
    fn open() -> SamplerParams {
        SamplerParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..SamplerParams::default()
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, 2.0], 0).unwrap(), 1);
        assert_eq!(sampler.sample(&[-1.0], 0).unwrap(), 0);
    }

    #[test]
    fn penalties_forget_after_last_n() {
        let params =
            SamplerParams { presence_penalty: 10.0, penalty_last_n: 2, ..SamplerParams::greedy() };
        let mut sampler = Sampler::new(params).unwrap();
        for id in [0, 1, 1] {
            sampler.accept(id);
        }
        // Only 1 is recent: 0 wins again although it was accepted.
        assert_eq!(sampler.sample(&[5.0, 9.0, 4.0], 0).unwrap(), 0);
        sampler.begin(&[]);
        assert_eq!(sampler.sample(&[5.0, 9.0, 4.0], 0).unwrap(), 1);
    }

    /// Allows the ids below a bound that grows with the text, and is whole at three tokens.
    struct Growing {
        n: usize,
        begun: usize,
    }

    impl Constraint for Growing {
        fn begin(&mut self) {
            (self.n, self.begun) = (0, self.begun + 1);
        }

        fn allowed(&mut self) -> std::result::Result<Allowed, String> {
            let ids = (1u32 << (self.n + 1)) - 1;
            if self.n < 5 { Ok(Allowed::from_words(vec![ids], 8)) } else { Err("too long".into()) }
        }

        fn accept(&mut self, _: u32) {
            self.n += 1;
        }

        fn is_complete(&self) -> bool {
            self.n >= 3
        }

        fn closing(&mut self) -> std::result::Result<Vec<u32>, NoEnd> {
            Ok(vec![7; 3 - self.n])
        }
    }

    #[test]
    fn a_constraint_is_asked_for_each_token_and_told_of_it() {
        let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
        assert!(sampler.is_argmax() && !sampler.is_complete());
        assert_eq!(sampler.closing(), Ok(Vec::new()));
        sampler.constrain(Some(Box::new(Growing { n: 9, begun: 0 })));
        assert!(!sampler.is_argmax() && sampler.is_complete());
        let rising = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        for _ in 0..2 {
            sampler.begin(&[6, 6]);
            for wanted in 0..3 {
                assert!(!sampler.is_complete());
                assert_eq!(sampler.closing(), Ok(vec![7; 3 - wanted as usize]));
                assert_eq!(sampler.sample(&rising, 0).unwrap(), wanted);
                sampler.accept(wanted);
            }
            assert!(sampler.is_complete());
        }
        // Nothing that is allowed can be drawn, and nothing is allowed any more.
        let off = f32::NEG_INFINITY;
        sampler.begin(&[]);
        let error = sampler.sample(&[off, 1.0, 1.0], 4).unwrap_err();
        assert!(error.to_string().contains("token 4: the logits of all ids are -inf"), "{error}");
        (0..5).for_each(|id| sampler.accept(id));
        let error = sampler.sample(&rising, 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest);
        assert!(error.to_string().contains("too long, at token 9"), "{error}");
        assert!(sampler.take_constraint().is_some() && sampler.take_constraint().is_none());
        assert_eq!(sampler.sample(&rising, 0).unwrap(), 7);
    }

    #[test]
    fn what_is_told_is_asked_for_and_of_the_last_choice() {
        let params = SamplerParams { seed: 3, ..SamplerParams::greedy() };
        let mut sampler = Sampler::new(params.clone()).unwrap();
        sampler.sample(&[1.0, 2.0], 0).unwrap();
        assert_eq!((sampler.params(), sampler.tells(), sampler.told()), (&params, None, None));
        let wanted = Some(Probabilities { of: ProbabilitiesOf::Model, best: 1 });
        let mut sampler = sampler.telling(wanted);
        assert!(!sampler.is_argmax() && sampler.told().is_none());
        sampler.sample(&[1.0, 2.0], 0).unwrap();
        assert_eq!((sampler.tells(), sampler.told().unwrap().chosen.id), (wanted, 1));
        sampler.begin(&[]);
        assert!(sampler.told().is_none());
    }

    #[test]
    fn draw_walks_the_cumulative_distribution() {
        let candidates = list(&[0.1f64, 0.2, 0.3, 0.4].map(f64::ln));
        for (unit, wanted) in
            [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.2999, 1), (0.3001, 2), (0.6001, 3), (0.9999, 3)]
        {
            assert_eq!(draw(&candidates, unit), wanted, "{unit}");
        }
    }

    /// Pins the generator and the arithmetic: a change here changes every user's text for a given seed.
    #[test]
    fn same_seed_same_ids() {
        let run = |seed| {
            let mut sampler = Sampler::new(SamplerParams { seed, ..open() }).unwrap();
            (0..12).map(|i| sampler.sample(&[0.0, 0.5, 1.0, 1.5], i).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(42), run(42));
        assert_ne!(run(42), run(43));
        expect_test::expect!["[3, 3, 2, 3, 2, 1, 2, 3, 3, 1, 2, 3]"]
            .assert_eq(&format!("{:?}", run(42)));
    }

    #[test]
    fn tiny_temperature_is_greedy_and_large_is_flat() {
        let mut cold = Sampler::new(SamplerParams { temperature: 1e-30, ..open() }).unwrap();
        let mut hot = Sampler::new(SamplerParams { temperature: 1000.0, ..open() }).unwrap();
        let mut counts = [0; 2];
        for i in 0..1000 {
            assert_eq!(cold.sample(&[1.0, 1.001], i).unwrap(), 1);
            counts[hot.sample(&[1.0, 1.001], i).unwrap() as usize] += 1;
        }
        assert!(counts[0] > 400 && counts[1] > 400, "{counts:?}");
    }

    /// Masked rows of `output.bias` are so, and suppressed ids become so.
    #[test]
    fn ids_with_a_logit_of_minus_infinity_are_never_taken() {
        let off = f32::NEG_INFINITY;
        let penalties = SamplerParams { repeat_penalty: 1.5, presence_penalty: 1.0, ..open() };
        let all = [SamplerParams::greedy(), SamplerParams::default(), open(), penalties];
        for params in all {
            let mut sampler = Sampler::new(params.clone()).unwrap();
            sampler.accept(2);
            let mut without = Sampler::new(params).unwrap().without(&[0, 2, 9]);
            for i in 0..200 {
                assert_eq!(sampler.sample(&[off, -5.0, off, off], i).unwrap(), 1);
                assert_eq!(without.sample(&[9.0, -5.0, 8.0, off], i).unwrap(), 1);
            }
            let error = sampler.sample(&[off; 3], 17).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NonFinite);
            assert!(error.to_string().contains("token 17: the logits of all ids are -inf"));
            assert!(without.sample(&[1.0, off, 1.0], 17).is_err());
            assert!(without.sample(&[f32::NAN, 1.0], 17).is_err());
        }
    }

    /// RELIABILITY row 108.
    #[test]
    fn row_108_non_finite_logits_name_the_token() {
        for bad in [f32::NAN, f32::INFINITY] {
            for params in [SamplerParams::greedy(), SamplerParams::default(), open()] {
                let error = Sampler::new(params).unwrap().sample(&[0.0, 1.0, bad], 17).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NonFinite);
                let text = error.to_string();
                assert!(text.contains("at token 17: the logit of id 2 is"), "{text}");
            }
        }
        assert_eq!(
            Sampler::new(open()).unwrap().sample(&[], 3).unwrap_err().kind(),
            ErrorKind::Usage
        );
    }

    #[test]
    fn extreme_but_finite_logits_do_not_overflow() {
        let params = SamplerParams { repeat_penalty: 100.0, ..SamplerParams::default() };
        let mut sampler = Sampler::new(params).unwrap();
        sampler.accept(0);
        sampler.accept(1);
        assert_eq!(sampler.sample(&[f32::MIN, f32::MAX, f32::MIN], 0).unwrap(), 1);
    }
}
