//! The samplers that leave candidates out by their probabilities. The likeliest is always kept, but by XTC and typical-p.

use super::candidates::{Candidate, entropy, likelier, max_logit, softmax, sort_head};

/// Candidates that top-p sorts first; most distributions need no more.
const FIRST_SORT: usize = 256;

/// Keeps the fewest likeliest whose probabilities sum to at least `p`, sorted (arXiv 1904.09751).
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
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

/// Keeps those with at least `p` times the likeliest's probability: `logit ≥ max + ln p`.
pub(super) fn min_p(candidates: &mut Vec<Candidate>, p: f64) {
    if p <= 0.0 {
        return;
    }
    let least = max_logit(candidates) + libm::log(p);
    candidates.retain(|c| c.logit >= least);
}

/// Keeps those whose surprise is nearest to the entropy, until their probabilities sum to more than `p`
/// (locally typical sampling, arXiv 2202.00666).
pub(super) fn typical_p(candidates: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 {
        return;
    }
    candidates.sort_unstable_by(likelier);
    let probabilities = softmax(candidates);
    let entropy = entropy(&probabilities);
    struct Scored {
        candidate: Candidate,
        p: f64,
        /// Distance of the surprise to the entropy.
        distance: f64,
    }
    let score = |(candidate, p): (&Candidate, f64)| Scored {
        candidate: *candidate,
        p,
        distance: (-libm::log(p) - entropy).abs(),
    };
    let mut scored: Vec<Scored> = candidates.iter().zip(probabilities).map(score).collect();
    // Of equals the likelier first: the sort is stable.
    scored.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    let mut sum = 0.0;
    let reaches = |scored: &Scored| {
        sum += scored.p;
        sum > p
    };
    let n = scored.iter().position(reaches).map_or(scored.len(), |last| last + 1);
    candidates.clear();
    candidates.extend(scored[..n].iter().map(|scored| scored.candidate));
}

/// Forbids logits below the highest less `n` standard deviations (arXiv 2411.07641). Logits of −∞ count for nothing.
pub(super) fn top_n_sigma(candidates: &mut [Candidate], n: f64) {
    if n <= 0.0 || candidates.len() <= 1 {
        return;
    }
    let valid = || candidates.iter().map(|c| c.logit).filter(|logit| *logit != f64::NEG_INFINITY);
    let count = valid().count() as f64;
    let mean = valid().sum::<f64>() / count;
    let variance = valid().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>() / count;
    let least = max_logit(candidates) - n * variance.sqrt();
    for c in candidates {
        if c.logit < least {
            c.logit = f64::NEG_INFINITY;
        }
    }
}

/// Leaves out all of at least the probability `threshold` but the least likely of them, sorted.
pub(super) fn xtc(candidates: &mut Vec<Candidate>, threshold: f64) {
    if candidates.len() < 2 {
        return;
    }
    candidates.sort_unstable_by(likelier);
    let tops = softmax(candidates).iter().take_while(|p| **p >= threshold).count();
    candidates.drain(..tops.saturating_sub(1));
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::{ids, list};
    use super::*;

    /// Probabilities 0.1, 0.2, 0.3, 0.4 for the ids 0 to 3.
    fn four() -> Vec<Candidate> {
        list(&[0.1f64, 0.2, 0.3, 0.4].map(f64::ln))
    }

    #[test]
    fn top_p_stops_at_the_token_that_reaches_p() {
        let table = [
            (0.0, vec![3]),
            (0.39, vec![3]),
            (0.69, vec![3, 2]),
            (0.71, vec![3, 2, 1]),
            (0.95, vec![3, 2, 1, 0]),
        ];
        for (p, wanted) in table {
            let mut candidates = four();
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
        let mut candidates = four();
        min_p(&mut candidates, 0.5 - 1e-12);
        assert_eq!(ids(&candidates), [1, 2, 3]);
    }

    /// llama.cpp's `tests/test-sampling.cpp`: `test_typical({0.97, 0.01, 0.01, 0.01}, …, 0.5)` and
    /// `({0.4, 0.2, 0.2, 0.2}, …, 0.5)`.
    #[test]
    fn typical_p_as_llama_cpp_tests_it() {
        for (p, wanted) in
            [([0.97, 0.01, 0.01, 0.01], vec![0]), ([0.4, 0.2, 0.2, 0.2], vec![1, 2, 3])]
        {
            let mut candidates = list(&p.map(f64::ln));
            typical_p(&mut candidates, 0.5);
            assert_eq!(ids(&candidates), wanted, "{p:?}");
        }
        let mut forbidden = list(&[0.0, f64::NEG_INFINITY, 0.0]);
        typical_p(&mut forbidden, 0.9);
        assert_eq!(ids(&forbidden), [0, 2]);
    }

    /// llama.cpp's `test_xtc`: ids by falling probability 0.4, 0.3, 0.2, 0.1.
    #[test]
    fn xtc_as_llama_cpp_tests_it() {
        for (threshold, wanted) in
            [(0.09, vec![0]), (0.19, vec![1, 0]), (0.29, vec![2, 1, 0]), (0.41, vec![3, 2, 1, 0])]
        {
            let mut candidates = four();
            xtc(&mut candidates, threshold);
            assert_eq!(ids(&candidates), wanted, "threshold {threshold}");
        }
    }

    /// llama.cpp's `test_top_n_sigma`: of 0.1, 0.2, 0.3, 0.4 one sigma keeps two, three keep all.
    #[test]
    fn top_n_sigma_as_llama_cpp_tests_it() {
        for (n, wanted) in [(0.0, 4), (1.0, 2), (3.0, 4)] {
            let mut candidates = four();
            top_n_sigma(&mut candidates, n);
            let kept = candidates.iter().filter(|c| c.logit > f64::NEG_INFINITY).count();
            assert_eq!(kept, wanted, "n {n}");
        }
    }
}
