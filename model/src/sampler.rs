//! From logits to a token id: penalties, top-k, top-p, min-p, temperature, a draw; in llama.cpp's order.
//!
//! The same seed gives the same ids on every platform: sums and `exp` are in f64 by `libm`, in a fixed order; ties go
//! to the lowest id; the generator is ChaCha with 8 rounds, seeded by `seed_from_u64`, one `u64` for each draw.

use crate::{Error, ErrorKind, Result};
use graph::Best;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

/// Candidates that top-p sorts first; most distributions need no more.
const FIRST_SORT: usize = 256;

/// Settings, with llama.cpp's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerParams {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the `k` most likely; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely whose probabilities reach `p` together; 1 keeps all.
    pub top_p: f32,
    /// Keeps those at least `p` times as likely as the most likely; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from the logit of a recent token for each time that it occurred; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of a recent token; 0 is off.
    pub presence_penalty: f32,
    /// How many tokens are recent; 0 switches the penalties off.
    pub penalty_last_n: usize,
    /// Seeds the generator: the same seed draws the same ids.
    pub seed: u64,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplerParams {
    /// Takes the most likely token every time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Refuses settings out of range by name; NaN is in no range.
    pub fn check(&self) -> Result<()> {
        let ranges: [(&str, f32, RangeInclusive<f32>); 6] = [
            ("temperature", self.temperature, 0.0..=1000.0),
            ("top_p", self.top_p, 0.0..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01..=100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0..=100.0),
            ("presence_penalty", self.presence_penalty, -100.0..=100.0),
        ];
        for (name, x, allowed) in ranges {
            if !allowed.contains(&x) {
                let what = format!("{name}: {x}, allowed {}..={}", allowed.start(), allowed.end());
                return Err(Error::new(ErrorKind::BadRequest, what));
            }
        }
        Ok(())
    }

    fn has_penalties(&self) -> bool {
        let on = self.repeat_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0;
        on && self.penalty_last_n > 0
    }
}

/// A token that may still be drawn. Its logit is f64, so that no setting in range overflows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f64,
}

/// Most likely first, ties by id: a total order, so that sorting cannot panic.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Draws token ids for one sequence.
pub struct Sampler {
    params: SamplerParams,
    rng: ChaCha8Rng,
    recent: VecDeque<u32>,
    suppressed: Vec<u32>,
}

impl Sampler {
    /// A sampler with an empty history; settings out of range are refused by name.
    pub fn new(params: SamplerParams) -> Result<Self> {
        params.check()?;
        let rng = ChaCha8Rng::seed_from_u64(params.seed);
        Ok(Self { params, rng, recent: VecDeque::new(), suppressed: Vec::new() })
    }

    /// The same sampler, which never takes these ids.
    #[must_use]
    pub fn without(mut self, ids: &[u32]) -> Self {
        self.suppressed = ids.to_vec();
        self
    }

    /// The settings.
    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// Tells the sampler of a token of the text, prompt included; the penalties count it.
    pub fn accept(&mut self, id: u32) {
        if !self.params.has_penalties() {
            return;
        }
        self.recent.push_back(id);
        if self.recent.len() > self.params.penalty_last_n {
            self.recent.pop_front();
        }
    }

    /// Forgets the accepted tokens; the generator goes on.
    pub fn forget(&mut self) {
        self.recent.clear();
    }

    /// Whether the argmax of the logits is all that is needed: temperature 0, no penalties, no id that is left out.
    pub fn is_argmax(&self) -> bool {
        let greedy = self.params.temperature == 0.0 && !self.params.has_penalties();
        greedy && self.suppressed.is_empty()
    }

