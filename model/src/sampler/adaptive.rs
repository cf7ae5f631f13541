//! Adaptive-p: takes tokens whose probability is near a target, and moves the target by what it took before (llama.cpp's
//! sampler of that name, whose constants these are).

use super::candidates::{Candidate, softmax};
use super::params;

/// Width of the peak around the target.
const WIDTH: f64 = 0.3;
/// Logit of a token right at the target.
const PEAK: f64 = 5.0;
/// How steep the sides of the peak are.
const SHARPNESS: f64 = 10.0;

/// What it has taken so far, the newest weighing most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Adaptive {
    params: params::Adaptive,
    /// Weighted sum of the probabilities that the taken tokens had.
    sum: f64,
    /// Sum of the weights.
    weight: f64,
    /// The token that was drawn last, until the text has it.
    drawn: Option<Drawn>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Drawn {
    id: u32,
    /// Before the target changed it.
    p: f64,
}

impl Adaptive {
    /// Begins as if all tokens before had been at the target.
    pub(super) fn new(params: params::Adaptive) -> Self {
        let weight = 1.0 / (1.0 - f64::from(params.decay));
        Self { params, sum: f64::from(params.target) * weight, weight, drawn: None }
    }

    /// Gives the candidates logits by the distance of their probability from the target, and returns the probabilities.
    pub(super) fn aim(&self, candidates: &mut [Candidate]) -> Vec<f64> {
        let p = softmax(candidates);
        if self.params.target < 0.0 {
            return p;
        }
        let target = (2.0 * f64::from(self.params.target) - self.sum / self.weight).clamp(0.0, 1.0);
        for (c, p) in candidates.iter_mut().zip(&p) {
            if c.logit > f64::NEG_INFINITY {
                let distance = ((p - target) / WIDTH).abs();
                c.logit = PEAK - SHARPNESS * distance * distance / (1.0 + distance);
            }
        }
        p
    }

    /// `id`, of the probability `p`, was drawn; the text may take it.
    pub(super) fn draw(&mut self, id: u32, p: f64) {
        self.drawn = Some(Drawn { id, p }).filter(|_| self.params.target >= 0.0);
    }

    /// The text has taken a token.
    pub(super) fn accept(&mut self, id: u32) {
        if let Some(drawn) = self.drawn.take().filter(|drawn| drawn.id == id) {
            let decay = f64::from(self.params.decay);
            self.sum = drawn.p + decay * self.sum;
            self.weight = 1.0 + decay * self.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::list;
    use super::*;

    #[test]
    fn what_is_at_the_target_has_the_peak() {
        let mut candidates = list(&[0.25f64, 0.75].map(f64::ln));
        let adaptive = Adaptive::new(params::Adaptive { target: 0.25, decay: 0.5 });
        adaptive.aim(&mut candidates);
        // At a distance of 0.5 / 0.3: 5 − 10 · (5/3)² / (1 + 5/3) = −5.41667.
        assert!((candidates[0].logit - 5.0).abs() < 1e-9);
        assert!((candidates[1].logit + 5.416_666_7).abs() < 1e-6, "{}", candidates[1].logit);
    }

    #[test]
    fn tokens_above_the_target_lower_it_once_the_text_has_them() {
        let params = params::Adaptive { target: 0.5, decay: 0.5 };
        let start = Adaptive::new(params);
        let mut adaptive = start;
        adaptive.draw(3, 0.9);
        adaptive.accept(4);
        adaptive.accept(3);
        assert_eq!(adaptive, start, "another token was taken");
        adaptive.draw(3, 0.9);
        adaptive.accept(3);
        // (0.9 + 0.5 · 1.0) / (1 + 0.5 · 2) = 0.7: the next aim is at 2 · 0.5 − 0.7 = 0.3.
        assert!((adaptive.sum / adaptive.weight - 0.7).abs() < 1e-7);
        let mut off = Adaptive::new(params::Adaptive { target: -1.0, decay: 0.9 });
        let mut candidates = list(&[1.0, 2.0]);
        off.aim(&mut candidates);
        off.draw(1, 0.7);
        off.accept(1);
        assert_eq!(candidates, list(&[1.0, 2.0]));
    }
}
