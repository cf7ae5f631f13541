//! Penalties for tokens that occurred.

use super::SamplerParams;
use super::candidates::Candidates;
use std::collections::BTreeMap;

/// Lowers the logits of recent tokens.
///
/// The paper that introduced the repeat penalty (CTRL, arXiv 1909.05858) only divides, which makes a token with a
/// negative logit likelier; all engines multiply there.
pub(super) fn penalize(
    candidates: &mut Candidates<'_>,
    recent: impl Iterator<Item = u32>,
    params: &SamplerParams,
) {
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for id in recent.take(params.penalty_last_n) {
        *counts.entry(id).or_default() += 1;
    }
    let repeat = f64::from(params.repeat_penalty);
    candidates.change(&counts, |logit, count| {
        let logit = if logit <= 0.0 { logit * repeat } else { logit / repeat };
        let frequency = f64::from(*count) * f64::from(params.frequency_penalty);
        logit - (frequency + f64::from(params.presence_penalty))
    });
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::list;
    use super::*;

    #[test]
    fn penalties_as_llama_cpp_computes_them() {
        let params = SamplerParams {
            repeat_penalty: 2.0,
            frequency_penalty: 0.25,
            presence_penalty: 0.5,
            ..SamplerParams::default()
        };
        let mut candidates = Candidates::new(&[4.0, -4.0, 1.0, 0.0]);
        penalize(&mut candidates, [77, 1, 1, 0].into_iter(), &params);
        let wanted = [4.0 / 2.0 - 0.25 - 0.5, -4.0 * 2.0 - 2.0 * 0.25 - 0.5, 1.0, 0.0];
        assert_eq!(candidates.into_list(), list(&wanted));
    }

    #[test]
    fn only_the_last_n_count() {
        let params =
            SamplerParams { presence_penalty: 10.0, penalty_last_n: 2, ..SamplerParams::default() };
        let mut candidates = Candidates::new(&[5.0, 9.0, 4.0]);
        // The newest first.
        penalize(&mut candidates, [1, 1, 0].into_iter(), &params);
        assert_eq!(candidates.into_list(), list(&[5.0, -1.0, 4.0]));
    }
}
