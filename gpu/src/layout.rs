//! Weights as the shaders read them: tiles of 32 rows, each word of a row next to the same word of the other 31, so
//! that neighbouring threads read neighbouring words.
//!
//! A quantised block becomes, per row: for each 32 elements the stored codes in bit planes (4, 2 and 1 bits wide, or
//! whole bytes), then the integer scales and minimums a byte each, and after the rows' words the f32 or f16 scales of
//! the 32 rows. Every word stands 32 times. What is not a number of the format is not kept, so nothing can be decoded
//! differently. Float formats are four elements after four, zero past the row's end.

use gguf::DType;
use graph::ints::{ActFormat, Form, Ints, MinTerm, form};
use graph::{Arithmetic, Graph, LoadOptions, WeightId};

/// Rows in a tile.
pub(crate) const ROWS: usize = 32;

/// The f32 scales of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// One f16: half a word for each row.
    One,
    /// Two f16, the scale and what is added: a word.
    Two,
    /// A power of two out of f16's range: an f32.
    Power,
}

/// How one format is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// Groups of four elements, which take this many words.
    Float(usize),
    /// Blocks of integers.
    Quant(Quant),
}

/// Sizes of a block of integers, in words of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quant {
    pub(crate) form: Form,
    /// Words of the codes of 32 elements.
    pub(crate) unit_words: usize,
    /// Runs of elements with their own integer scale; 0 where the format has none.
    pub(crate) runs: usize,
    pub(crate) mins: bool,
    pub(crate) scales: Scales,
}

impl Quant {
    /// Groups of 32 elements in a block.
    pub(crate) fn units(&self) -> usize {
        self.form.block / 32
    }

    /// Where the integer scales begin.
    pub(crate) fn scales_at(&self) -> usize {
        self.units() * self.unit_words
    }

    /// Where the integer minimums begin.
    pub(crate) fn mins_at(&self) -> usize {
        self.scales_at() + self.runs / 4
    }

    /// Words of a row before the f32 scales.
    pub(crate) fn full(&self) -> usize {
        self.mins_at() + if self.mins { self.runs / 4 } else { 0 }
    }

    /// Words of a block of all 32 rows.
    pub(crate) fn block_words(&self) -> usize {
        let scales = match self.scales {
            Scales::One => ROWS / 2,
            Scales::Two | Scales::Power => ROWS,
        };
        self.full() * ROWS + scales
    }
}

impl Layout {
    /// The layout of a format.
    pub(crate) fn of(dtype: DType) -> Self {
        let Some(form) = form(dtype) else {
            return Self::Float(if dtype == DType::F32 { 4 } else { 2 });
        };
        let scales = match (dtype, form.min) {
            (DType::MXFP4, _) => Scales::Power,
            (_, MinTerm::Sum | MinTerm::Subs) => Scales::Two,
            (_, MinTerm::None) => Scales::One,
        };
        let runs = if form.sub < form.block { form.block / form.sub } else { 0 };
        Self::Quant(Quant {
            form,
            unit_words: usize::from(form.bits),
            runs,
            mins: form.min == MinTerm::Subs,
            scales,
        })
    }

    /// Blocks of a row of `n_in` elements: groups of four for float formats.
    pub(crate) fn blocks(&self, n_in: usize) -> usize {
        match self {
            Self::Float(_) => n_in.div_ceil(4),
            Self::Quant(q) => n_in / q.form.block,
        }
    }

    /// Words of a tile of rows of `n_in` elements.
    pub(crate) fn tile_words(&self, n_in: usize) -> usize {
        let block = match self {
            Self::Float(words) => words * ROWS,
            Self::Quant(q) => q.block_words(),
        };
        self.blocks(n_in) * block
    }

    /// Lays out up to 32 rows, as they stand in the file, into a tile of zeros.
    pub(crate) fn pack(&self, dtype: DType, rows: &[&[u8]], out: &mut [u32]) {
        match self {
            Self::Float(words) => {
                for (r, row) in rows.iter().enumerate() {
                    for (i, bytes) in row.chunks(4).enumerate() {
                        let mut word = [0; 4];
                        word[..bytes.len()].copy_from_slice(bytes);
                        out[(i / words * words + i % words) * ROWS + r] = u32::from_le_bytes(word);
                    }
                }
            }
            Self::Quant(q) => {
                let mut ints = Ints::new();
                for (r, row) in rows.iter().enumerate() {
                    for (b, bytes) in row.chunks(dtype.block_bytes()).enumerate() {
                        ints.unpack(dtype, bytes);
                        q.pack(&ints, r, &mut out[b * q.block_words()..][..q.block_words()]);
                    }
                }
            }
        }
    }
}

