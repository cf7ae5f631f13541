//! One row of logits in f64: its probabilities, and how far they are from another row's.
//!
//! Sums go in eight lanes, so that they are the same on every machine, and quick.

/// Below this a power of e adds nothing to a sum that has 1 in it.
const LEAST: f64 = -708.0;
/// `1.5 · 2⁵²`: adding it rounds to the nearest integer, which then stands in the lowest bits.
const ROUND_MAGIC: f64 = 6_755_399_441_055_744.0;
/// High part of `ln 2`: 33 bits, so that its product with an integer of 11 bits is exact.
const LN2_HI: f64 = 6.931_471_803_691_238e-1;
/// `ln 2 - LN2_HI`.
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
/// `1 / k!` from k = 12 down to 2: on ±ln 2 / 2 what follows is below 2⁻⁵².
const TAYLOR: [f64; 11] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    1.0 / 2.0,
];
const LANES: usize = 8;

/// Powers of e of the probabilities that llama-perplexity leaves out of a sum.
const FILE_FLOOR: f32 = -16.0;

/// `eˣ` for x up to 0, within 2 ulp; about 3e-308 for all below -708. Branches would keep a compiler from computing several
/// at once, which makes this five times as fast as `libm::exp`.
#[inline]
fn exp(x: f64) -> f64 {
    let x = if x > LEAST { x } else { LEAST };
    let shifted = x * std::f64::consts::LOG2_E + ROUND_MAGIC;
    let n = shifted - ROUND_MAGIC;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = TAYLOR[0];
    for &c in &TAYLOR[1..] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    y * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

/// `Σ f(i)` over `0..n`.
#[inline]
fn sum(n: usize, f: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let whole = n - n % LANES;
    for first in (0..whole).step_by(LANES) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(first + i);
        }
    }
    lanes.into_iter().chain((whole..n).map(f)).sum()
}

/// A row of logits with the logarithm of the sum of their powers of e: a logit less that is the logarithm of a
/// probability.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'r> {
    logits: &'r [f32],
    most: f32,
    log_sum: f64,
}

/// How a row differs from that of the base, at a token of the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    /// Minus the logarithm of the probability that the row gives the text's next token.
    pub(super) nll: f64,
    /// The same of the base.
    pub(super) nll_base: f64,
    /// Kullback-Leibler divergence of the base from the row, in nats.
    pub(super) kld: f64,
    /// Whether both hold the same token for the likeliest.
    pub(super) same_top: bool,
}

