//! From the tokens of a text to the figures that are printed, with llama-perplexity's formulas.

use super::row::Compared;
use serde::Serialize;

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// How far it may be from that of an endless text of the same kind: one standard deviation. NaN for a single token.
    pub error: f64,
}

/// How well a model foretells a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// The mean of minus the logarithms of the tokens' probabilities, in nats.
    pub nll: Estimate,
    /// e to the power of that.
    pub perplexity: Estimate,
    /// Tokens that were counted.
    pub n_counted: usize,
    /// The perplexity up to the end of each chunk.
    pub running: Vec<f64>,
}

/// How values lie.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Their mean.
    pub mean: Estimate,
    /// The greatest.
    pub maximum: f64,
    /// Percentiles, the highest first.
    pub percentiles: Vec<Percentile>,
    /// The least.
    pub minimum: f64,
}

/// What a part of all values is below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentile {
    /// This percentage of all values.
    pub percent: f64,
    /// Is below this.
    pub value: f64,
}

/// How far a model's probabilities are from those of another, its base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Tokens that were counted.
    pub n_counted: usize,
    /// Of the model.
    pub perplexity: Estimate,
    /// Of the base.
    pub base_perplexity: Estimate,
    /// Between the logarithms of both.
    pub correlation: f64,
    /// Logarithm of the model's perplexity divided by the base's.
    pub log_ratio: Estimate,
    /// The model's perplexity divided by the base's.
    pub ratio: Estimate,
    /// The model's perplexity less the base's.
    pub difference: Estimate,
    /// Kullback-Leibler divergence of the base from the model at each token, in nats.
    pub kld: Spread,
    /// How much more probable than the base the model holds the text's next token.
    pub probability_difference: Spread,
    /// Root of the mean square of that.
    pub rms_probability_difference: Estimate,
    /// How often both hold the same token for the likeliest.
    pub same_top: Estimate,
    /// Up to the end of each chunk: perplexity and mean divergence.
    pub running: Vec<Running>,
}

/// What was measured up to the end of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Running {
    /// The model's perplexity.
    pub perplexity: f64,
    /// The mean Kullback-Leibler divergence.
    pub kld: f64,
}

impl Estimate {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (n, sum) = values.clone().fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
        let mean = sum / n;
        let squares: f64 = values.map(|value| (value - mean) * (value - mean)).sum();
        Self { value: mean, error: (squares / n / (n - 1.0)).sqrt() }
    }

    /// e to the power of it.
    fn exp(self) -> Self {
        let value = libm::exp(self.value);
        Self { value, error: value * self.error }
    }

    /// The root of a mean of squares.
    fn root(self) -> Self {
        let value = self.value.sqrt();
        // No difference at all has no error either.
        Self { value, error: if value > 0.0 { 0.5 / value * self.error } else { 0.0 } }
    }
}

impl Perplexity {
    /// Of minus the logarithms of probabilities; `per_chunk` tokens are counted of each chunk.
    pub(super) fn of(nlls: &[f64], per_chunk: usize) -> Self {
        let nll = Estimate::of(nlls.iter().copied());
        let running = means_to_each_end(nlls.iter().copied(), per_chunk).map(libm::exp).collect();
        Self { nll, perplexity: nll.exp(), n_counted: nlls.len(), running }
    }
}

impl Divergence {
    /// Of all tokens; `per_chunk` are counted of each chunk.
    pub(super) fn of(all: &[Compared], per_chunk: usize) -> Self {
        let (nll, nll_base) = (all.iter().map(|c| c.nll), all.iter().map(|c| c.nll_base));
        let kld = || all.iter().map(|c| c.kld);
        let gained = || all.iter().map(|c| libm::exp(-c.nll) - libm::exp(-c.nll_base));
        let (log_ppl, log_base) = (Estimate::of(nll.clone()), Estimate::of(nll_base));
        // Mean and error of a difference follow from the differences: of two sums nearly alike little would be left.
        let log_ratio = Estimate::of(all.iter().map(|c| c.nll - c.nll_base));
        let variances = log_ppl.error.powi(2) + log_base.error.powi(2) - log_ratio.error.powi(2);
        let covariance = variances / 2.0;
        let same = all.iter().filter(|c| c.same_top).count() as f64 / all.len() as f64;
        let (perplexity, base_perplexity) = (log_ppl.exp(), log_base.exp());
        let shift = |c: &Compared| {
            perplexity.value * (c.nll - log_ppl.value)
                - base_perplexity.value * (c.nll_base - log_base.value)
        };
        let per_chunk_ppl = means_to_each_end(nll, per_chunk).map(libm::exp);
        let running = per_chunk_ppl.zip(means_to_each_end(kld(), per_chunk));
        Self {
            n_counted: all.len(),
            perplexity,
            base_perplexity,
            correlation: covariance / (log_ppl.error * log_base.error),
            log_ratio,
            ratio: log_ratio.exp(),
            difference: Estimate {
                value: perplexity.value - base_perplexity.value,
                error: Estimate::of(all.iter().map(shift)).error,
            },
            kld: Spread::of(kld(), &KLD_PERCENTS),
            probability_difference: Spread::of(gained(), &PROBABILITY_PERCENTS),
            rms_probability_difference: Estimate::of(gained().map(|d| d * d)).root(),
            same_top: Estimate {
                value: same,
                error: (same * (1.0 - same) / (all.len() as f64 - 1.0)).sqrt(),
            },
            running: running.map(|(perplexity, kld)| Running { perplexity, kld }).collect(),
        }
    }
}

