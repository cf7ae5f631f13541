//! Codes out of the bit planes of a tile's block, and its scales.

use crate::kernels::lanes;
use crate::simd::{Isa, LANES};
use crate::tiles::{Layout, UNIT};
use gguf::quant::{Codes, Scale};

/// f16 bits as they lie in a block.
#[inline(always)]
pub(crate) fn f16s<I: Isa>(isa: I, block: &[u8], at: usize) -> I::F {
    let mut bits = [0u16; LANES];
    for (bits, b) in bits.iter_mut().zip(block[at..at + 2 * LANES].chunks_exact(2)) {
        *bits = u16::from_le_bytes([b[0], b[1]]);
    }
    isa.f_load_f16(&bits)
}

/// The block's `d`.
#[inline(always)]
pub(crate) fn scale<I: Isa>(isa: I, layout: &Layout, block: &[u8]) -> I::F {
    match layout.form.scale {
        Scale::F16 { .. } => f16s(isa, block, 0),
        Scale::Fraction { .. } => {
            isa.f_mul(f16s(isa, block, 0), isa.f_splat(layout.form.scale.fraction()))
        }
        Scale::E8m0 { .. } => {
            // 2^(e-128): for e >= 2 the exponent field is e-1; 0 and 1 are the denormals 2^-128 and 2^-127.
            let e = isa.i_load_u8(lanes(block, 0));
            let normal = isa.f_from_bits(isa.i_shl::<23>(isa.i_sub(e, isa.i_splat(1))));
            let two = isa.f_splat(2.0);
            let ef = isa.f_from_i(e);
            let tiny = isa.f_lt(
                ef,
                isa.f_splat(1.0),
                isa.f_splat(f32::from_bits(0x0020_0000)),
                isa.f_splat(f32::from_bits(0x0040_0000)),
            );
            isa.f_lt(ef, two, tiny, normal)
        }
    }
}

/// The integer scales of one sub-block.
#[inline(always)]
pub(crate) fn sub_scales<I: Isa>(isa: I, layout: &Layout, block: &[u8], sub: usize) -> I::I {
    isa.i_load_i8(&lanes(block, layout.scales_at() + sub * LANES).map(|v| v as i8))
}

/// The integer minima of sub-blocks `2 · pair` and `2 · pair + 1` as the halves of each lane.
#[inline(always)]
pub(crate) fn min_pairs<I: Isa>(isa: I, layout: &Layout, block: &[u8], pair: usize) -> I::I {
    let at = layout.mins_at() + 2 * pair * LANES;
    let high = isa.i_shl::<16>(isa.i_load_u8(lanes(block, at + LANES)));
    isa.i_add(isa.i_load_u8(lanes(block, at)), high)
}

/// The integer minima of one sub-block.
#[inline(always)]
pub(crate) fn sub_mins<I: Isa>(isa: I, layout: &Layout, block: &[u8], sub: usize) -> I::I {
    isa.i_load_u8(lanes(block, layout.mins_at() + sub * LANES))
}

/// The planes of the unit of 32 columns that holds column `from` of the block.
#[inline(always)]
pub(crate) fn planes<'a>(layout: &Layout, block: &'a [u8], from: usize) -> &'a [u8] {
    &block[layout.quants_at() + from / UNIT * layout.planes * 64..][..layout.planes * 64]
}

/// 64 bytes of the quants.
#[inline(always)]
fn plane<I: Isa>(isa: I, planes: &[u8], i: usize) -> I::B {
    match planes[64 * i..].first_chunk() {
        Some(bytes) => isa.b_load(bytes),
        None => unreachable!("a unit has all its planes"),
    }
}

/// What block and run multiply in `int16`: `d`, or `d · scale` of sub-block `sub`.
#[inline(always)]
pub(crate) fn run_scale<I: Isa>(
    isa: I,
    layout: &Layout,
    block: &[u8],
    d: I::F,
    sub: Option<usize>,
) -> I::F {
    match sub {
        None => d,
        Some(sub) => isa.f_mul(d, isa.f_from_i(sub_scales(isa, layout, block, sub))),
    }
}

/// The block's `m`, or `-m` where it multiplies integer minima (`subs`).
#[inline(always)]
pub(crate) fn block_min<I: Isa>(isa: I, layout: &Layout, block: &[u8], subs: bool) -> I::F {
    let m = f16s(isa, block, layout.d_bytes);
    if subs { isa.f_mul(m, isa.f_splat(-1.0)) } else { m }
}

/// What the minimum adds to the weights of a run in `int16`: `m`, or `-m · min` of sub-block `sub`. `m` is what
/// [`block_min`] gave.
#[inline(always)]
pub(crate) fn run_min<I: Isa>(
    isa: I,
    layout: &Layout,
    block: &[u8],
    m: I::F,
    sub: Option<usize>,
) -> I::F {
    match sub {
        None => m,
        Some(sub) => isa.f_mul(m, isa.f_from_i(sub_mins(isa, layout, block, sub))),
    }
}

/// One kind of codes, as a type: inside a kernel all about it is constant.
pub(crate) trait Unpack {
    /// Whether its operands are signed bytes.
    const SIGNED: bool;

    /// The operand of a product for group `g` of a unit: 64 bytes.
    fn operand<I: Isa>(isa: I, planes: &[u8], g: usize, table: &[u8; 16]) -> I::B;
}