impl<'r> Row<'r> {
    /// `None` where a logit is NaN or +∞, or all are -∞.
    pub(super) fn new(logits: &'r [f32]) -> Option<Self> {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut finite = true;
        for chunk in logits.chunks(LANES) {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                // False for NaN, too.
                finite &= logit < f32::INFINITY;
                *lane = if logit > *lane { logit } else { *lane };
            }
        }
        let most = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if !finite || most == f32::NEG_INFINITY {
            return None;
        }
        let total = sum(logits.len(), |i| exp(f64::from(logits[i]) - f64::from(most)));
        Some(Self { logits, most, log_sum: f64::from(most) + libm::log(total) })
    }

    /// The logarithm of the probability of an id; all of a row exist.
    fn log_probability(&self, id: usize) -> f64 {
        f64::from(self.logits[id]) - self.log_sum
    }

    /// Minus the logarithm of the probability of an id; infinite where the row has no such id.
    pub(super) fn nll(&self, id: u32) -> f64 {
        self.logits.get(id as usize).map_or(f64::INFINITY, |&logit| self.log_sum - f64::from(logit))
    }

    /// The likeliest id; the lowest of several.
    fn top(&self) -> usize {
        self.logits.iter().position(|&logit| logit == self.most).unwrap_or(0)
    }

    /// Compares with the base's row of as many logits, where `id` follows in the text.
    pub(super) fn against(&self, base: &Self, id: u32) -> Compared {
        let kld = sum(self.logits.len(), |i| {
            let log_p = base.log_probability(i);
            let term = exp(log_p) * (log_p - self.log_probability(i));
            // What the base holds for impossible adds nothing, whatever the row says.
            if log_p > LEAST { term } else { 0.0 }
        });
        Compared {
            nll: self.nll(id),
            nll_base: base.nll(id),
            kld,
            same_top: self.top() == base.top(),
        }
    }

    /// Compares with a row of llama-perplexity's file, by its rules: the file's probabilities below e⁻¹⁶ are left out.
    pub(super) fn against_packed(&self, base: &Packed<'_>, id: u32) -> Compared {
        let kld = sum(self.logits.len(), |i| {
            let log_p = base.log_probability(i);
            let (kept, log_p) = (log_p > FILE_FLOOR, f64::from(log_p));
            let term = exp(log_p) * (log_p - self.log_probability(i));
            if kept { term } else { 0.0 }
        });
        let nll_base = match base.codes.get(id as usize) {
            Some(_) => -f64::from(base.log_probability(id as usize)),
            None => f64::INFINITY,
        };
        Compared { nll: self.nll(id), nll_base, kld, same_top: self.top() == base.top() }
    }

    /// The row as llama-perplexity's file has it: logarithms of probabilities in 65,536 steps from the least, or from 16
    /// below the greatest, to the greatest.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        let least = self.logits.iter().copied().fold(f32::INFINITY, f32::min);
        let least = least.max(self.most - 16.0);
        let log_sum = (self.log_sum - f64::from(self.most)) as f32;
        let scale = (self.most - least) / 65535.0;
        out.extend(scale.to_le_bytes());
        out.extend((least - self.most - log_sum).to_le_bytes());
        let per_step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for &logit in self.logits {
            let code = (per_step * (logit.max(least) - least)).round_ties_even() as u16;
            out.extend(code.to_le_bytes());
        }
        if !self.logits.len().is_multiple_of(2) {
            out.extend([0, 0]);
        }
    }
}

/// A row of llama-perplexity's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'r> {
    scale: f32,
    least: f32,
    codes: &'r [[u8; 2]],
}

impl<'r> Packed<'r> {
    /// Bytes of a row.
    pub(super) fn n_bytes(n_vocab: usize) -> usize {
        8 + n_vocab.next_multiple_of(2) * 2
    }

    /// `None` where the bytes are fewer than a row has.
    pub(super) fn read(bytes: &'r [u8], n_vocab: usize) -> Option<Self> {
        let (scale, rest) = bytes.split_first_chunk()?;
        let (least, rest) = rest.split_first_chunk()?;
        let codes = rest.as_chunks().0.get(..n_vocab)?;
        Some(Self { scale: f32::from_le_bytes(*scale), least: f32::from_le_bytes(*least), codes })
    }

    fn log_probability(&self, id: usize) -> f32 {
        self.scale * f32::from(u16::from_le_bytes(self.codes[id])) + self.least
    }

