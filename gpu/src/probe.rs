//! What a device's arithmetic is: measured once when it is opened, on operands that find out what a device may do
//! otherwise. A step that is not exact is replaced by one made of integers; where none is left, the device is refused.

use crate::device::{Device, Range, offered_matrix};
use crate::matrix::Matrix;
use crate::params::{Params, Probe as ProbeParams};
use crate::probes::Probes;
use crate::shaders::{self, Probe, Shader};
use graph::cases::Rng;
use graph::{Error, ErrorKind, Result};

/// Operands for each probe.
const N: usize = 8192;

/// Random bits, numbers near one another, tiny and huge ones, in turn, among them those for which a fused and an unfused product differ.
fn operands() -> Vec<u32> {
    let mut rng = Rng::new(0x6b61_7261_7421);
    let mut out = Vec::with_capacity(3 * N);
    for i in 0..N {
        for _ in 0..3 {
            let bits = rng.bits() as u32;
            out.push(match i / 8 % 4 {
                // Any finite number.
                0 => {
                    if bits & 0x7f80_0000 == 0x7f80_0000 {
                        bits & 0xbfff_ffff
                    } else {
                        bits
                    }
                }
                // Near 1, where products and sums cancel.
                1 => (bits & 0x807f_ffff) | 0x3f80_0000,
                // Within 2^±24.
                2 => (bits & 0x807f_ffff) | ((103 + rng.below(48) as u32) << 23),
                // Near f16's denormals and their ends.
                _ => (bits & 0x807f_ffff) | ((99 + rng.below(48) as u32) << 23),
            });
        }
    }
    out
}

/// A number that is not 0 and that a flushing device would make 0.
fn is_tiny(x: f32) -> bool {
    x != 0.0 && x.abs() < f32::MIN_POSITIVE
}

/// Opens an adapter and probes its arithmetic.
pub(crate) fn open(adapter: &wgpu::Adapter) -> Result<Device> {
    let mut device = Device::connect(adapter)?;
    let probes = run(&device)?;
    device.trust(probes);
    if !probes.fma
        && let Some(wide) = open_wide(adapter)?
    {
        device = wide;
    }
    if let Some(matrix) = offered_matrix(adapter) {
        // A unit that is not exact, or a driver that does not take the shader, is done without.
        device.matrix = is_exact(&device, matrix).unwrap_or(false).then_some(matrix);
    }
    Ok(device)
}

/// A device without fma of its own, with one of doubles, which takes a fraction of the time of one of integers; `None` where
/// it has no doubles, or they are not exact. Others are not even asked for doubles.
fn open_wide(adapter: &wgpu::Adapter) -> Result<Option<Device>> {
    let Some(mut device) = Device::connect_wide(adapter)? else { return Ok(None) };
    device.trust(Probes { wide: true, ..Probes::worst() });
    let Ok(probes) = run(&device) else { return Ok(None) };
    device.trust(probes);
    Ok(probes.wide.then_some(device))
}

/// Runs a shader of a probe over `groups` workgroups, which give `outputs` words.
fn run_on(
    device: &Device,
    shader: &Shader,
    input: &[u32],
    outputs: usize,
    groups: u32,
) -> Result<Vec<u32>> {
    let pipeline = device.pipeline(shader)?;
    let (in_bytes, out_bytes) = (input.len() as u64 * 4, outputs as u64 * 4);
    let from = device.buffer("probe", in_bytes)?;
    let to = device.buffer("probe", out_bytes)?;
    device.write(&from, 0, input);
    let bind =
        device.bind(&pipeline, &[Range::whole(&from, in_bytes), Range::whole(&to, out_bytes)]);
    let words = params(outputs as u32);
    let mut encoder = device.encoder();
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &bind, &[]);
        pass.set_immediates(0, bytemuck::cast_slice(&words));
        pass.dispatch_workgroups(groups, 1, 1);
    }
    let values = device.read(encoder, &Range::whole(&to, out_bytes), &mut None)?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

