//! How likely the choices were.

use super::candidates::{Candidate, Candidates, softmax};

/// Whose probabilities are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbabilitiesOf {
    /// The model's, over the whole vocabulary: `softmax` of the logits.
    Model,
    /// The sampler's, over the candidates that it left, at the moment of the draw.
    Sampler,
}

/// Which probabilities are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probabilities {
    /// Whose.
    pub of: ProbabilitiesOf,
    /// How many of the likeliest tokens, beside the chosen one.
    pub best: usize,
}

/// A token, and how likely it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probable {
    /// The token.
    pub id: u32,
    /// The natural logarithm of its probability.
    pub log_probability: f64,
}

/// A choice, and what else might have been chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The token that was chosen.
    pub chosen: Probable,
    /// The likeliest, the first being the likeliest of all; fewer than were asked for where the sampler left fewer.
    pub best: Vec<Probable>,
}

/// `log softmax` of a row of logits, in f64 by `libm` and summed in the order of the ids: the same on every machine.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax {
    max: f64,
    log_total: f64,
}

impl LogSoftmax {
    /// That of all logits of a row.
    pub fn of(logits: &[f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - max)).sum();
        Self { max, log_total: libm::log(total) }
    }

    /// The natural logarithm of the probability that a logit of the row gives its token.
    pub fn log_probability(self, logit: f64) -> f64 {
        logit - self.max - self.log_total
    }
}

impl Told {
    pub(super) fn of(
        wanted: Probabilities,
        logits: &[f32],
        left: &[Candidate],
        chosen: u32,
    ) -> Self {
        match wanted.of {
            ProbabilitiesOf::Model => Self::of_model(logits, wanted.best, chosen),
            ProbabilitiesOf::Sampler => Self::of_sampler(left, wanted.best, chosen),
        }
    }

    fn of_model(logits: &[f32], n: usize, chosen: u32) -> Self {
        let row = LogSoftmax::of(logits);
        let probable =
            |id: u32, logit: f64| Probable { id, log_probability: row.log_probability(logit) };
        let mut best = Candidates::among(logits, None);
        best.keep_top(n);
        let best = best.into_list().iter().map(|c| probable(c.id, c.logit)).collect();
        let logit = logits.get(chosen as usize).map_or(f64::NEG_INFINITY, |&l| f64::from(l));
        Self { chosen: probable(chosen, logit), best }
    }

    fn of_sampler(left: &[Candidate], n: usize, chosen: u32) -> Self {
        let p = softmax(left);
        let all = left.iter().zip(p);
        let mut all: Vec<Probable> =
            all.map(|(c, p)| Probable { id: c.id, log_probability: libm::log(p) }).collect();
        let certain = Probable { id: chosen, log_probability: 0.0 };
        let chosen = all.iter().find(|probable| probable.id == chosen).copied().unwrap_or(certain);
        // What was left but cannot be drawn was not left.
        all.retain(|probable| probable.log_probability > f64::NEG_INFINITY);
        all.sort_by(|a, b| b.log_probability.total_cmp(&a.log_probability).then(a.id.cmp(&b.id)));
        all.truncate(n);
        Self { chosen, best: all }
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::list;
    use super::*;

    #[test]
    fn the_model_s_are_over_the_whole_vocabulary_the_sampler_s_over_what_is_left() {
        // softmax of ln 1, ln 2, ln 5 is 1/8, 2/8, 5/8.
        let logits = [1f32, 2.0, 5.0].map(f32::ln);
        let left = list(&[0.0, std::f64::consts::LN_2, f64::NEG_INFINITY]);
        let near = |found: &[Probable], wanted: &[(u32, f64)]| {
            assert_eq!(found.len(), wanted.len());
            for (found, (id, p)) in found.iter().zip(wanted) {
                assert_eq!(found.id, *id);
                assert!((found.log_probability - p.ln()).abs() < 1e-7, "{found:?}, wanted {p}");
            }
        };
        let told = |of, best| Told::of(Probabilities { of, best }, &logits, &left, 0);
        let model = told(ProbabilitiesOf::Model, 2);
        near(&[model.chosen], &[(0, 0.125)]);
        near(&model.best, &[(2, 0.625), (1, 0.25)]);
        assert_eq!(told(ProbabilitiesOf::Model, 0).best, []);
        assert_eq!(told(ProbabilitiesOf::Sampler, 0).best, []);
        let sampler = told(ProbabilitiesOf::Sampler, 5);
        near(&[sampler.chosen], &[(0, 1.0 / 3.0)]);
        near(&sampler.best, &[(1, 2.0 / 3.0), (0, 1.0 / 3.0)]);
    }
}