    fn top(&self) -> usize {
        let code = |&code: &[u8; 2]| u16::from_le_bytes(code);
        let most = self.codes.iter().map(code).max();
        self.codes.iter().position(|c| Some(code(c)) == most).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} {b}");
    }

    #[test]
    fn exp_is_the_systems() {
        for i in 0..7000 {
            let x = -f64::from(i) * 0.100_37;
            let relative = exp(x) / libm::exp(x) - 1.0;
            assert!(relative.abs() < 5e-16, "{x}: {relative:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f64::NEG_INFINITY) < 1e-300);
    }

    /// Logits ln 1, ln 2, ln 5 are probabilities 1/8, 2/8, 5/8.
    const ONE_TWO_FIVE: [f32; 3] = [0.0, std::f32::consts::LN_2, 1.609_438];

    #[test]
    fn a_row_of_three() {
        let row = Row::new(&ONE_TWO_FIVE).unwrap();
        for (id, p) in [(0, 0.125f64), (1, 0.25), (2, 0.625)] {
            near(row.nll(id), -p.ln(), 1e-7);
        }
        assert_eq!((row.top(), row.nll(3)), (2, f64::INFINITY));
    }

    /// Base ½ ¼ ¼, row ¼ ½ ¼: KL = ½ ln 2 - ¼ ln 2 = ¼ ln 2.
    #[test]
    fn divergence_by_hand() {
        let ln2 = std::f32::consts::LN_2;
        let (base, row) = ([ln2, 0.0, 0.0], [0.0, ln2, 0.0]);
        let (base, row) = (Row::new(&base).unwrap(), Row::new(&row).unwrap());
        let Compared { nll, nll_base, kld, same_top } = row.against(&base, 0);
        // The nearest f32 to ln 2 is 2e-9 above it.
        near(kld, 0.25 * std::f64::consts::LN_2, 1e-9);
        let two = f64::from(ln2).exp();
        near(kld, (two - 1.0) / (two + 2.0) * f64::from(ln2), 1e-15);
        near(nll, 4f64.ln(), 1e-7);
        near(nll_base, 2f64.ln(), 1e-7);
        assert!(!same_top);
        let same = row.against(&row, 1);
        assert_eq!((same.kld, same.same_top), (0.0, true));
    }

    /// Two tokens of p = ½ whose logits differ by δ in the row: KL = ln cosh(δ/2), which is δ²/8 and far below what a
    /// difference of f32 logarithms shows.
    #[test]
    fn small_divergences_are_resolved() {
        for delta in [1e-3f32, 1e-4, 1e-5] {
            let (base, row) = ([0.0f32, 0.0], [0.0, delta]);
            let compared = Row::new(&row).unwrap().against(&Row::new(&base).unwrap(), 0);
            let expected = f64::from(delta).powi(2) / 8.0;
            assert!((compared.kld / expected - 1.0).abs() < 1e-4, "{delta}: {:e}", compared.kld);
        }
    }

    #[test]
    fn impossible_tokens() {
        let (base, row) = ([0.0, 0.0, f32::NEG_INFINITY], [0.0, 0.0, 0.0]);
        let (base, row) = (Row::new(&base).unwrap(), Row::new(&row).unwrap());
        near(row.against(&base, 0).kld, 1.5f64.ln(), 1e-12);
        // The row holds for impossible what the base does not.
        assert_eq!(base.against(&row, 0).kld, f64::INFINITY);
        assert_eq!(base.against(&base, 0).kld, 0.0);
        assert!(Row::new(&[0.0, f32::NAN]).is_none());
        assert!(Row::new(&[0.0, f32::INFINITY]).is_none());
        assert!(Row::new(&[f32::NEG_INFINITY; 9]).is_none());
    }

    /// Odd rows are filled up; the greatest logit is 65535, the least 0, and what is more than 16 below is 0 as well.
    #[test]
    fn packed_rows() {
        let logits = [0.0, -16.0, -1000.0, -8.0, f32::NEG_INFINITY];
        let row = Row::new(&logits).unwrap();
        let mut bytes = Vec::new();
        row.pack(&mut bytes);
        assert_eq!(bytes.len(), Packed::n_bytes(5));
        let packed = Packed::read(&bytes, 5).unwrap();
        let codes: Vec<u16> = packed.codes.iter().map(|&code| u16::from_le_bytes(code)).collect();
        // 8 / (16 / 65535) is 32767.5, and the even neighbour of that is 32768.
        assert_eq!(codes, [65535, 0, 0, 32768, 0]);
        near(f64::from(packed.least), -16.0 - (1.0 + (-8f64).exp() + (-16f64).exp()).ln(), 1e-6);
        near(row.against_packed(&packed, 3).kld, 0.0, 1e-6);
        assert!(Packed::read(&bytes[..bytes.len() - 4], 5).is_none());
        let even = Row::new(&[1.0, 1.0]).unwrap();
        let mut bytes = Vec::new();
        even.pack(&mut bytes);
        let packed = Packed::read(&bytes, 2).unwrap();
        near(f64::from(packed.log_probability(1)), 0.5f64.ln(), 1e-7);
    }
}
