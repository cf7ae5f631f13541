//! Mirostat (arXiv 2007.14966): a feedback loop that holds the surprise of the text near a target.

use super::candidates::{Candidate, likelier, softmax};
use super::params::{self, MirostatVersion};

/// Most candidates from which the first version estimates how fast probabilities fall; the paper's `m`.
const ESTIMATED_FROM: usize = 100;

/// The loop's state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mirostat {
    params: params::Mirostat,
    /// The most that a token may surprise, in bits.
    mu: f64,
}

impl Mirostat {
    /// The paper begins with twice the target.
    pub(super) fn new(params: params::Mirostat) -> Self {
        Self { params, mu: 2.0 * f64::from(params.tau) }
    }

    /// Leaves out what surprises too much; what is left is sorted, at least one.
    pub(super) fn cut(&self, candidates: &mut Vec<Candidate>, n_vocab: usize) {
        candidates.sort_unstable_by(likelier);
        let p = softmax(candidates);
        let kept = match self.params.version {
            MirostatVersion::Off => candidates.len(),
            MirostatVersion::V1 => self.top_k(&p, n_vocab),
            MirostatVersion::V2 => p.iter().take_while(|p| -libm::log2(**p) <= self.mu).count(),
        };
        candidates.truncate(kept.max(1));
    }

    /// The `k` of the paper's algorithm 1, for a distribution by Zipf's law whose exponent `s` is estimated from the likeliest.
    fn top_k(&self, p: &[f64], n_vocab: usize) -> usize {
        let (mut sum_tb, mut sum_tt) = (0.0, 0.0);
        for (i, two) in p.windows(2).take(ESTIMATED_FROM - 1).enumerate() {
            let t = libm::log((i + 2) as f64 / (i + 1) as f64);
            let b = libm::log(two[0] / two[1]);
            sum_tb += t * b;
            sum_tt += t * t;
        }
        let s = sum_tb / sum_tt;
        let epsilon = s - 1.0;
        let n = 1.0 - libm::pow(n_vocab as f64, -epsilon);
        let k = libm::pow(epsilon * libm::pow(2.0, self.mu) / n, 1.0 / s);
        // No number, where two forbidden tokens stand side by side: `as` makes 0 of it.
        k as usize
    }

    /// Learns of the probability of the token that was drawn.
    pub(super) fn observe(&mut self, p: f64) {
        let error = -libm::log2(p) - f64::from(self.params.tau);
        self.mu -= f64::from(self.params.eta) * error;
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::{ids, list};
    use super::*;

    fn mirostat(version: MirostatVersion, tau: f32) -> Mirostat {
        Mirostat::new(params::Mirostat { version, tau, eta: 0.1 })
    }

    /// Surprises of 1, 2, 3 and 3 bits; the first bound is twice the target.
    #[test]
    fn version_2_leaves_out_what_surprises_more_than_mu() {
        let p = [0.125f64, 0.5, 0.125, 0.25].map(f64::ln);
        for (tau, wanted) in
            [(0.0, vec![1]), (0.6, vec![1]), (1.1, vec![1, 3]), (1.6, vec![1, 3, 0, 2])]
        {
            let mut candidates = list(&p);
            mirostat(MirostatVersion::V2, tau).cut(&mut candidates, 4);
            assert_eq!(ids(&candidates), wanted, "tau {tau}");
        }
    }

    /// Zipf's law itself, `p ∝ 1 / rank²`: the estimate is 2, and the paper's formula gives k by hand.
    #[test]
    fn version_1_finds_k_by_zipf_s_law() {
        let p: Vec<f64> = (1..=1000).map(|rank| -2.0 * f64::from(rank).ln()).collect();
        let mut candidates = list(&p);
        mirostat(MirostatVersion::V1, 3.0).cut(&mut candidates, 1000);
        // ((2 − 1) · 2⁶ / (1 − 1000⁻¹))^(1/2) = 8.004.
        assert_eq!(candidates.len(), 8);
    }

    #[test]
    fn a_surprise_above_the_target_lowers_the_bound() {
        let mut state = mirostat(MirostatVersion::V2, 3.0);
        state.observe(1.0 / 16.0);
        assert!((state.mu - 5.9).abs() < 1e-6, "{}", state.mu);
    }
}
