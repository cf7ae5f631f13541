//! Temperature, by itself or following the entropy.

use super::candidates::{Candidate, entropy, likelier, softmax};
use super::params::DynamicTemperature;

/// Divides the logits; at 0 only the likeliest is left.
pub(super) fn temperature(candidates: &mut Vec<Candidate>, temperature: f64) {
    if temperature > 0.0 {
        candidates.iter_mut().for_each(|c| c.logit /= temperature);
    } else if let Some(&best) = candidates.iter().min_by(|a, b| likelier(a, b)) {
        *candidates = vec![best];
    }
}

/// A temperature in `temperature ± range`, by the entropy as a share of the most that candidates of their number can have
/// (llama.cpp's "entropy-based dynamic temperature").
pub(super) fn dynamic_temperature(
    candidates: &mut Vec<Candidate>,
    middle: f64,
    by: DynamicTemperature,
) {
    if candidates.len() <= 1 {
        return;
    }
    candidates.sort_unstable_by(likelier);
    let range = f64::from(by.range);
    let (least, most) = ((middle - range).max(0.0), middle + range);
    let share = entropy(&softmax(candidates)) / libm::log(candidates.len() as f64);
    let dynamic = least + (most - least) * libm::pow(share, f64::from(by.exponent));
    temperature(candidates, dynamic);
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::{ids, list};
    use super::*;

    #[test]
    fn at_zero_the_lowest_of_equals_is_left() {
        let mut candidates = list(&[1.0, 3.0, 3.0]);
        temperature(&mut candidates, 0.0);
        assert_eq!(ids(&candidates), [1]);
    }

    /// A flat distribution has all the entropy there can be, a certain one none.
    #[test]
    fn the_entropy_chooses_the_temperature() {
        let by = DynamicTemperature { range: 0.5, exponent: 1.0 };
        let mut flat = list(&[3.0, 3.0]);
        dynamic_temperature(&mut flat, 1.0, by);
        assert_eq!(flat, list(&[3.0 / 1.5, 3.0 / 1.5]));
        let mut certain = list(&[3.0, f64::NEG_INFINITY]);
        dynamic_temperature(&mut certain, 1.0, by);
        assert_eq!(certain[0].logit, 3.0 / 0.5);
        // No entropy, and a range down to 0: greedy.
        let mut greedy = list(&[3.0, f64::NEG_INFINITY]);
        dynamic_temperature(&mut greedy, 0.5, by);
        assert_eq!(ids(&greedy), [0]);
    }
}
