//! The integer view of quantised blocks: what the `int8` arithmetic multiplies.
//!
//! Every quantised format is `w = d · scale[sub] · q − m · min[sub]` with small integers q, scale and min; the view
//! unpacks a block to exactly these. The reference computes from it, and backends repack from it.

use gguf::{DType, IQ4_NL_VALUES, MXFP4_VALUES, half_power, scale_min_k4};
use half::f16;

/// Most elements in one block.
pub const MAX_BLOCK: usize = 256;

/// One block as integers.
#[derive(Clone, Debug)]
pub struct Ints {
    /// Signed quants, the first `form.block` valid.
    pub q: [i8; MAX_BLOCK],
    /// Integer scale of each run of 16 elements; 1 where the format has none.
    pub scale: [i8; 16],
    /// Integer minimum of each run of 16 elements; 0 where the format has none.
    pub min: [u8; 16],
    /// f32 scale of the block.
    pub d: f32,
    /// Q4_1, Q5_1: what is added (`+m`). Formats with integer minima: `dmin`. Else 0.
    pub m: f32,
}

/// Which rounding of the activations a format is multiplied with, as in ggml's CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// Blocks of 32 with an f16 scale (Q8_0; its sum rounded to f16 is Q8_1's `s`).
    Q8x32,
    /// Blocks of 256 with an f32 scale (Q8_K).
    Q8x256,
}

/// What a format adds to the accumulator after `d · isum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MinTerm {
    /// Nothing.
    None,
    /// `acc = fma(m, s, acc)` with the activation block's rounded sum `s` (Q4_1, Q5_1).
    Sum,
    /// `acc = fma(-(m · d_a), Σ min · bsum, acc)` (Q2_K, Q4_K, Q5_K).
    Subs,
}

/// How a format takes part in the `int8` arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// Elements in a block.
    pub block: usize,
    /// Rounding of the activations.
    pub act: ActFormat,
    /// The second step.
    pub min: MinTerm,
    /// Quants are stored as `q + offset >= 0` in `bits` bits (for tables: the index).
    pub offset: i8,
    /// Bits of one stored quant.
    pub bits: u8,
    /// Values that a 4-bit index stands for, in the formats that have a table.
    pub table: Option<&'static [i8; 16]>,
    /// Elements that share one integer scale: 16, 32, or `block` where there is none.
    pub sub: usize,
    /// The largest magnitude of an integer scale; 1 where there is none.
    pub scale_most: u8,
}