/// The parameters of a probe of `n` results.
pub(crate) fn params(n: u32) -> Vec<u32> {
    // One row, the first.
    [&[1, 0], &ProbeParams { n }.words()[..]].concat()
}

fn measure(device: &Device, shader: &Shader, operands: &[u32]) -> Result<Vec<u32>> {
    run_on(device, shader, operands, operands.len() / 3, N as u32 / 64)
}

/// Whether all results have the expected bits; numbers that may be flushed are left out unless `tiny`.
fn agree(operands: &[u32], got: &[u32], tiny: bool, want: impl Fn(usize, [f32; 3]) -> u32) -> bool {
    first_difference(operands, got, tiny, want).is_none()
}

fn first_difference(
    operands: &[u32],
    got: &[u32],
    tiny: bool,
    want: impl Fn(usize, [f32; 3]) -> u32,
) -> Option<(usize, u32)> {
    operands.as_chunks::<3>().0.iter().zip(got).enumerate().find_map(|(i, (o, &got))| {
        let x = o.map(f32::from_bits);
        let want = want(i, x);
        let may_flush =
            x.iter().any(|&v| is_tiny(v)) || is_tiny(f32::from_bits(want)) || is_tiny(x[0] * x[1]);
        let same = got == want || (f32::from_bits(want).is_nan() && f32::from_bits(got).is_nan());
        (!same && (tiny || !may_flush)).then_some((i, want))
    })
}

/// Sum, product, conversions, rounding, packed dot product, in the order of `probe.wgsl`.
fn rest(i: usize, [a, b, c]: [f32; 3]) -> u32 {
    let bytes = |x: f32| x.to_bits().to_le_bytes().map(|b| i32::from(b as i8));
    match i % 8 {
        0 => (a + b).to_bits(),
        1 => (a * b).to_bits(),
        2 => (a.to_bits() as i32 as f32).to_bits(),
        3 => bytes(a).iter().zip(bytes(b)).map(|(a, b)| a * b).sum::<i32>() as u32,
        4 => graph::math::round_f16(a).to_bits(),
        5 => a.round_ties_even().to_bits(),
        6 => (a * b + c).to_bits(),
        _ => bytes(a)[b.to_bits() as usize & 3] as u32,
    }
}

/// Eight of all f16 after one another, as `probe.wgsl` puts the numbers together. Of a NaN there are many kinds.
fn halves(i: usize) -> u32 {
    let bits = |h: u16| {
        let x = half::f16::from_bits(h).to_f32();
        if x.is_nan() { 1 } else { x.to_bits() }
    };
    (0..8).fold(0, |all: u32, k| all.wrapping_mul(0x0100_0193) ^ bits((8 * i + k) as u16))
}

/// What IEEE says of one operation on three operands.
type Exact = fn(usize, [f32; 3]) -> u32;

