//! Weights as the shaders read them: tiles of 32 rows, each word of a row next to the same word of the other 31, so
//! that neighbouring threads read neighbouring words.
//!
//! A quantised block becomes, per row: for each 32 elements the stored codes in bit planes (4, 2 and 1 bits wide, or
//! whole bytes), then the integer scales and minimums a byte each, and after the rows' words the f32 or f16 scales of
//! the 32 rows. Every word stands 32 times. What is not a number of the format is not kept, so nothing can be decoded
//! differently. Float formats are four elements after four, zero past the row's end.

use gguf::DType;
use gguf::quant::{Bits, Block, Codes, Float, Half, Kind, RunScale, Scale, Visit};
use graph::ints::{Form, MinTerm, Q8Format, Rounding, form};
use graph::ops::quantize_q16::BLOCK;
use graph::{Graph, LoadOptions, WeightId};

/// Rows in a tile.
pub(crate) const ROWS: usize = 32;

/// Every byte's low nibble, low two bits, lowest bit.
const NIBBLES: u32 = 0x0f0f_0f0f;
const TWOS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

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
    /// Groups of four elements.
    Float {
        /// What an element is.
        kind: Float,
        /// Words of a group.
        words: usize,
    },
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
        self.form.block_len() / 32
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
            return match dtype.kind() {
                Kind::Float(kind @ Float::F32) => Self::Float { kind, words: 4 },
                Kind::Float(kind @ (Float::F16 | Float::BF16)) => Self::Float { kind, words: 2 },
                Kind::Quant(_) => unreachable!("every block format has a form"),
            };
        };
        let scales = match (form.scale, form.min()) {
            (Scale::F16 { .. }, MinTerm::None) | (Scale::Fraction { .. }, _) => Scales::One,
            (Scale::F16 { .. }, MinTerm::Sum | MinTerm::Subs) => Scales::Two,
            (Scale::E8m0 { .. }, _) => Scales::Power,
        };
        Self::Quant(Quant {
            form,
            unit_words: form.codes.bits(),
            runs: form.n_runs(),
            mins: form.min() == MinTerm::Subs,
            scales,
        })
    }

    /// Blocks of a row of `n_in` elements: groups of four for float formats.
    pub(crate) fn blocks(&self, n_in: usize) -> usize {
        match self {
            Self::Float { .. } => n_in.div_ceil(4),
            Self::Quant(q) => n_in / q.form.block_len(),
        }
    }

    /// Words of a tile of rows of `n_in` elements.
    pub(crate) fn tile_words(&self, n_in: usize) -> usize {
        let block = match self {
            Self::Float { words, .. } => words * ROWS,
            Self::Quant(q) => q.block_words(),
        };
        self.blocks(n_in) * block
    }

    /// Lays out up to 32 rows, as they stand in the file, into a tile of zeros.
    pub(crate) fn pack(&self, dtype: DType, rows: &[&[u8]], out: &mut [u32]) {
        match self {
            Self::Float { words, .. } => {
                for (r, row) in rows.iter().enumerate() {
                    for (i, bytes) in row.chunks(4).enumerate() {
                        let mut word = [0; 4];
                        word[..bytes.len()].copy_from_slice(bytes);
                        out[(i / words * words + i % words) * ROWS + r] = u32::from_le_bytes(word);
                    }
                }
            }
            Self::Quant(q) => {
                for (r, row) in rows.iter().enumerate() {
                    // Float formats have been laid out above.
                    let _ = dtype.visit(PackRow { quant: q, r, row, out: &mut *out });
                }
            }
        }
    }
}

/// Lays out row `r` of a tile.
struct PackRow<'a> {
    quant: &'a Quant,
    r: usize,
    row: &'a [u8],
    out: &'a mut [u32],
}