/// The format's part in the `int8` arithmetic, or `None` for float formats, which are computed in f32.
pub fn form(dtype: DType) -> Option<Form> {
    use ActFormat::{Q8x32, Q8x256};
    use MinTerm::{None as NoMin, Subs, Sum};
    let b32 = |bits, offset, min| Form {
        block: 32,
        act: Q8x32,
        min,
        offset,
        bits,
        table: None,
        sub: 32,
        scale_most: 1,
    };
    let k = |bits, offset, min, (sub, scale_most)| Form {
        block: 256,
        act: Q8x256,
        min,
        offset,
        bits,
        table: None,
        sub,
        scale_most,
    };
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => None,
        DType::Q4_0 => Some(b32(4, 8, NoMin)),
        DType::Q4_1 => Some(b32(4, 0, Sum)),
        DType::Q5_0 => Some(b32(5, 16, NoMin)),
        DType::Q5_1 => Some(b32(5, 0, Sum)),
        // 8-bit quants are stored signed; kernels that want them unsigned add their own 128.
        DType::Q8_0 => Some(b32(8, 0, NoMin)),
        DType::Q2_K => Some(k(2, 0, Subs, (16, 15))),
        DType::Q3_K => Some(k(3, 4, NoMin, (16, 32))),
        DType::Q4_K => Some(k(4, 0, Subs, (32, 63))),
        DType::Q5_K => Some(k(5, 0, Subs, (32, 63))),
        DType::Q6_K => Some(k(6, 32, NoMin, (16, 128))),
        DType::IQ4_NL => Some(Form { table: Some(&IQ4_NL_VALUES), ..b32(4, 0, NoMin) }),
        DType::IQ4_XS => Some(Form { table: Some(&IQ4_NL_VALUES), ..k(4, 0, NoMin, (32, 32)) }),
        DType::MXFP4 => Some(Form { table: Some(&MXFP4_VALUES), ..b32(4, 0, NoMin) }),
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Low nibbles to the first half of `q`, high nibbles to the second; `bit(i)` is added for element i.
fn nibbles32(q: &mut [i8], qs: &[u8], value: impl Fn(usize, u8) -> i8) {
    for j in 0..16 {
        q[j] = value(j, qs[j] & 15);
        q[j + 16] = value(j + 16, qs[j] >> 4);
    }
}

impl Ints {
    /// A block of zeros, to be unpacked into.
    pub fn new() -> Self {
        Self { q: [0; MAX_BLOCK], scale: [1; 16], min: [0; 16], d: 0.0, m: 0.0 }
    }

    /// Unpacks one block of `dtype`. `b` holds `dtype.block_bytes()` bytes. Float formats have no integer view: they
    /// leave the block as it is ([`form`] is `None` for them, and callers ask it first).
    pub fn unpack(&mut self, dtype: DType, b: &[u8]) {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {}
            DType::Q4_0 => {
                self.d = half_at(b, 0);
                nibbles32(&mut self.q, &b[2..], |_, n| n as i8 - 8);
            }
            DType::Q4_1 => {
                (self.d, self.m) = (half_at(b, 0), half_at(b, 2));
                nibbles32(&mut self.q, &b[4..], |_, n| n as i8);
            }
            DType::Q5_0 => {
                self.d = half_at(b, 0);
                let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
                nibbles32(&mut self.q, &b[6..], |i, n| {
                    (n as i8 | (((high >> i) & 1) as i8) << 4) - 16
                });
            }
            DType::Q5_1 => {
                (self.d, self.m) = (half_at(b, 0), half_at(b, 2));
                let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
                nibbles32(&mut self.q, &b[8..], |i, n| n as i8 | (((high >> i) & 1) as i8) << 4);
            }
            DType::Q8_0 => {
                self.d = half_at(b, 0);
                for j in 0..32 {
                    self.q[j] = b[2 + j] as i8;
                }
            }
            DType::Q2_K => self.q2_k(b),
            DType::Q3_K => self.q3_k(b),
            DType::Q4_K => self.q4_k(b),
            DType::Q5_K => self.q5_k(b),
            DType::Q6_K => self.q6_k(b),
            DType::IQ4_NL => {
                self.d = half_at(b, 0);
                nibbles32(&mut self.q, &b[2..], |_, n| IQ4_NL_VALUES[n as usize]);
            }
            DType::IQ4_XS => self.iq4_xs(b),
            DType::MXFP4 => {
                self.d = half_power(b[0]);
                nibbles32(&mut self.q, &b[1..], |_, n| MXFP4_VALUES[n as usize]);
            }
        }
    }

    fn q2_k(&mut self, b: &[u8]) {
        let (scales, qs) = (&b[..16], &b[16..80]);
        (self.d, self.m) = (half_at(b, 80), half_at(b, 82));
        for (i, s) in scales.iter().enumerate() {
            (self.scale[i], self.min[i]) = ((s & 15) as i8, s >> 4);
        }
        for i in 0..256 {
            let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
            self.q[i] = ((qs[32 * n + l] >> (2 * j)) & 3) as i8;
        }
    }

    fn q3_k(&mut self, b: &[u8]) {
        let (high, qs, s) = (&b[..32], &b[32..96], &b[96..108]);
        self.d = half_at(b, 108);
        for i in 0..16 {
            let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
            let top = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
            self.scale[i] = (low | top << 4) as i8 - 32;
        }
        for i in 0..256 {
            let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
            let bit = (high[l] >> (4 * n + j)) & 1;
            self.q[i] = ((qs[32 * n + l] >> (2 * j)) & 3) as i8 - if bit == 1 { 0 } else { 4 };
        }
    }

    fn scales_k4(&mut self, s: &[u8]) {
        for j in 0..8 {
            let (scale, min) = scale_min_k4(j, s);
            for half in 0..2 {
                (self.scale[2 * j + half], self.min[2 * j + half]) = (scale as i8, min);
            }
        }
    }

    fn q4_k(&mut self, b: &[u8]) {
        (self.d, self.m) = (half_at(b, 0), half_at(b, 2));
        self.scales_k4(&b[4..16]);
        for (j, qs) in b[16..144].chunks_exact(32).enumerate() {
            for l in 0..32 {
                self.q[64 * j + l] = (qs[l] & 15) as i8;
                self.q[64 * j + 32 + l] = (qs[l] >> 4) as i8;
            }
        }
    }

    fn q5_k(&mut self, b: &[u8]) {
        (self.d, self.m) = (half_at(b, 0), half_at(b, 2));
        self.scales_k4(&b[4..16]);
        let high = &b[16..48];
        for (j, qs) in b[48..176].chunks_exact(32).enumerate() {
            for l in 0..32 {
                self.q[64 * j + l] = (qs[l] & 15 | ((high[l] >> (2 * j)) & 1) << 4) as i8;
                self.q[64 * j + 32 + l] = (qs[l] >> 4 | ((high[l] >> (2 * j + 1)) & 1) << 4) as i8;
            }
        }
    }

    fn q6_k(&mut self, b: &[u8]) {
        let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
        self.d = half_at(b, 208);
        for (i, &s) in scales.iter().enumerate() {
            self.scale[i] = s as i8;
        }
        for i in 0..256 {
            let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
            let byte = low[64 * n + 32 * (j % 2) + l];
            let nibble = if j < 2 { byte & 15 } else { byte >> 4 };
            self.q[i] = (nibble | ((high[32 * n + l] >> (2 * j)) & 3) << 4) as i8 - 32;
        }
    }

    fn iq4_xs(&mut self, b: &[u8]) {
        self.d = half_at(b, 0);
        let scales_high = u16::from_le_bytes([b[2], b[3]]);
        for ib in 0..8 {
            let low = (b[4 + ib / 2] >> (4 * (ib % 2))) & 15;
            let scale = (low | (((scales_high >> (2 * ib)) & 3) as u8) << 4) as i8 - 32;
            (self.scale[2 * ib], self.scale[2 * ib + 1]) = (scale, scale);
            nibbles32(&mut self.q[32 * ib..], &b[8 + 16 * ib..], |_, n| IQ4_NL_VALUES[n as usize]);
        }
    }
}

impl Default for Ints {
    fn default() -> Self {
        Self::new()
    }
}
