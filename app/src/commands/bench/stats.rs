//! What several runs say: the median, and how far they spread.

/// Of an even number the mean of the two in the middle; not a number of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a.midpoint(*b),
        (None, _) | (_, None) => f64::NAN,
    }
}

/// The runs of one test in a few numbers. The spread is the median absolute deviation: half of the runs are nearer to
/// the median than it. One run that the system disturbed moves neither.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Spread {
    /// The middle run.
    pub(super) median: f64,
    /// The median of the runs' distances from it.
    pub(super) mad: f64,
    /// The slowest run.
    pub(super) lowest: f64,
    /// The fastest run.
    pub(super) highest: f64,
}

impl Spread {
    /// Of at least one run.
    pub(super) fn of(values: &[f64]) -> Self {
        let middle = median(values);
        let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
        Self {
            median: middle,
            mad: median(&distances),
            lowest: values.iter().copied().fold(f64::INFINITY, f64::min),
            highest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn one_disturbed_run_moves_neither_median_nor_spread() {
        let calm = Spread::of(&[10.0, 11.0, 12.0, 13.0, 14.0]);
        assert_eq!(calm, Spread { median: 12.0, mad: 1.0, lowest: 10.0, highest: 14.0 });
        let disturbed = Spread::of(&[1.0, 11.0, 12.0, 13.0, 14.0]);
        assert_eq!(disturbed, Spread { median: 12.0, mad: 1.0, lowest: 1.0, highest: 14.0 });
        assert_eq!(Spread::of(&[7.0]).mad, 0.0);
    }
}
