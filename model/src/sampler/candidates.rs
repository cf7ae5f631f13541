//! The tokens that may still be drawn, with their logits.

use super::Allowed;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A token that may still be drawn. Its logit is f64, so that no setting in range overflows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f64,
}

/// Most likely first, ties by id: a total order, so that sorting cannot panic.
pub(super) fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The candidates of a step. At first they are the whole vocabulary, of which a few logits may be changed; a list is made
/// when the first sampler needs one, which is seldom before top-k: to copy a whole vocabulary would cost a tenth of a small
/// model's step.
#[derive(Debug)]
pub(super) struct Candidates<'l> {
    logits: &'l [f32],
    /// Those that may be drawn; `None` for all.
    allowed: Option<Allowed>,
    /// New logits, by id.
    changed: BTreeMap<u32, f64>,
    /// What is left, once a sampler has needed a list.
    list: Option<Vec<Candidate>>,
}

impl<'l> Candidates<'l> {
    #[cfg(test)]
    pub(super) fn new(logits: &'l [f32]) -> Self {
        Self::among(logits, None)
    }

    /// The vocabulary, or what of it is allowed.
    pub(super) fn among(logits: &'l [f32], allowed: Option<Allowed>) -> Self {
        Self { logits, allowed, changed: BTreeMap::new(), list: None }
    }

    /// Whether no token can be drawn.
    pub(super) fn is_hopeless(&self) -> bool {
        !self.whole().any(|c| c.logit > f64::NEG_INFINITY)
    }

    /// All that is allowed, in the order of the ids, with the new logits of what was changed.
    fn whole(&self) -> impl Iterator<Item = Candidate> + '_ {
        let mut changed = self.changed.iter().peekable();
        let all = (0u32..).zip(self.logits).map(move |(id, &logit)| {
            match changed.next_if(|(at, _)| **at == id) {
                Some((_, &logit)) => Candidate { id, logit },
                None => Candidate { id, logit: f64::from(logit) },
            }
        });
        all.filter(|c| self.allowed.as_ref().is_none_or(|allowed| allowed.contains(c.id)))
    }

    /// Gives the tokens of `changes` new logits: `new` of the old one and of what stands beside the id. An id beyond the
    /// vocabulary, or that is no candidate any more, has none.
    pub(super) fn change<T>(&mut self, changes: &BTreeMap<u32, T>, new: impl Fn(f64, &T) -> f64) {
        if let Some(list) = &mut self.list {
            for candidate in list {
                if let Some(with) = changes.get(&candidate.id) {
                    candidate.logit = new(candidate.logit, with);
                }
            }
            return;
        }
        for (&id, with) in changes {
            let Some(&logit) = self.logits.get(id as usize) else { continue };
            let logit = self.changed.entry(id).or_insert(f64::from(logit));
            *logit = new(*logit, with);
        }
    }

    /// All of them. In the order of their ids, unless a sampler has sorted them.
    pub(super) fn list(&mut self) -> &mut Vec<Candidate> {
        if self.list.is_none() {
            self.list = Some(self.whole().collect());
        }
        self.list.get_or_insert_default()
    }

    pub(super) fn into_list(mut self) -> Vec<Candidate> {
        std::mem::take(self.list())
    }

    /// Keeps the `k` likeliest, sorted.
    pub(super) fn keep_top(&mut self, k: usize) {
        match &mut self.list {
            Some(list) => {
                sort_head(list, k);
                list.truncate(k);
            }
            None => self.list = Some(self.top(k)),
        }
    }

    /// The `k` likeliest of the whole vocabulary, in one pass that keeps at most `2 k + 64` of them.
    fn top(&self, k: usize) -> Vec<Candidate> {
        let k = k.min(self.logits.len());
        if k == 0 {
            return Vec::new();
        }
        let most = 2 * k + 64;
        let mut best: Vec<Candidate> = Vec::with_capacity(most.min(self.logits.len()));
        let mut floor = f64::NEG_INFINITY;
        for candidate in self.whole() {
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
}

/// Moves the `n` likeliest to the front, sorted.
pub(super) fn sort_head(candidates: &mut [Candidate], n: usize) {
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, likelier);
        candidates[..n].sort_unstable_by(likelier);
    } else {
        candidates.sort_unstable_by(likelier);
    }
}

