//! Every kind of codes in every shape against plain loops: what no format combines yet, the next one may.

use super::{MatMul, PASS, Product, Weight, with_workspace};
use crate::kernels::rounded::{Activations, Rounded};
use crate::pool::{Matrix, Pool, Steps, Workers};
use crate::simd::{LANES, Level};
use crate::tiles::{Layout, UNIT, row_codes};
use gguf::quant::{Bits, Codes, Half, Run, Scale, Shape, half_power};
use graph::Arithmetic;
use graph::cases::Rng;
use graph::ints::{Form, MinTerm, Rounding};
use graph::math::fma;
use graph::ops::quantize_q8::{Q8Row, quantize_q8};
use graph::ops::quantize_q16::{Q16Row, quantize_q16};

static VALUES: [i8; 16] = [-128, -90, -61, -40, -23, -9, -2, 0, 1, 5, 14, 30, 52, 77, 101, 127];

static FEW: [i8; 8] = [-128, -43, -8, 0, 1, 9, 62, 127];

fn forms() -> Vec<Form> {
    let bits = [Bits::Two, Bits::Three, Bits::Four, Bits::Five, Bits::Six];
    let plain =
        bits.into_iter().flat_map(|bits| [0, 3].map(|offset| Codes::Plain { bits, offset }));
    let kinds: Vec<Codes> = plain
        .chain([Codes::Signs, Codes::Bytes, Codes::Table(&VALUES), Codes::ShortTable(&FEW)])
        .collect();
    let one = [false, true].map(|plus_m| Shape::One { plus_m });
    let runs = [(Run::Of16, false), (Run::Of16, true), (Run::Of32, false), (Run::Of32, true)]
        .map(|(run, minus_min)| Shape::Runs { run, largest_scale: 128, minus_min });
    let f16 = kinds.iter().flat_map(|&codes| {
        let shapes = one.into_iter().chain(runs);
        shapes.map(move |shape| Form { codes, shape, scale: Scale::F16 { at: 0 } })
    });
    let e8m0 = kinds.iter().map(|&codes| {
        let shape = Shape::One { plus_m: false };
        Form { codes, shape, scale: Scale::E8m0 { at: 0 } }
    });
    let fraction = Form {
        codes: Codes::ShortTable(&FEW),
        shape: Shape::Runs { run: Run::Of16, largest_scale: 31, minus_min: false },
        scale: Scale::Fraction { of: Half::At(0), halvings: 3 },
    };
    f16.chain(e8m0).chain([fraction]).collect()
}

/// Tiles of random codes and integers under scales of an ordinary size.
fn random_tiles(rng: &mut Rng, layout: &Layout, n_in: usize, n_tiles: usize) -> Vec<u8> {
    let mut tiles: Vec<u8> =
        (0..n_tiles * layout.tile_bytes(n_in)).map(|_| rng.bits() as u8).collect();
    for block in tiles.chunks_mut(layout.block_bytes) {
        match layout.form.scale {
            Scale::F16 { .. } | Scale::Fraction { .. } => {
                for half in block[..layout.d_bytes + layout.m_bytes].as_chunks_mut::<2>().0 {
                    *half = half::f16::from_f32(rng.unit()).to_le_bytes();
                }
            }
            Scale::E8m0 { .. } => block[..LANES].fill_with(|| 120 + rng.below(9) as u8),
        }
    }
    tiles
}

/// A token's activations, rounded.
enum Row {
    Q8(Q8Row),
    Q16(Q16Row),
}

impl Row {
    fn new(rounding: Rounding, x: &[f32]) -> Self {
        match rounding {
            Rounding::Q8(format) => Self::Q8(quantize_q8(format, x)),
            Rounding::Q16 => Self::Q16(quantize_q16(x)),
        }
    }
}

/// One row of a block of a tile, as its bytes say it.
struct RowOfBlock<'a> {
    layout: &'a Layout,
    block: &'a [u8],
    r: usize,
    bias: u8,
}