    /// The id for the logits at `position`. A logit of −∞ is never taken. NaN, +∞, and −∞ for all are an error that names
    /// the position.
    pub fn sample(&mut self, logits: &[f32], position: usize) -> Result<u32> {
        let best = valid_best(logits, position)?;
        if self.is_argmax() {
            return Ok(best);
        }
        if self.suppressed.is_empty() {
            return Ok(self.draw(logits));
        }
        let mut left = logits.to_vec();
        for &id in &self.suppressed {
            if let Some(logit) = left.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        valid_best(&left, position)?;
        Ok(self.draw(&left))
    }

    /// The id for logits that were looked at.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let greedy = self.params.temperature == 0.0;
        let penalized = self.penalized(logits);
        if greedy {
            return top_k(logits, &penalized, 1).first().map_or(0, |best| best.id);
        }
        let mut candidates = top_k(logits, &penalized, self.params.top_k);
        top_p(&mut candidates, f64::from(self.params.top_p));
        min_p(&mut candidates, f64::from(self.params.min_p));
        // 53 random bits: uniform in [0, 1).
        let unit = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        draw(&candidates, f64::from(self.params.temperature), unit)
    }

    /// The recent tokens' new logits, by id.
    ///
    /// The paper that introduced the repeat penalty (CTRL, arXiv 1909.05858) only divides, which makes a token with a
    /// negative logit likelier; all engines multiply there.
    fn penalized(&self, logits: &[f32]) -> Vec<Candidate> {
        if !self.params.has_penalties() {
            return Vec::new();
        }
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for &id in &self.recent {
            *counts.entry(id).or_default() += 1;
        }
        let repeat = f64::from(self.params.repeat_penalty);
        let penalize = |(id, count): (u32, u32)| {
            // An accepted id may lie beyond the logits.
            let logit = f64::from(*logits.get(id as usize)?);
            let logit = if logit <= 0.0 { logit * repeat } else { logit / repeat };
            let frequency = f64::from(count) * f64::from(self.params.frequency_penalty);
            Some(Candidate {
                id,
                logit: logit - (frequency + f64::from(self.params.presence_penalty)),
            })
        };
        counts.into_iter().filter_map(penalize).collect()
    }
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

/// The likeliest id; refused where a logit is NaN or +∞, or all are −∞, naming the position in the sequence.
pub(crate) fn checked_best(best: Best, position: usize) -> Result<u32> {
    match best.invalid {
        Some((_, f32::NEG_INFINITY)) => {
            let what =
                format!("no token can follow token {position}: the logits of all ids are -inf");
            Err(Error::new(ErrorKind::NonFinite, what))
        }
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

/// All tokens in the order of their ids, with the penalised ones' new logits.
fn all<'a>(logits: &'a [f32], penalized: &'a [Candidate]) -> impl Iterator<Item = Candidate> + 'a {
    let mut changed = penalized.iter().peekable();
    (0u32..).zip(logits).map(move |(id, &logit)| match changed.next_if(|c| c.id == id) {
        Some(new) => *new,
        None => Candidate { id, logit: f64::from(logit) },
    })
}

/// The `k` likeliest, sorted; all in the order of their ids where `k` is 0.
///
/// One pass that keeps at most `2 k + 64` candidates: to copy a whole vocabulary and select from it would cost a tenth
/// of a small model's step.
fn top_k(logits: &[f32], penalized: &[Candidate], k: usize) -> Vec<Candidate> {
    if k == 0 {
        return all(logits, penalized).collect();
    }
    let k = k.min(logits.len());
    let most = 2 * k + 64;
    let mut best: Vec<Candidate> = Vec::with_capacity(most.min(logits.len()));
    let mut floor = f64::NEG_INFINITY;
    for candidate in all(logits, penalized) {
        // An equal of the k-th comes after it: its id is higher.
        if candidate.logit <= floor {
            continue;
        }
        best.push(candidate);
        if best.len() == most {
            sort_head(&mut best, k);
            best.truncate(k);
            floor = best[k - 1].logit;
        }
    }
    best.sort_unstable_by(likelier);
    best.truncate(k);
    best
}

/// Keeps the fewest likeliest whose probabilities sum to at least `p`, sorted.
fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 || candidates.is_empty() {
        return;
    }
    let max = max_logit(candidates);
    let total: f64 = candidates.iter().map(|c| libm::exp(c.logit - max)).sum();
    let mut sorted = 0;
    let mut sum = 0.0;
    for i in 0..candidates.len() {
        if i == sorted {
            // Sorting a whole vocabulary costs more than all the rest; the head usually suffices.
            let more = if sorted == 0 { FIRST_SORT } else { candidates.len() };
            sort_head(&mut candidates[sorted..], more);
            sorted = sorted.saturating_add(more).min(candidates.len());
        }
        sum += libm::exp(candidates[i].logit - max) / total;
        if sum >= p {
            candidates.truncate(i + 1);
            return;
        }
    }
}

/// Moves the `n` likeliest to the front, sorted.
fn sort_head(candidates: &mut [Candidate], n: usize) {
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, likelier);
        candidates[..n].sort_unstable_by(likelier);
    } else {
        candidates.sort_unstable_by(likelier);
    }
}