/// Measures a device that was just opened, with [`Probes::worst`] set, but for `wide`: first its own operations, then ours.
fn run(device: &Device) -> Result<Probes> {
    let operands = operands();
    let got = measure(device, &shaders::probe(Probe::Rest, true), &operands)?;
    let denormals = agree(&operands, &got, true, rest);
    if let Some((i, want)) = first_difference(&operands, &got, false, rest) {
        let (name, step, got) = (&device.name, i % 8, got[i]);
        let what = format!(
            "{name}: step {step} of the arithmetic gives {got:08x} instead of {want:08x}: results would differ from \
             those of other devices"
        );
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let fma: Exact = |_, [a, b, c]| graph::math::fma(a, b, c).to_bits();
    let div: Exact = |i, [a, b, _]| (if i % 2 == 1 { a / 127.0 } else { a / b }).to_bits();
    let sqrt: Exact = |_, [a, _, _]| a.abs().sqrt().to_bits();
    let half: Exact = |i, _| halves(i);
    // Whether the device's own operation is exact; else ours must be.
    let trusted = |probe: Probe, name: &str, exact: Exact| -> Result<bool> {
        let native = measure(device, &shaders::probe(probe, true), &operands)?;
        // What a device flushes in every sum, its other operations may flush too.
        if agree(&operands, &native, denormals, exact) {
            return Ok(true);
        }
        let got = measure(device, &shaders::probe(probe, false), &operands)?;
        let Some((i, want)) = first_difference(&operands, &got, denormals, exact) else {
            return Ok(false);
        };
        let (x, got) = (&operands[3 * i..3 * i + 3], got[i]);
        let what = format!(
            "{}: no exact {name}: {x:08x?} gives {got:08x} instead of {want:08x}",
            device.name
        );
        Err(Error::new(ErrorKind::Unsupported, what))
    };
    let is_fused = trusted(Probe::Fma, "fma", fma)?;
    Ok(Probes {
        fma: is_fused,
        wide: device.probes.wide && !is_fused,
        div: trusted(Probe::Div, "division", div)?,
        sqrt: trusted(Probe::Sqrt, "square root", sqrt)?,
        half: trusted(Probe::Half, "f16", half)?,
        denormals,
    })
}

/// Fragments that a matrix unit is asked for.
pub(crate) const MATRIX_TESTS: usize = 40;

/// Whether sums of products of a matrix unit are exact as long as they are below 2^24, in any order and with any signs.
fn is_exact(device: &Device, matrix: Matrix) -> Result<bool> {
    let (operands, expected) = matrix_sums(matrix);
    let shader = shaders::probe_coop(matrix);
    let got = run_on(device, &shader, &operands, expected.len(), MATRIX_TESTS as u32)?;
    Ok(got == expected)
}

/// Integers for `probe/coop.wgsl`, and their sums of products.
pub(crate) fn matrix_sums(matrix: Matrix) -> (Vec<u32>, Vec<u32>) {
    /// Products whose sum is just below 2^24: `n` of a weight and 127, or, in `int16`, of a weight and 127 times `even` and
    /// 127 by turns.
    struct Worst {
        weight: u64,
        n: usize,
        even: i32,
    }
    const WORST: [Worst; 5] = [
        Worst { weight: 2048, n: 64, even: 1 },
        Worst { weight: 1032, n: 128, even: 1 },
        Worst { weight: 516, n: 256, even: 1 },
        Worst { weight: 128, n: 256, even: 1 },
        Worst { weight: 31, n: 64, even: 128 },
    ];
    let size = matrix.size as usize;
    let mut rng = Rng::new(0x6d61_7472_6978);
    let (mut operands, mut expected) = (Vec::new(), Vec::new());
    for test in 0..MATRIX_TESTS {
        let Worst { weight, n, even } = WORST[test % WORST.len()];
        // All at their largest and of one sign, at their largest with signs that cancel, and anything between.
        let kind = test / WORST.len() % 4;
        let mut number = |most: u64, i: usize| -> i32 {
            let (size, sign) = (rng.below(most as usize + 1) as i32, rng.below(2) as i32 * 2 - 1);
            match kind {
                _ if i % 256 >= n => 0,
                0 => most as i32,
                1 => sign * most as i32,
                2 if i % 256 >= n / 2 => -(most as i32),
                2 => most as i32,
                _ => sign * size,
            }
        };
        let a: Vec<i32> = (0..size * 256).map(|i| number(weight, i)).collect();
        let mut activation = |i| number(127, i).abs() * if i % 2 == 0 { even } else { 1 };
        let b: Vec<i32> = (0..size * 256).map(&mut activation).collect();
        // Sums stand column after column.
        for column in b.chunks(256) {
            for row in a.chunks(256) {
                expected.push(row.iter().zip(column).map(|(a, b)| a * b).sum::<i32>() as u32);
            }
        }
        operands.extend(a.into_iter().chain(b).map(|v| v as u32));
    }
    (operands, expected)
}
