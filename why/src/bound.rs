//! What is demanded of a side, and the rounding-error bounds that every op's evaluation in f64 uses (Higham, Accuracy
//! and Stability of Numerical Algorithms, chapter 3).

/// What is demanded of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// The reference's bits: karat's own backends.
    Bits,
    /// Within a bound of the op in f64, for each element: other engines, which may sum in another order.
    Rounding,
}

/// The unit roundoff of f32: one rounding is wrong by this share at most.
pub(crate) const U: f64 = 1.0 / (1u64 << 24) as f64;
/// Of f16.
pub(crate) const U_F16: f64 = 1.0 / 2048.0;
/// Of bf16.
pub(crate) const U_BF16: f64 = 1.0 / 256.0;
/// No f32 is trusted below this: devices flush denormals.
pub(crate) const TINY: f64 = f32::MIN_POSITIVE as f64;

/// `γ_k = k·u / (1 − k·u)`: by what share of `Σ|a·b|` a sum may be wrong whose terms are rounded k times each.
pub(crate) fn gamma(k: usize) -> f64 {
    let ku = k as f64 * U;
    ku / (1.0 - ku)
}

/// An op in f64, and for each element how far a right result in f32 may be from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exact {
    pub(crate) value: Vec<f64>,
    pub(crate) bound: Vec<f64>,
}

impl Exact {
    pub(crate) fn with_room(n: usize) -> Self {
        Self { value: Vec::with_capacity(n), bound: Vec::with_capacity(n) }
    }

    /// One element. Where f32 may overflow on the way to it (`size` is what is added up), nothing is demanded.
    pub(crate) fn push(&mut self, value: f64, bound: f64, size: f64) {
        self.value.push(value);
        self.bound.push(if size < f64::from(f32::MAX) { bound } else { f64::INFINITY });
    }

    /// The distance of an element; infinite where one of both is no number.
    pub(crate) fn error(&self, i: usize, found: f32) -> f64 {
        let value = self.value[i];
        match (value.is_finite(), found.is_finite()) {
            (true, true) => (f64::from(found) - value).abs(),
            (false, false) => 0.0,
            (true, false) | (false, true) => f64::INFINITY,
        }
    }

    /// Whether an element is as near as a right result is.
    pub(crate) fn allows(&self, i: usize, found: f32) -> bool {
        let (value, bound) = (self.value[i], self.bound[i]);
        if !value.is_finite() {
            return !found.is_finite();
        }
        let overflows = value.abs() + bound >= f64::from(f32::MAX);
        self.error(i, found) <= bound || (overflows && !found.is_finite())
    }

    /// Whether all are.
    pub(crate) fn allows_all(&self, found: &[f32]) -> bool {
        found.len() == self.value.len() && (0..found.len()).all(|i| self.allows(i, found[i]))
    }

    /// Rounded to f32.
    pub(crate) fn rounded(&self) -> Vec<f32> {
        self.value.iter().map(|&v| v as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_within_its_bound_or_not() {
        let mut exact = Exact::default();
        exact.push(1.0, 1e-6, 1.0);
        exact.push(f64::NAN, f64::NAN, f64::NAN);
        exact.push(f64::from(f32::MAX), 1e32, 1.0);
        exact.push(5.0, 1e-6, 1e39);
        assert!(exact.allows(0, 1.0 + f32::EPSILON) && !exact.allows(0, 1.0001));
        assert!(!exact.allows(0, f32::NAN) && !exact.allows(0, f32::INFINITY));
        assert!(exact.allows(1, f32::NAN) && exact.allows(1, f32::INFINITY));
        assert!(!exact.allows(1, 0.0), "a number where there is none");
        assert!(exact.allows(2, f32::INFINITY) && !exact.allows(2, 0.0));
        assert!(exact.allows(3, f32::INFINITY) && exact.allows(3, 0.0));
    }

    #[test]
    fn gamma_is_a_little_more_than_k_roundings() {
        assert!(gamma(1) > U && gamma(1) < U * 1.001);
        assert!((gamma(1000) / (1000.0 * U) - 1.0).abs() < 1e-3);
    }
}