impl Visit for PackRow<'_> {
    type Out = ();

    fn visit<B: Block>(self) {
        let Self { quant, r, row, out } = self;
        let tiles = out.chunks_mut(quant.block_words());
        for (b, out) in tiles.enumerate() {
            let (bytes, part) =
                (&row[b / B::PARTS * size_of::<B>()..][..size_of::<B>()], b % B::PARTS);
            let [block] = B::all(bytes) else { unreachable!("the bytes of one block") };
            for u in 0..quant.units() {
                let unit = &mut out[u * quant.unit_words * ROWS..];
                pack_unit(quant.form.codes, block.codes(part * quant.units() + u), |word, bits| {
                    unit[word * ROWS + r] |= bits;
                });
            }
            for s in 0..quant.runs {
                let RunScale { scale, min } = block.run(s);
                let mut put = |at: usize, byte: u8| {
                    out[(at + s / 4) * ROWS + r] |= u32::from(byte) << (8 * (s % 4));
                };
                put(quant.scales_at(), scale as u8);
                if quant.mins {
                    put(quant.mins_at(), min);
                }
            }
            let half = |of: Half| u32::from(u16::from_le_bytes(of.get(bytes)));
            let to = quant.full() * ROWS;
            match (B::QUANT.scale, quant.scales) {
                (Scale::F16 { at }, Scales::Two) => {
                    out[to + r] = half(Half::At(at)) | half(Half::At(at + 2)) << 16;
                }
                (Scale::F16 { at }, Scales::One | Scales::Power) => {
                    out[to + r / 2] |= half(Half::At(at)) << (16 * (r % 2));
                }
                (Scale::Fraction { of, .. }, _) => out[to + r / 2] |= half(of) << (16 * (r % 2)),
                (Scale::E8m0 { .. }, _) => out[to + r] = B::QUANT.scale.d(bytes).to_bits(),
            }
        }
    }
}

/// The words of 32 codes of one row, from the words that hold four codes each; `put` adds bits to one of them.
fn pack_unit(kind: Codes, codes: [u32; 8], mut put: impl FnMut(usize, u32)) {
    for (g, code) in codes.into_iter().enumerate() {
        let mut nibble = |code: u32| put(g / 2, (code & NIBBLES) << (4 * (g % 2)));
        match kind {
            Codes::Signs => put(0, (code & ONES) << g),
            Codes::Bytes => put(g, code),
            Codes::Plain { bits: Bits::Six, .. } => {
                nibble(code);
                put(4 + g / 4, (code >> 4 & TWOS) << (2 * (g % 4)));
            }
            Codes::Plain { bits: Bits::Five, .. } => {
                nibble(code);
                put(4, (code >> 4 & ONES) << g);
            }
            Codes::Plain { bits: Bits::Four, .. } | Codes::Table(_) => nibble(code),
            Codes::Plain { bits: Bits::Three, .. } | Codes::ShortTable(_) => {
                put(g / 4, (code & TWOS) << (2 * (g % 4)));
                put(2, (code >> 2 & ONES) << g);
            }
            Codes::Plain { bits: Bits::Two, .. } => put(g / 4, (code & TWOS) << (2 * (g % 4))),
        }
    }
}

/// How a product wants its activations quantised, or `None` for products in f32.
pub(crate) fn rounding_of(graph: &Graph, options: LoadOptions, w: WeightId) -> Option<Rounding> {
    form(graph.weight(w).dtype)?.rounding(options.arithmetic)
}

/// Words of 32 activations rounded to 15 bits and a sign: their high bytes, their low bytes, two sums, a scale, and the
/// scaled sum. `quantize/blocks_q16.wgsl` writes them.
const Q16_UNIT: usize = 8 + 8 + 4;