impl Quant {
    fn pack(&self, ints: &Ints, r: usize, out: &mut [u32]) {
        for u in 0..self.units() {
            for i in 0..32 {
                let code = u32::from(self.code(ints.q[32 * u + i]));
                let at = u * self.unit_words;
                let mut put = |word: usize, shift: usize, bits: u32| {
                    out[(at + word) * ROWS + r] |= bits << shift;
                };
                let (group, byte) = (i / 4, 8 * (i % 4));
                let mut nibble = |c: u32| put(group / 2, byte + 4 * (group % 2), c & 15);
                match self.form.bits {
                    8 => put(group, byte, code),
                    6 => {
                        nibble(code);
                        put(4 + group / 4, byte + 2 * (group % 4), code >> 4);
                    }
                    5 => {
                        nibble(code);
                        put(4, byte + group, code >> 4);
                    }
                    4 => nibble(code),
                    3 => {
                        put(group / 4, byte + 2 * (group % 4), code & 3);
                        put(2, byte + group, code >> 2);
                    }
                    _ => put(group / 4, byte + 2 * (group % 4), code),
                }
            }
        }
        let per_run = if self.runs == 0 { 1 } else { self.form.sub / 16 };
        for s in 0..self.runs {
            let word = |at: usize| (at + s / 4) * ROWS + r;
            out[word(self.scales_at())] |=
                u32::from(ints.scale[s * per_run] as u8) << (8 * (s % 4));
            if self.mins {
                out[word(self.mins_at())] |= u32::from(ints.min[s * per_run]) << (8 * (s % 4));
            }
        }
        let half = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
        let at = self.full() * ROWS;
        match self.scales {
            Scales::One => out[at + r / 2] |= half(ints.d) << (16 * (r % 2)),
            Scales::Two => out[at + r] = half(ints.d) | half(ints.m) << 16,
            Scales::Power => out[at + r] = ints.d.to_bits(),
        }
    }

    /// The stored code of a quant: `q + offset`, the index for formats with a table, or the signed byte.
    fn code(&self, q: i8) -> u8 {
        match self.form.table {
            // Two codes of MXFP4 mean 0; either gives the same integer.
            Some(table) => table.iter().position(|&v| v == q).map_or(0, |i| i as u8),
            None => q.wrapping_add(self.form.offset) as u8,
        }
    }
}

/// The format in which a product wants its activations quantised, or `None` for products in f32.
pub(crate) fn act_of(graph: &Graph, options: LoadOptions, w: WeightId) -> Option<ActFormat> {
    let int8 = options.arithmetic == Arithmetic::Int8;
    form(graph.weight(w).dtype).filter(|_| int8).map(|form| form.act)
}

/// Words of one row of `n` activations quantised to `act`.
pub(crate) fn act_words(act: ActFormat, n: usize) -> usize {
    let scales = match act {
        ActFormat::Q8x32 => n / 32 * 2,
        ActFormat::Q8x256 => n / 256,
    };
    // Whole fours, so that every row's quants can be read four words at a time.
    (n / 4 + n / 16 + scales).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_grows_by_much() {
        for dtype in DType::ALL {
            let layout = Layout::of(dtype);
            let bits = 32.0 * layout.tile_words(1024) as f64 / (1024.0 * ROWS as f64);
            let file = dtype.bits_per_weight();
            assert!(
                bits >= file.floor() && bits <= file * 1.2,
                "{dtype}: {bits} bits, file {file}"
            );
        }
    }

    #[test]
    fn float_rows_are_words_side_by_side() {
        let row: Vec<u8> = [1u16, 2, 3, 4, 5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let layout = Layout::of(DType::F16);
        assert_eq!(layout.tile_words(5), 4 * ROWS);
        let mut out = vec![0; layout.tile_words(5)];
        layout.pack(DType::F16, &[&row, &row], &mut out);
        assert_eq!((out[0], out[1], out[2]), (0x0002_0001, 0x0002_0001, 0));
        assert_eq!((out[ROWS], out[2 * ROWS], out[3 * ROWS]), (0x0004_0003, 5, 0));
    }
}