pub(super) fn max_logit(candidates: &[Candidate]) -> f64 {
    candidates.iter().fold(f64::NEG_INFINITY, |max, c| max.max(c.logit))
}

/// `softmax(logit)` of each candidate, in f64 by `libm` and summed in their order: the same on every machine.
pub(super) fn softmax(candidates: &[Candidate]) -> Vec<f64> {
    let max = max_logit(candidates);
    let mut p: Vec<f64> = candidates.iter().map(|c| libm::exp(c.logit - max)).collect();
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
    p
}

/// The entropy of a distribution, in nats. What cannot happen adds nothing.
pub(super) fn entropy(p: &[f64]) -> f64 {
    p.iter().filter(|p| **p > 0.0).map(|p| -p * libm::log(*p)).sum()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    /// Candidates with these logits, in the order of their ids.
    pub(crate) fn list(logits: &[f64]) -> Vec<Candidate> {
        logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }).collect()
    }

    pub(crate) fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.id).collect()
    }

    #[test]
    fn top_k_keeps_k_and_breaks_ties_by_id() {
        for (k, wanted) in [(0, vec![]), (1, vec![1]), (3, vec![1, 3, 0]), (9, vec![1, 3, 0, 2])] {
            let mut candidates = Candidates::new(&[2.0, 5.0, 2.0, 4.0]);
            candidates.keep_top(k);
            assert_eq!(ids(&candidates.into_list()), wanted, "k {k}");
        }
    }

    /// The pass that remembers few gives what sorting everything gives, ties and changed logits included.
    #[test]
    fn top_k_is_the_head_of_the_sorted_list() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for round in 0..200 {
            let n = 1 + (rng.next_u32() % 2000) as usize;
            let levels = 1 + rng.next_u32() % 500;
            let logits: Vec<f32> = (0..n).map(|_| (rng.next_u32() % levels) as f32).collect();
            let changes: BTreeMap<u32, f64> = (0..n as u32)
                .filter(|_| rng.next_u32().is_multiple_of(10))
                .map(|id| (id, f64::from(id % 7)))
                .collect();
            let candidates = || {
                let mut candidates = Candidates::new(&logits);
                candidates.change(&changes, |_, new| *new);
                candidates
            };
            let mut sorted = candidates().into_list();
            assert_eq!(ids(&sorted), (0..n as u32).collect::<Vec<_>>());
            assert!(changes.iter().all(|(id, new)| sorted[*id as usize].logit == *new));
            sorted.sort_by(likelier);
            for k in [1, 2, 40, n.div_ceil(2), n, n + 1] {
                let mut of_whole = candidates();
                of_whole.keep_top(k);
                let mut of_list = candidates();
                of_list.list();
                of_list.keep_top(k);
                let wanted = &sorted[..k.min(n)];
                assert_eq!(of_whole.into_list(), wanted, "round {round} n {n} k {k}");
                assert_eq!(of_list.into_list(), wanted, "round {round} n {n} k {k}, a list");
            }
        }
    }

    #[test]
    fn changes_add_up_before_and_after_there_is_a_list() {
        let changes = BTreeMap::from([(1, 10.0), (7, 1.0)]);
        for listed in [false, true] {
            let mut candidates = Candidates::new(&[1.0, 2.0, 3.0]);
            if listed {
                candidates.list();
            }
            candidates.change(&changes, |logit, add| logit + add);
            candidates.change(&changes, |logit, add| logit * add);
            assert_eq!(candidates.into_list(), list(&[1.0, 120.0, 3.0]));
        }
    }

    /// A coin has ln 2, a certain outcome 0.
    #[test]
    fn entropy_of_coins() {
        assert_eq!(entropy(&softmax(&list(&[1.0, 1.0]))), std::f64::consts::LN_2);
        assert_eq!(entropy(&softmax(&list(&[1.0, f64::NEG_INFINITY]))), 0.0);
    }
}