/// Words of one row of `n` quantised activations. Whole fours, so that every row's can be read four words at a time.
pub(crate) fn quantized_words(rounding: Rounding, n: usize) -> usize {
    let scales = match rounding {
        Rounding::Q8(Q8Format::Q8x32) => n / 32 * 2,
        Rounding::Q8(Q8Format::Q8x256) => n / 256,
        Rounding::Q16 => return n / BLOCK * Q16_UNIT,
    };
    (n / 4 + n / 16 + scales).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bits more than the file's a weight takes. A point of a grid is kept as codes of its weights, three or four
    /// bits each, and digits of base 3 as two bits; parts of a block have a scale each.
    const GROWN: [(DType, f64); 9] = [
        (DType::IQ1_S, 3.3125),
        (DType::IQ1_M, 3.5625),
        (DType::IQ2_XXS, 3.3125),
        (DType::IQ2_XS, 3.5625),
        (DType::IQ2_S, 3.5625),
        (DType::IQ3_XXS, 4.3125),
        (DType::IQ3_S, 4.3125),
        (DType::TQ1_0, 2.3125),
        (DType::Q1_0, 1.5),
    ];

    #[test]
    fn no_format_grows_by_much() {
        for dtype in DType::ALL {
            let layout = Layout::of(dtype);
            let bits = 32.0 * layout.tile_words(1024) as f64 / (1024.0 * ROWS as f64);
            let file = dtype.bits_per_weight();
            let grown = GROWN.iter().find(|(grown, _)| *grown == dtype);
            let most = grown.map_or(file * 1.2, |(_, bits)| *bits);
            assert!(bits >= file.floor() && bits <= most, "{dtype}: {bits} bits, file {file}");
        }
    }

    /// A byte of each of four codes, as `codes` of `weights.wgsl` takes them out of a unit's words.
    fn codes(kind: Codes, word: &dyn Fn(usize) -> u32, j: usize) -> u32 {
        // Not before it is asked for: a format of fewer bits has no such word.
        let nibbles = || (word(j / 2) >> (4 * (j % 2))) & 0x0f0f_0f0f;
        let twos = |at: usize| (word(at + j / 4) >> (2 * (j % 4))) & 0x0303_0303;
        let ones = |at: usize| (word(at) >> j) & 0x0101_0101;
        match kind.bits() {
            8 => word(j),
            6 => nibbles() | twos(4) << 4,
            5 => nibbles() | ones(4) << 4,
            4 => nibbles(),
            3 => twos(0) | ones(2) << 2,
            2 => twos(0),
            1 => ones(0),
            bits => panic!("codes of {bits} bits"),
        }
    }

    #[test]
    fn a_row_out_of_a_tile_is_the_decoded_row_of_the_file() {
        let mut rng = graph::cases::Rng::new(3);
        for dtype in DType::ALL {
            let Layout::Quant(q) = Layout::of(dtype) else { continue };
            let n_in = 2 * dtype.block_len();
            let bytes = graph::cases::random_tensor(&mut rng, dtype, ROWS * n_in, 1.0);
            let rows: Vec<&[u8]> = bytes.chunks(dtype.row_bytes(n_in)).collect();
            let mut tile = vec![0; Layout::Quant(q).tile_words(n_in)];
            Layout::Quant(q).pack(dtype, &rows, &mut tile);
            let mut want = vec![0.0f32; n_in];
            for (r, row) in rows.iter().enumerate() {
                dtype.dequantize(row, &mut want);
                for (i, want) in want.iter().enumerate() {
                    let (block, at) = (i / q.form.block_len(), i % q.form.block_len());
                    let block = &tile[block * q.block_words()..];
                    let word = |k: usize| block[k * ROWS + r];
                    let byte =
                        |words_at: usize, i: usize| word(words_at + i / 4).to_le_bytes()[i % 4];
                    let unit = |k: usize| word(at / 32 * q.unit_words + k);
                    let code = codes(q.form.codes, &unit, at % 32 / 4).to_le_bytes()[at % 4];
                    let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
                    let last = q.full() * ROWS;
                    let (d, m) = match q.scales {
                        Scales::One => {
                            let stored = half(block[last + r / 2] >> (16 * (r % 2)));
                            (stored * q.form.scale.fraction(), 0.0)
                        }
                        Scales::Two => (half(block[last + r]), half(block[last + r] >> 16)),
                        Scales::Power => (f32::from_bits(block[last + r]), 0.0),
                    };
                    let run = q.form.run().map(|run| at / run.elements());
                    let scale = run.map_or(d, |run| d * f32::from(byte(q.scales_at(), run) as i8));
                    let product = scale * f32::from(q.form.codes.value(code));
                    let got = match q.form.min() {
                        MinTerm::None => product,
                        MinTerm::Sum => product + m,
                        MinTerm::Subs => {
                            let run = run.expect("minimums are of runs");
                            product - m * f32::from(byte(q.mins_at(), run))
                        }
                    };
                    assert_eq!(got.to_bits(), want.to_bits(), "{dtype} row {r} element {i}");
                }
            }
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