/// Keeps those with at least `p` times the likeliest's probability: `logit ≥ max + ln p`.
fn min_p(candidates: &mut Vec<Candidate>, p: f64) {
    if p <= 0.0 {
        return;
    }
    let least = max_logit(candidates) + libm::log(p);
    candidates.retain(|c| c.logit >= least);
}

fn max_logit(candidates: &[Candidate]) -> f64 {
    candidates.iter().fold(f64::NEG_INFINITY, |max, c| max.max(c.logit))
}

/// The candidate at `unit` (in 0..1) of the cumulative distribution `softmax(logit / temperature)`.
fn draw(candidates: &[Candidate], temperature: f64, unit: f64) -> u32 {
    let max = max_logit(candidates);
    let weight = |c: &Candidate| libm::exp((c.logit - max) / temperature);
    let total: f64 = candidates.iter().map(weight).sum();
    let mut left = unit * total;
    for c in candidates {
        left -= weight(c);
        if left < 0.0 {
            return c.id;
        }
    }
    // The sum was rounded, so that `left` may stay just above 0: then the last candidate with a weight is drawn.
    candidates.iter().rev().find(|c| weight(c) > 0.0).map_or(0, |c| c.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(logits: &[f64]) -> Vec<Candidate> {
        logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }).collect()
    }

    fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.id).collect()
    }

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
    fn top_k_keeps_k_and_breaks_ties_by_id() {
        for (k, wanted) in
            [(0, vec![0, 1, 2, 3]), (1, vec![1]), (3, vec![1, 3, 0]), (9, vec![1, 3, 0, 2])]
        {
            assert_eq!(ids(&top_k(&[2.0, 5.0, 2.0, 4.0], &[], k)), wanted, "k {k}");
        }
    }

    /// The pass that remembers few gives what sorting everything gives, ties and penalties included.
    #[test]
    fn top_k_is_the_head_of_the_sorted_list() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for round in 0..200 {
            let n = 1 + (rng.next_u32() % 2000) as usize;
            let levels = 1 + rng.next_u32() % 500;
            let logits: Vec<f32> = (0..n).map(|_| (rng.next_u32() % levels) as f32).collect();
            let penalized: Vec<Candidate> = (0..n as u32)
                .filter(|_| rng.next_u32().is_multiple_of(10))
                .map(|id| Candidate { id, logit: f64::from(id % 7) })
                .collect();
            let mut sorted: Vec<Candidate> = all(&logits, &penalized).collect();
            assert_eq!(ids(&sorted), (0..n as u32).collect::<Vec<_>>());
            assert!(penalized.iter().all(|p| sorted[p.id as usize] == *p));
            sorted.sort_by(likelier);
            for k in [1, 2, 40, n.div_ceil(2), n, n + 1] {
                assert_eq!(
                    top_k(&logits, &penalized, k),
                    sorted[..k.min(n)],
                    "round {round} n {n} k {k}"
                );
            }
        }
    }

    #[test]
    fn top_p_stops_at_the_token_that_reaches_p() {
        // Probabilities 0.1, 0.2, 0.3, 0.4.
        let logits: Vec<f64> = [0.1f64, 0.2, 0.3, 0.4].map(f64::ln).to_vec();
        let table = [
            (0.0, vec![3]),
            (0.39, vec![3]),
            (0.69, vec![3, 2]),
            (0.71, vec![3, 2, 1]),
            (0.95, vec![3, 2, 1, 0]),
        ];
        for (p, wanted) in table {
            let mut candidates = list(&logits);
            top_p(&mut candidates, p);
            assert_eq!(ids(&candidates), wanted, "p {p}");
        }
    }

    #[test]
    fn top_p_sorts_on_past_the_head() {
        // 1000 equals: 60 % are the 600 lowest ids, more than the first sort.
        let mut candidates = list(&[0.0; 1000]);
        candidates.reverse();
        top_p(&mut candidates, 0.6 - 1e-9);
        assert_eq!(ids(&candidates), (0..600).collect::<Vec<u32>>());
    }

    #[test]
    fn min_p_is_relative_to_the_likeliest() {
        let mut candidates = list(&[0.1f64, 0.2, 0.3, 0.4].map(f64::ln));
        min_p(&mut candidates, 0.5 - 1e-12);
        assert_eq!(ids(&candidates), [1, 2, 3]);
    }

    #[test]
    fn penalties_as_llama_cpp_computes_them() {
        let params = SamplerParams {
            repeat_penalty: 2.0,
            frequency_penalty: 0.25,
            presence_penalty: 0.5,
            ..SamplerParams::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        [0, 1, 1, 77].into_iter().for_each(|id| sampler.accept(id));
        let penalized = sampler.penalized(&[4.0, -4.0, 1.0, 0.0]);
        let wanted = [(0, 4.0 / 2.0 - 0.25 - 0.5), (1, -4.0 * 2.0 - 2.0 * 0.25 - 0.5)];
        assert_eq!(penalized, wanted.map(|(id, logit)| Candidate { id, logit }));
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
        sampler.forget();
        assert_eq!(sampler.sample(&[5.0, 9.0, 4.0], 0).unwrap(), 1);
    }

    #[test]
    fn draw_walks_the_cumulative_distribution() {
        let candidates = list(&[0.1f64, 0.2, 0.3, 0.4].map(f64::ln));
        for (unit, wanted) in
            [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.2999, 1), (0.3001, 2), (0.6001, 3), (0.9999, 3)]
        {
            assert_eq!(draw(&candidates, 1.0, unit), wanted, "{unit}");
        }
        // At temperature 0.5 the weights are squared: 1, 4, 9, 16 of 30.
        for (unit, wanted) in [(0.9 / 30.0, 0), (4.9 / 30.0, 1), (5.1 / 30.0, 2), (14.1 / 30.0, 3)]
        {
            assert_eq!(draw(&candidates, 0.5, unit), wanted, "{unit}");
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

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let base = SamplerParams::default;
        let table = [
            ("temperature", SamplerParams { temperature: -1.0, ..base() }),
            ("temperature", SamplerParams { temperature: f32::INFINITY, ..base() }),
            ("top_p", SamplerParams { top_p: 2.0, ..base() }),
            ("top_p", SamplerParams { top_p: f32::NAN, ..base() }),
            ("min_p", SamplerParams { min_p: -0.1, ..base() }),
            ("repeat_penalty", SamplerParams { repeat_penalty: 0.0, ..base() }),
            ("frequency_penalty", SamplerParams { frequency_penalty: f32::NAN, ..base() }),
            ("presence_penalty", SamplerParams { presence_penalty: 1e9, ..base() }),
        ];
        for (name, params) in table {
            let error = params.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadRequest);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }
}
