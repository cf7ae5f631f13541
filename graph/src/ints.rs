//! The integer view of quantised blocks: what the `int8` and `int16` arithmetics multiply.
//!
//! Every quantised format is `w = d · scale[run] · q − m · min[run]` with small integers q, scale and min; the view
//! unpacks a block to exactly these. The reference computes from it. What a format's codes are, and which weights share
//! a scale, stands in the format's own file in `gguf/src/quant/`.

use crate::Arithmetic;
use gguf::DType;
use gguf::quant::{Block, Codes, Quant, Run, Scale, Shape, Visit};

/// Most elements in one block.
pub const MAX_BLOCK: usize = 256;

/// One block as integers.
#[derive(Clone, Debug)]
pub struct Ints {
    /// Signed quants, the first [`Form::block_len`] valid.
    pub q: [i8; MAX_BLOCK],
    /// Integer scale of each 16 elements; 1 where the format has none.
    pub scale: [i8; 16],
    /// Integer minimum of each 16 elements; 0 where the format has none.
    pub min: [u8; 16],
    /// f32 scale of the block.
    pub d: f32,
    /// What [`MinTerm`] multiplies; 0 where there is none.
    pub m: f32,
}

/// Which rounding of the activations a format is multiplied with, as in ggml's CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Q8Format {
    /// Blocks of 32 with an f16 scale (Q8_0; its sum rounded to f16 is Q8_1's `s`).
    Q8x32,
    /// Blocks of 256 with an f32 scale (Q8_K).
    Q8x256,
}

/// What activations are rounded to before they meet a format's quants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To 8 bits ([`crate::ops::quantize_q8`]).
    Q8(Q8Format),
    /// To 15 bits and a sign, blocks of 32 with an f32 scale ([`crate::ops::quantize_q16`]).
    Q16,
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

/// How a format takes part in the integer arithmetics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// How a stored code becomes a quant.
    pub codes: Codes,
    /// Which elements share a scale.
    pub shape: Shape,
    /// How the block's scale is stored.
    pub scale: Scale,
}

/// The format's part in the integer arithmetics, or `None` for float formats, which are computed in f32.
pub fn form(dtype: DType) -> Option<Form> {
    dtype.quant().map(|Quant { codes, shape, scale }| Form { codes, shape, scale })
}

impl Form {
    /// Elements in a block.
    pub fn block_len(&self) -> usize {
        self.shape.block_len()
    }

    /// Rounding of the activations, or `None` where they are not rounded.
    pub fn rounding(&self, arithmetic: Arithmetic) -> Option<Rounding> {
        match arithmetic {
            Arithmetic::Int8 => Some(Rounding::Q8(self.q8())),
            Arithmetic::Int16 => Some(Rounding::Q16),
            Arithmetic::F32 => None,
        }
    }

    /// Rounding of the activations in `int8`.
    pub fn q8(&self) -> Q8Format {
        match self.shape {
            Shape::One { .. } => Q8Format::Q8x32,
            Shape::Runs { .. } => Q8Format::Q8x256,
        }
    }

    /// The second step.
    pub fn min(&self) -> MinTerm {
        match self.shape {
            Shape::One { plus_m: false } | Shape::Runs { minus_min: false, .. } => MinTerm::None,
            Shape::One { plus_m: true } => MinTerm::Sum,
            Shape::Runs { minus_min: true, .. } => MinTerm::Subs,
        }
    }

    /// Elements of one integer sum in `int16`: those that share a scale.
    pub fn run_len(&self) -> usize {
        self.run().map_or(self.block_len(), Run::elements)
    }

    /// Elements that share an integer scale, where the format has integer scales.
    pub fn run(&self) -> Option<Run> {
        match self.shape {
            Shape::One { .. } => None,
            Shape::Runs { run, .. } => Some(run),
        }
    }

    /// Runs with an integer scale of their own in a block, or 0.
    pub fn n_runs(&self) -> usize {
        self.run().map_or(0, |run| self.block_len() / run.elements())
    }

