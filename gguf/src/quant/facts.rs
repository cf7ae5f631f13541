//! What every part of karat asks about a format: a block says it once, in its own file, as consts of [`Block`].

use super::half_power;
use crate::DType;
use bytemuck::Pod;
use half::f16;

/// Writes the weights of whole blocks.
pub type Decoder = fn(&[u8], &mut [f32]);
/// Quantises weights into whole blocks.
pub type Encoder = fn(&[f32], &mut [u8]);
/// Quantises the weights of one row by the importance of each.
pub type EncoderBy = fn(&[f32], &[f32], &mut [u8]);

/// A block of quantised weights as it lies in a file: `w = d · scale · q`, and `+ m` or `- m · min` where the format has
/// a minimum. Its fields are bytes, so that a block may lie anywhere.
pub trait Block: Pod {
    /// ggml's type id.
    const ID: u32;
    /// llama.cpp's `general.file_type` of a file whose matrices have this format; the smaller mix where it has several.
    const FILE_TYPE: u32;
    /// How codes and scales make weights.
    const QUANT: Quant;
    /// How many blocks of [`Self::QUANT`] it is, which share its scale.
    const PARTS: usize = 1;
    /// What llama-quantize takes instead where rows are no whole blocks of 256.
    const SHORTER: Option<DType> = None;
    /// Writes the weights of whole blocks.
    const DECODE: Decoder;
    /// Quantises into whole blocks, where karat can.
    const ENCODE: Option<Encoder> = None;
    /// The same by an importance matrix, where the format heeds one.
    const ENCODE_BY: Option<EncoderBy> = None;

    /// The codes of the 32 weights from `32 * unit` on, a byte each: four in a word, the first in the lowest byte.
    fn codes(&self, unit: usize) -> [u32; 8];

    /// Integer scale and minimum of a run of weights, in formats of [`Shape::Runs`].
    fn run(&self, _run: usize) -> RunScale {
        RunScale { scale: 1, min: 0 }
    }

    /// Changes a block of random bytes, beside its float scales, to one that an encoder could have written.
    fn make_plausible(&mut self) {}

    /// The blocks that `bytes` hold.
    fn all(bytes: &[u8]) -> &[Self] {
        bytemuck::cast_slice(bytes)
    }
}

/// How a format's codes and scales make weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quant {
    /// From a code to its integer.
    pub codes: Codes,
    /// How many weights share a scale.
    pub shape: Shape,
    /// The block's own scale `d`.
    pub scale: Scale,
}

/// How a stored code becomes the integer q that is multiplied.
///
/// A backend matches on this where it picks the code that unpacks, so a new kind is a compile error in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codes {
    /// `q = code - offset`.
    Plain {
        /// Size of a code.
        bits: Bits,
        /// Makes q signed where the code is not.
        offset: i8,
    },
    /// One bit: `q = 2 · code - 1`.
    Signs,
    /// The code is q, a signed byte.
    Bytes,
    /// A code of four bits is the place of q in these values.
    Table(&'static [i8; 16]),
    /// A code of three bits is the place of q in these values.
    ShortTable(&'static [i8; 8]),
}

/// Bits of a plain code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Bits {
    Two,
    Three,
    Four,
    Five,
    Six,
}

impl Bits {
    const fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
            Self::Five => 5,
            Self::Six => 6,
        }
    }
}

impl Codes {
    /// Bits of a stored code.
    pub const fn bits(self) -> usize {
        match self {
            Self::Plain { bits, .. } => bits.count(),
            Self::Signs => 1,
            Self::Bytes => 8,
            Self::Table(_) => 4,
            Self::ShortTable(_) => 3,
        }
    }

    /// The integer of a code.
    #[inline(always)]
    pub fn value(self, code: u8) -> i8 {
        match self {
            Self::Plain { offset, .. } => code as i8 - offset,
            Self::Signs => 2 * (code & 1) as i8 - 1,
            Self::Bytes => code as i8,
            Self::Table(values) => values[usize::from(code & 15)],
            Self::ShortTable(values) => values[usize::from(code & 7)],
        }
    }

    /// The integers of all codes.
    pub fn values(self) -> impl Iterator<Item = i8> {
        (0..1u16 << self.bits()).map(move |code| self.value(code as u8))
    }
}

/// How many weights a block has, and which of them share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// 32 weights: `w = d · q`, or `d · q + m`.
    One {
        /// Whether m follows d.
        plus_m: bool,
    },
    /// 256 weights: `w = d · scale · q`, or `d · scale · q - m · min`.
    Runs {
        /// Weights that share an integer scale.
        run: Run,
        /// The largest magnitude of an integer scale.
        largest_scale: u8,
        /// Whether each run has an integer minimum, and m follows d.
        minus_min: bool,
    },
}

/// Weights that share an integer scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Run {
    Of16,
    Of32,
}