/// Those that llama-perplexity prints.
const KLD_PERCENTS: [f64; 9] = [99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1];
const PROBABILITY_PERCENTS: [f64; 11] =
    [99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1];

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone, percents: &[f64]) -> Self {
        let mean = Estimate::of(values.clone());
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: f64| {
            let place = percent / 100.0 * (sorted.len().saturating_sub(1)) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            let (below, above) = (sorted[below], sorted[above]);
            // Two infinite neighbours have no difference.
            if below == above { below } else { below + (place - place.floor()) * (above - below) }
        };
        let percentiles =
            percents.iter().map(|&percent| Percentile { percent, value: at(percent) });
        Self { mean, maximum: at(100.0), percentiles: percentiles.collect(), minimum: at(0.0) }
    }
}

/// The means of the values up to the end of each chunk.
fn means_to_each_end(
    values: impl Iterator<Item = f64>,
    per_chunk: usize,
) -> impl Iterator<Item = f64> {
    let sums = values.scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    sums.zip(1..).filter(move |(_, n)| n % per_chunk == 0).map(|(sum, n)| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    /// Minus logarithms 1, 2, 3, 6: mean 3, squares of differences 4 + 1 + 0 + 9 = 14, error √(14 / 4 / 3).
    #[test]
    fn perplexity_by_hand() {
        let Perplexity { nll, perplexity, n_counted, running } =
            Perplexity::of(&[1.0, 2.0, 3.0, 6.0], 2);
        near(nll.value, 3.0);
        near(nll.error, (14.0f64 / 12.0).sqrt());
        near(perplexity.value, 3f64.exp());
        near(perplexity.error, 3f64.exp() * (14.0f64 / 12.0).sqrt());
        assert_eq!(n_counted, 4);
        near(running[0], 1.5f64.exp());
        near(running[1], 3f64.exp());
        assert_eq!(running.len(), 2);
    }

    /// What llama-perplexity computes from sums of squares and products, term by term.
    #[test]
    fn divergence_by_llama_perplexitys_formulas() {
        let numbers = [
            (1.0, 1.5, 0.1, true),
            (2.0, 1.0, 0.3, false),
            (0.5, 0.25, 0.0, true),
            (4.0, 3.5, 0.2, true),
        ];
        let all =
            numbers.map(|(nll, nll_base, kld, same_top)| Compared { nll, nll_base, kld, same_top });
        let found = Divergence::of(&all, 2);
        let n = 4.0;
        let mean = |f: &dyn Fn(&Compared) -> f64| all.iter().map(f).sum::<f64>() / n;
        let error = |f: &dyn Fn(&Compared) -> f64| {
            ((mean(&|c| f(c) * f(c)) - mean(f).powi(2)) / (n - 1.0)).sqrt()
        };
        let (a, b) = (mean(&|c| c.nll), mean(&|c| c.nll_base));
        let (ea, eb) = (error(&|c| c.nll), error(&|c| c.nll_base));
        let cov = (mean(&|c| c.nll * c.nll_base) - a * b) / (n - 1.0);
        near(found.log_ratio.value, a - b);
        near(found.log_ratio.error, (ea * ea + eb * eb - 2.0 * cov).sqrt());
        near(found.correlation, cov / (ea * eb));
        near(found.ratio.value, (a - b).exp());
        let (pa, pb) = (a.exp(), b.exp());
        near(found.difference.value, pa - pb);
        let ppl_error = (pa * ea).powi(2) + (pb * eb).powi(2) - 2.0 * pa * pb * cov;
        near(found.difference.error, ppl_error.sqrt());
        near(found.kld.mean.value, 0.15);
        near(found.kld.mean.error, error(&|c| c.kld));
        near(found.same_top.value, 0.75);
        near(found.same_top.error, (0.75f64 * 0.25 / 3.0).sqrt());
        let gained = |c: &Compared| (-c.nll).exp() - (-c.nll_base).exp();
        let mse = mean(&|c| gained(c).powi(2));
        near(found.rms_probability_difference.value, mse.sqrt());
        near(
            found.rms_probability_difference.error,
            0.5 / mse.sqrt() * error(&|c| gained(c).powi(2)),
        );
        near(found.running[0].kld, 0.2);
        near(found.running[1].perplexity, pa);
    }

    /// Of 0, 1, 2, 3, 10 the median is 2, and 90 % lie below 3 + 0.6 · 7.
    #[test]
    fn percentiles_by_hand() {
        let spread = Spread::of([3.0, 0.0, 10.0, 1.0, 2.0].into_iter(), &KLD_PERCENTS);
        let at = |percent| spread.percentiles.iter().find(|p| p.percent == percent).unwrap().value;
        near(at(50.0), 2.0);
        near(at(90.0), 7.2);
        near(at(5.0), 0.2);
        assert_eq!((spread.maximum, spread.minimum), (10.0, 0.0));
    }
}
