//! Every kind of codes in every shape against plain loops: what no format combines yet, the next one may.

use super::{MatMul, PASS, Product, Weight, with_workspace};
use crate::kernels::quantize_q8::Q8Rows;
use crate::pool::{Matrix, Pool, Steps, Workers};
use crate::simd::{LANES, Level};
use crate::tiles::{Layout, UNIT, row_codes};
use gguf::quant::{Bits, Codes, Run, Scale, Shape, half_power};
use graph::cases::Rng;
use graph::ints::{Form, MinTerm};
use graph::math::fma;
use graph::ops::quantize_q8::{Q8Row, quantize_q8};

static VALUES: [i8; 16] = [-128, -90, -61, -40, -23, -9, -2, 0, 1, 5, 14, 30, 52, 77, 101, 127];

fn forms() -> Vec<Form> {
    let bits = [Bits::Two, Bits::Three, Bits::Four, Bits::Five, Bits::Six];
    let plain =
        bits.into_iter().flat_map(|bits| [0, 3].map(|offset| Codes::Plain { bits, offset }));
    let kinds: Vec<Codes> = plain.chain([Codes::Bytes, Codes::Table(&VALUES)]).collect();
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
    f16.chain(e8m0).collect()
}

/// Tiles of random codes and integers under scales of an ordinary size.
fn random_tiles(rng: &mut Rng, layout: &Layout, n_in: usize, n_tiles: usize) -> Vec<u8> {
    let mut tiles: Vec<u8> =
        (0..n_tiles * layout.tile_bytes(n_in)).map(|_| rng.bits() as u8).collect();
    for block in tiles.chunks_mut(layout.block_bytes) {
        match layout.form.scale {
            Scale::F16 { .. } => {
                for half in block[..layout.d_bytes + layout.m_bytes].as_chunks_mut::<2>().0 {
                    *half = half::f16::from_f32(rng.unit()).to_le_bytes();
                }
            }
            Scale::E8m0 { .. } => block[..LANES].fill_with(|| 120 + rng.below(9) as u8),
        }
    }
    tiles
}

/// Row `r` of a tile times one token, as `graph::ops::mat_mul` says it.
fn expected(layout: &Layout, tile: &[u8], r: usize, bias: u8, x: &Q8Row) -> f32 {
    let mut acc = 0.0f32;
    for (b, block) in tile.chunks(layout.block_bytes).enumerate() {
        let half = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let d = match layout.form.scale {
            Scale::F16 { .. } => half(2 * r),
            Scale::E8m0 { .. } => half_power(block[r]),
        };
        let (mut isum, mut msum) = (0i32, 0i32);
        for i in 0..layout.block_len {
            let mut codes = [0; UNIT];
            let unit = layout.planes * 64;
            let planes = &block[layout.quants_at() + i / UNIT * unit..][..unit];
            row_codes(layout.form.codes, planes, r, &mut codes);
            let q = match layout.form.codes {
                Codes::Plain { offset, .. } => codes[i % UNIT] as i8 - offset,
                Codes::Bytes => codes[i % UNIT].wrapping_sub(bias) as i8,
                Codes::Table(values) => values[usize::from(codes[i % UNIT])],
            };
            let run = i / layout.sub_cols * LANES + r;
            let scale = if layout.subs > 0 { block[layout.scales_at() + run] as i8 } else { 1 };
            let a = i32::from(x.q[b * layout.block_len + i]);
            isum += i32::from(scale) * i32::from(q) * a;
            if layout.min == MinTerm::Subs {
                msum += i32::from(block[layout.mins_at() + run]) * a;
            }
        }
        acc = fma(d * x.d[b], isum as f32, acc);
        acc = match layout.min {
            MinTerm::None => acc,
            MinTerm::Sum => fma(half(layout.d_bytes + 2 * r), x.s[b], acc),
            MinTerm::Subs => fma(-(half(layout.d_bytes + 2 * r) * x.d[b]), msum as f32, acc),
        };
    }
    acc
}

#[test]
fn every_kind_of_codes_in_every_shape() {
    let (n_in, n_out, n_tokens) = (768, 2 * LANES, 5);
    let mut rng = Rng::new(9);
    let x: Vec<f32> = (0..n_tokens * n_in).map(|_| rng.unit()).collect();
    for form in forms() {
        let layout = Layout::new(form);
        let tiles = random_tiles(&mut rng, &layout, n_in, 2);
        let rows: Vec<Q8Row> = x.chunks(n_in).map(|x| quantize_q8(form.q8(), x)).collect();
        for level in Level::all() {
            for tokens in [1, n_tokens] {
                let (mut q8, mut pool) = (Q8Rows::default(), Pool::new(1));
                let workers = Workers { level, pool: &mut pool };
                q8.quantize(form.q8(), &x[..tokens * n_in], n_in, workers);
                let mut out = vec![f32::NAN; tokens * n_out];
                let product = Product::Plain(Weight { layout: &layout, tiles: &tiles, n_in });
                let matrix = Matrix { out: &mut out, cols: n_out, step: n_out };
                pool.grids([matrix], Steps { n: tokens, step: PASS }, |_, out| {
                    with_workspace(|workspace| {
                        level.run(MatMul { product, q8: &q8, out, workspace })
                    });
                });
                for (i, got) in out.iter().enumerate() {
                    let (t, row) = (i / n_out, i % n_out);
                    let tile = &tiles[row / LANES * layout.tile_bytes(n_in)..];
                    let tile = &tile[..layout.tile_bytes(n_in)];
                    let want = expected(&layout, tile, row % LANES, level.i8_bias(), &rows[t]);
                    let what = format!("{form:?} {} token {t} row {row}", level.name());
                    assert_eq!(got.to_bits(), want.to_bits(), "{what}: {got} {want}");
                }
            }
        }
    }
}