impl RowOfBlock<'_> {
    fn half(&self, at: usize) -> f32 {
        half::f16::from_le_bytes([self.block[at], self.block[at + 1]]).to_f32()
    }

    fn d(&self) -> f32 {
        match self.layout.form.scale {
            Scale::F16 { .. } => self.half(2 * self.r),
            Scale::Fraction { halvings, .. } => self.half(2 * self.r) / (1 << halvings) as f32,
            Scale::E8m0 { .. } => half_power(self.block[self.r]),
        }
    }

    fn m(&self) -> f32 {
        self.half(self.layout.d_bytes + 2 * self.r)
    }

    fn q(&self, i: usize) -> i32 {
        let (layout, mut codes) = (self.layout, [0; UNIT]);
        let unit = layout.planes * 64;
        let planes = &self.block[layout.quants_at() + i / UNIT * unit..][..unit];
        row_codes(layout.form.codes, planes, self.r, &mut codes);
        i32::from(match layout.form.codes {
            Codes::Plain { offset, .. } => codes[i % UNIT] as i8 - offset,
            Codes::Signs => [-1, 1][usize::from(codes[i % UNIT])],
            Codes::Bytes => codes[i % UNIT].wrapping_sub(self.bias) as i8,
            Codes::Table(values) => values[usize::from(codes[i % UNIT])],
            Codes::ShortTable(values) => values[usize::from(codes[i % UNIT])],
        })
    }

    /// Integer scale of the sub-block of column `i`.
    fn scale(&self, i: usize) -> i32 {
        let at = self.layout.scales_at() + i / self.layout.sub_cols * LANES + self.r;
        if self.layout.subs > 0 { i32::from(self.block[at] as i8) } else { 1 }
    }

    /// Integer minimum of the sub-block of column `i`.
    fn min(&self, i: usize) -> i32 {
        let at = self.layout.mins_at() + i / self.layout.sub_cols * LANES + self.r;
        if self.layout.min == MinTerm::Subs { i32::from(self.block[at]) } else { 0 }
    }

    /// `acc` and this block times block `b` of a token, as `graph::ops::mat_mul` says it.
    fn int8(&self, x: &Q8Row, b: usize, mut acc: f32) -> f32 {
        let (mut isum, mut msum) = (0i32, 0i32);
        for i in 0..self.layout.block_len {
            let a = i32::from(x.q[b * self.layout.block_len + i]);
            isum += self.scale(i) * self.q(i) * a;
            msum += self.min(i) * a;
        }
        acc = fma(self.d() * x.d[b], isum as f32, acc);
        match self.layout.min {
            MinTerm::None => acc,
            MinTerm::Sum => fma(self.m(), x.s[b], acc),
            MinTerm::Subs => fma(-(self.m() * x.d[b]), msum as f32, acc),
        }
    }

    fn int16(&self, x: &Q16Row, b: usize, mut acc: f32) -> f32 {
        for first in (0..self.layout.block_len).step_by(self.layout.sub_cols) {
            let column = b * self.layout.block_len + first;
            let (mut isum, mut sum) = (0i32, 0i32);
            for i in 0..self.layout.sub_cols {
                let a = i32::from(x.q[column + i]);
                isum += self.q(first + i) * a;
                sum += a;
            }
            let d_a = x.d[column / 32];
            acc = fma(self.d() * self.scale(first) as f32 * d_a, isum as f32, acc);
            let s = d_a * sum as f32;
            acc = match self.layout.min {
                MinTerm::None => acc,
                MinTerm::Sum => fma(self.m(), s, acc),
                MinTerm::Subs => fma(-(self.m() * self.min(first) as f32), s, acc),
            };
        }
        acc
    }
}

/// Row `r` of a tile times one token.
fn expected(layout: &Layout, tile: &[u8], r: usize, bias: u8, x: &Row) -> f32 {
    let mut acc = 0.0f32;
    for (b, block) in tile.chunks(layout.block_bytes).enumerate() {
        let row = RowOfBlock { layout, block, r, bias };
        acc = match x {
            Row::Q8(x) => row.int8(x, b, acc),
            Row::Q16(x) => row.int16(x, b, acc),
        };
    }
    acc
}

#[test]
fn every_kind_of_codes_in_every_shape() {
    let (n_in, n_out) = (768, 2 * LANES);
    let mut rng = Rng::new(9);
    let x: Vec<f32> = (0..5 * n_in).map(|_| rng.unit()).collect();
    for form in forms() {
        let layout = Layout::new(form);
        let tiles = random_tiles(&mut rng, &layout, n_in, 2);
        for rounding in Arithmetic::ALL.into_iter().filter_map(|a| form.rounding(a)) {
            let rows: Vec<Row> = x.chunks(n_in).map(|x| Row::new(rounding, x)).collect();
            for level in Level::all() {
                let weight = Weight { layout: &layout, tiles: &tiles, n_in };
                for tokens in [1, rows.len()] {
                    let out = product(weight, rounding, &x[..tokens * n_in], level);
                    for (i, got) in out.iter().enumerate() {
                        let (t, row) = (i / n_out, i % n_out);
                        let tile = &tiles[row / LANES * layout.tile_bytes(n_in)..];
                        let tile = &tile[..layout.tile_bytes(n_in)];
                        let want = expected(&layout, tile, row % LANES, level.i8_bias(), &rows[t]);
                        let what = format!("{form:?} {rounding:?} {level:?} token {t} row {row}");
                        assert_eq!(got.to_bits(), want.to_bits(), "{what}: {got} {want}");
                    }
                }
            }
        }
    }
}

/// The product of two tiles with all tokens of `x`.
fn product(weight: Weight<'_>, rounding: Rounding, x: &[f32], level: Level) -> Vec<f32> {
    let (n_in, n_out) = (weight.n_in, 2 * LANES);
    let (mut rounded, mut pool) = (Rounded::default(), Pool::new(1));
    let activations = Activations { x, n_in, counts: None };
    rounded.round(rounding, activations, Workers { level, pool: &mut pool });
    let n = x.len() / n_in;
    let mut out = vec![f32::NAN; n * n_out];
    let matrix = Matrix { out: &mut out, cols: n_out, step: n_out };
    let (product, rows) = (Product::Plain(weight), rounded.rows());
    pool.grids([matrix], Steps { n, step: PASS }, |_, out| {
        with_workspace(|workspace| level.run(MatMul { product, rows, out, workspace }));
    });
    out
}