impl Run {
    /// How many.
    pub const fn elements(self) -> usize {
        match self {
            Self::Of16 => 16,
            Self::Of32 => 32,
        }
    }
}

impl Shape {
    /// Weights in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::One { .. } => 32,
            Self::Runs { .. } => 256,
        }
    }

    /// Whether `m` stands behind `d`.
    pub const fn has_m(self) -> bool {
        match self {
            Self::One { plus_m } => plus_m,
            Self::Runs { minus_min, .. } => minus_min,
        }
    }
}

/// A run's integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunScale {
    /// What its quants are multiplied by.
    pub scale: i8,
    /// What `m` is multiplied by.
    pub min: u8,
}

/// How the scale of a block is stored, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// An f16. Where the shape has an `m`, it is the f16 behind it.
    F16 {
        /// Its first byte.
        at: usize,
    },
    /// An f16, divided by two as often as `halvings` says: the integer scales of such formats are odd numbers, which count
    /// halves, quarters or eighths.
    Fraction {
        /// Where the f16 stands.
        of: Half,
        /// 2 for a quarter.
        halvings: u8,
    },
    /// One byte: the power of two of [`half_power`]. 255 stands for NaN.
    E8m0 {
        /// The byte.
        at: usize,
    },
}

/// Where the f16 of a block stands that has it not in two bytes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// At this byte.
    At(usize),
    /// In four u16 from this byte on: their highest four bits are its nibbles, the lowest first.
    Nibbles(usize),
}

impl Half {
    /// Its bytes, little-endian.
    #[inline(always)]
    pub fn get(self, block: &[u8]) -> [u8; 2] {
        match self {
            Self::At(at) => [block[at], block[at + 1]],
            Self::Nibbles(at) => {
                let nibble = |i: usize| block[at + 2 * i + 1] >> 4;
                [nibble(0) | nibble(1) << 4, nibble(2) | nibble(3) << 4]
            }
        }
    }

    /// Writes it into a block.
    pub fn set(self, block: &mut [u8], half: [u8; 2]) {
        match self {
            Self::At(at) => block[at..at + 2].copy_from_slice(&half),
            Self::Nibbles(at) => {
                let bits = u16::from_le_bytes(half);
                for i in 0..4 {
                    let byte = &mut block[at + 2 * i + 1];
                    *byte = *byte & 15 | ((bits >> (4 * i)) as u8) << 4;
                }
            }
        }
    }
}

impl Scale {
    /// The scale of a block.
    pub fn d(self, block: &[u8]) -> f32 {
        match self {
            Self::F16 { at } => half_at(block, at),
            Self::Fraction { of, .. } => {
                f16::from_le_bytes(of.get(block)).to_f32() * self.fraction()
            }
            Self::E8m0 { at } => half_power(block[at]),
        }
    }

    /// What stands behind it, in the shapes that have it.
    pub fn m(self, block: &[u8]) -> f32 {
        match self {
            Self::F16 { at } => half_at(block, at + 2),
            Self::Fraction { .. } | Self::E8m0 { .. } => 0.0,
        }
    }

    /// What the stored number is multiplied by: a power of two, so that it is exact.
    pub fn fraction(self) -> f32 {
        match self {
            Self::F16 { .. } | Self::E8m0 { .. } => 1.0,
            Self::Fraction { halvings, .. } => f32::from_bits((127 - u32::from(halvings)) << 23),
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Work that is compiled for each block format. [`DType::visit`] picks the format.
pub trait Visit {
    /// What comes out.
    type Out;
    /// Does it.
    fn visit<B: Block>(self) -> Self::Out;
}

/// A format of which each weight is a float by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are ggml's")]
pub enum Float {
    F32,
    F16,
    BF16,
}

/// What a format is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats, one by one.
    Float(Float),
    /// Blocks of codes.
    Quant(Quant),
}

/// All that [`DType`] says of one format.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) id: u32,
    pub(crate) file_type: u32,
    pub(crate) block_len: usize,
    pub(crate) block_bytes: usize,
    pub(crate) parts: usize,
    pub(crate) kind: Kind,
    pub(crate) shorter: Option<DType>,
    pub(crate) decode: Decoder,
    pub(crate) encode: Option<Encoder>,
    pub(crate) encode_by: Option<EncoderBy>,
}

impl Facts {
    pub(crate) const fn of<B: Block>() -> Self {
        Self {
            id: B::ID,
            file_type: B::FILE_TYPE,
            block_len: B::QUANT.shape.block_len() * B::PARTS,
            block_bytes: size_of::<B>(),
            parts: B::PARTS,
            kind: Kind::Quant(B::QUANT),
            shorter: B::SHORTER,
            decode: B::DECODE,
            encode: B::ENCODE,
            encode_by: B::ENCODE_BY,
        }
    }
}