/// [`Codes::Plain`]
pub(crate) struct Plain<const BITS: usize>;
/// [`Codes::Signs`]
pub(crate) struct Signs;
/// [`Codes::Bytes`]
pub(crate) struct Bytes;
/// [`Codes::Table`] and [`Codes::ShortTable`]
pub(crate) struct Table<const BITS: usize>;

impl<const BITS: usize> Unpack for Plain<BITS> {
    const SIGNED: bool = false;

    #[inline(always)]
    fn operand<I: Isa>(isa: I, planes: &[u8], g: usize, _: &[u8; 16]) -> I::B {
        let nibbles = |isa: I| isa.b_shift_mask(plane(isa, planes, g % 4), 4 * (g as i32 / 4), 15);
        let twos = |isa: I, from: usize, up: i32| {
            isa.b_shift_mask(plane(isa, planes, from + g / 4), 2 * (g as i32 % 4) - up, 3 << up)
        };
        let ones = |isa: I, from: usize, up: i32| {
            isa.b_shift_mask(plane(isa, planes, from), g as i32 - up, 1 << up)
        };
        const { assert!(BITS >= 2 && BITS <= 6) };
        match BITS {
            6 => isa.b_or(nibbles(isa), twos(isa, 4, 4)),
            5 => isa.b_or(nibbles(isa), ones(isa, 4, 4)),
            4 => nibbles(isa),
            3 => isa.b_or(twos(isa, 0, 0), ones(isa, 2, 2)),
            _ => twos(isa, 0, 0),
        }
    }
}

impl Unpack for Signs {
    const SIGNED: bool = false;

    /// Twice the code: one is taken from it, as from others their offset.
    #[inline(always)]
    fn operand<I: Isa>(isa: I, planes: &[u8], g: usize, _: &[u8; 16]) -> I::B {
        isa.b_shift_mask(plane(isa, planes, 0), g as i32 - 1, 2)
    }
}

impl Unpack for Bytes {
    const SIGNED: bool = true;

    #[inline(always)]
    fn operand<I: Isa>(isa: I, planes: &[u8], g: usize, _: &[u8; 16]) -> I::B {
        plane(isa, planes, g)
    }
}

impl<const BITS: usize> Unpack for Table<BITS> {
    const SIGNED: bool = true;

    #[inline(always)]
    fn operand<I: Isa>(isa: I, planes: &[u8], g: usize, table: &[u8; 16]) -> I::B {
        isa.b_lut(Plain::<BITS>::operand(isa, planes, g, table), table)
    }
}

/// Evaluates an expression with `$C` the [`Unpack`] of these codes. A new kind of codes is named here.
macro_rules! with_codes {
    ($codes:expr, $C:ident => $body:expr) => {{
        use gguf::quant::{Bits, Codes};
        macro_rules! with {
            ($Kind:ty) => {{
                type $C = $Kind;
                $body
            }};
        }
        match $codes {
            Codes::Plain { bits: Bits::Two, .. } => with!(codes::Plain<2>),
            Codes::Plain { bits: Bits::Three, .. } => with!(codes::Plain<3>),
            Codes::Plain { bits: Bits::Four, .. } => with!(codes::Plain<4>),
            Codes::Plain { bits: Bits::Five, .. } => with!(codes::Plain<5>),
            Codes::Plain { bits: Bits::Six, .. } => with!(codes::Plain<6>),
            Codes::Signs => with!(codes::Signs),
            Codes::Bytes => with!(codes::Bytes),
            Codes::Table(_) => with!(codes::Table<4>),
            Codes::ShortTable(_) => with!(codes::Table<3>),
        }
    }};
}
pub(crate) use with_codes;

/// Evaluates an expression with `$C` the [`Unpack`] of a layout's codes, and `$FOURS` how many groups of four columns share a
/// scale. Both are constant where they are used; how many runs a block has and whether with a minimum are not, which costs
/// nothing that could be measured and makes a third as much code.
macro_rules! with_runs {
    ($layout:expr, $C:ident, $FOURS:ident => $body:expr) => {{
        use gguf::quant::Run;
        macro_rules! shaped {
            ($fours:literal) => {{
                const $FOURS: usize = $fours;
                $body
            }};
        }
        codes::with_codes!($layout.form.codes, $C => match $layout.form.run() {
            None | Some(Run::Of32) => shaped!(8),
            Some(Run::Of16) => shaped!(4),
        })
    }};
}
pub(crate) use with_runs;

/// The format's table as bytes of the operand, `bias` added.
#[inline(always)]
pub(crate) fn table(layout: &Layout, bias: u8) -> [u8; 16] {
    let byte = |v: i8| (v as u8).wrapping_add(bias);
    match layout.form.codes {
        Codes::Table(values) => values.map(byte),
        Codes::ShortTable(values) => std::array::from_fn(|i| byte(values[i % 8])),
        Codes::Plain { .. } | Codes::Signs | Codes::Bytes => [0; 16],
    }
}

/// What was added to every quant in its operand: the code's own offset, or `bias`.
#[inline(always)]
pub(crate) fn offset(layout: &Layout, bias: u8) -> i32 {
    match layout.form.codes {
        Codes::Plain { offset, .. } => i32::from(offset),
        Codes::Signs => 1,
        Codes::Bytes | Codes::Table(_) | Codes::ShortTable(_) => i32::from(bias),
    }
}