    /// Bytes of a block as backends keep it: codes of [`Codes::bits`] each, a byte for each integer scale and minimum, and the
    /// float scales. Formats with grids have fewer in a file, where one index stands for several codes.
    pub fn resident_bytes(&self) -> usize {
        let d = match self.scale {
            Scale::F16 { .. } | Scale::Fraction { .. } => 2,
            Scale::E8m0 { .. } => 1,
        };
        let (m, run) = match self.min() {
            MinTerm::None => (0, 1),
            MinTerm::Sum => (2, 1),
            MinTerm::Subs => (2, 2),
        };
        d + m + self.n_runs() * run + self.block_len() * self.codes.bits() / 8
    }

    /// What is taken from a stored code to get the quant.
    pub fn offset(&self) -> i8 {
        match self.codes {
            Codes::Plain { offset, .. } => offset,
            Codes::Signs => 1,
            Codes::Bytes | Codes::Table(_) | Codes::ShortTable(_) => 0,
        }
    }
}

impl Ints {
    /// A block of zeros, to be unpacked into.
    pub fn new() -> Self {
        Self { q: [0; MAX_BLOCK], scale: [1; 16], min: [0; 16], d: 0.0, m: 0.0 }
    }

    /// Unpacks one block of `dtype`. Float formats have no integer view: they leave the block as it is ([`form`] is `None`
    /// for them, and callers ask it first).
    pub fn unpack(&mut self, dtype: DType, from: Part<'_>) {
        let _ = dtype.visit(Unpack { ints: self, from });
    }
}

/// A block of [`Form::block_len`] elements: a block of the file, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The block of the file.
    pub bytes: &'a [u8],
    /// Which of its parts ([`DType::parts`]).
    pub part: usize,
}

/// The blocks of a row as it stands in a file.
pub fn blocks(dtype: DType, row: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let parts = dtype.parts();
    row.chunks(dtype.block_bytes())
        .flat_map(move |bytes| (0..parts).map(move |part| Part { bytes, part }))
}

/// One run of weights in `int16`: `w = scale · q`, and `+ min` where the format has a minimum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunFloats {
    /// `d`, or `d · scale` where the format has integer scales.
    pub scale: f32,
    /// `m`, or `-(m · min)`; `None` where the format has no minimum.
    pub min: Option<f32>,
}

impl Ints {
    /// What the `i`-th run of a block's weights is scaled by: the floats that the format's decoder multiplies with.
    pub fn run(&self, form: Form, i: usize) -> RunFloats {
        let at = i * form.run_len() / 16;
        let scale = match form.shape {
            Shape::One { .. } => self.d,
            Shape::Runs { .. } => self.d * f32::from(self.scale[at]),
        };
        let min = match form.min() {
            MinTerm::None => None,
            MinTerm::Sum => Some(self.m),
            MinTerm::Subs => Some(-(self.m * f32::from(self.min[at]))),
        };
        RunFloats { scale, min }
    }
}

struct Unpack<'a> {
    ints: &'a mut Ints,
    from: Part<'a>,
}

impl Visit for Unpack<'_> {
    type Out = ();

    fn visit<B: Block>(self) {
        let Self { ints, from: Part { bytes, part } } = self;
        let Quant { codes, shape, scale } = B::QUANT;
        let [block] = B::all(bytes) else { unreachable!("callers cut one block") };
        ints.d = scale.d(bytes);
        ints.m = if shape.has_m() { scale.m(bytes) } else { 0.0 };
        for (unit, q) in ints.q[..shape.block_len()].as_chunks_mut::<32>().0.iter_mut().enumerate()
        {
            let unit = part * shape.block_len() / 32 + unit;
            for (q, word) in q.as_chunks_mut::<4>().0.iter_mut().zip(block.codes(unit)) {
                *q = word.to_le_bytes().map(|code| codes.value(code));
            }
        }
        if let Shape::Runs { run, .. } = shape {
            for i in 0..16 {
                let run = block.run(16 * i / run.elements());
                (ints.scale[i], ints.min[i]) = (run.scale, run.min);
            }
        }
    }
}

impl Default for Ints {
    fn default() -> Self {
        Self::new()
    }
}
