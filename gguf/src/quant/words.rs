//! Codes four at a time, as the bytes of a word: neighbouring weights have their codes in neighbouring bytes of a block,
//! so shifts and masks of whole words take them out.

/// Every byte's low nibble, low two bits, lowest bit.
const NIBBLES: u32 = 0x0f0f_0f0f;
const TWOS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

/// The eight words of 32 codes.
#[inline(always)]
pub(super) fn words(f: impl Fn(usize) -> u32) -> [u32; 8] {
    std::array::from_fn(f)
}

/// The four bytes from `at` on.
#[inline(always)]
pub(super) fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// 32 codes of four bits in 16 bytes: the first sixteen in the low nibbles.
#[inline(always)]
pub(super) fn nibbles(b: &[u8; 16]) -> [u32; 8] {
    words(|g| (word(b, 4 * (g % 4)) >> (4 * (g / 4))) & NIBBLES)
}

/// 32 codes of four bits where 32 bytes hold two units, the even one in the low nibbles.
#[inline(always)]
pub(super) fn paired_nibbles(b: &[u8; 128], unit: usize) -> [u32; 8] {
    words(|g| (word(b, 32 * (unit / 2) + 4 * g) >> (4 * (unit % 2))) & NIBBLES)
}

/// 32 codes of four bits where 64 bytes hold four units: two in the low nibbles, then two in the high ones.
#[inline(always)]
pub(super) fn crossed_nibbles(b: &[u8; 128], unit: usize) -> [u32; 8] {
    let (n, k) = (unit / 4, unit % 4);
    words(|g| (word(b, 64 * n + 32 * (k % 2) + 4 * g) >> (4 * (k / 2))) & NIBBLES)
}

/// 32 codes of two bits where 32 bytes hold four units, the first in the lowest bits.
#[inline(always)]
pub(super) fn twos(b: &[u8; 64], unit: usize) -> [u32; 8] {
    words(|g| (word(b, 32 * (unit / 4) + 4 * g) >> (2 * (unit % 4))) & TWOS)
}

/// 32 codes of one bit where 32 bytes hold eight units, the first in the lowest bits.
#[inline(always)]
pub(super) fn ones(b: &[u8; 32], unit: usize) -> [u32; 8] {
    words(|g| (word(b, 4 * g) >> unit) & ONES)
}

/// 32 codes of two bits, one after the other, the first in the lowest bits.
#[inline(always)]
pub(super) fn spread_twos(b: &[u8; 8]) -> [u32; 8] {
    words(|g| twos_of(u32::from(b[g])))
}

/// Four numbers of two bits as bytes, the first in the lowest.
#[inline(always)]
pub(super) const fn twos_of(bits: u32) -> u32 {
    (bits | bits << 6 | bits << 12 | bits << 18) & TWOS
}

/// Bit i of `bits` as code i.
#[inline(always)]
pub(super) fn spread(bits: u32) -> [u32; 8] {
    // The product puts bit i of a nibble at bit 8i (and elsewhere, which the mask takes away).
    words(|g| ((bits >> (4 * g)) & 15).wrapping_mul(0x0020_4081) & ONES)
}

/// `low` with the bits of `high` above its `by` bits.
#[inline(always)]
pub(super) fn joined(low: [u32; 8], high: [u32; 8], by: u32) -> [u32; 8] {
    words(|g| low[g] | high[g] << by)
}
