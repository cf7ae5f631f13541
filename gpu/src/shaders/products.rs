//! The kernels of products, and what all kernels that read weights are specialised by.

use super::Shader;
use crate::layout::{Layout, Quant, Scales};
use crate::matrix::{self, Matrix};
use crate::params;
use crate::template::Defines;
use gguf::DType;
use gguf::quant::{Codes, Float, Run};
use graph::ints::{Form, form};

/// Threads that share a row of weights on a software device, where every thread costs time.
pub(crate) const FEW_LANES: usize = 8;
/// Threads that share a row of weights on a GPU, which has threads to spare: with few rows of weights, and with many.
pub(crate) const MANY_LANES: [usize; 2] = [32, 16];

/// A product with weights in f32.
pub fn mat_mul_f32(dtype: DType) -> Shader {
    Shader::new::<params::MatMulF32>("mat_mul/f32", 3, weights(dtype))
}

/// The same for few rows.
pub fn mat_vec_f32(dtype: DType) -> Shader {
    let defines = weights(dtype).flag("EXPERTS", false);
    Shader::new::<params::MatMulF32>("mat_mul/vec_f32", 3, defines)
}

/// The same with a matrix that is chosen for each slot of a row.
pub fn mat_vec_f32_experts(dtype: DType) -> Shader {
    let defines = weights(dtype).flag("EXPERTS", true);
    Shader::new::<params::MatMulF32Experts>("mat_mul/vec_f32", 4, defines)
}

/// [`mat_vec_int8`] with a matrix that is chosen for each slot of a row.
pub fn mat_vec_int8_experts(dtype: DType) -> Shader {
    experts(mat_vec_int8(dtype, 1))
}

/// [`mat_vec_int16`] with a matrix that is chosen for each slot of a row.
pub fn mat_vec_int16_experts(dtype: DType) -> Shader {
    experts(mat_vec_int16(dtype, 1, FEW_LANES))
}

/// A product with one buffer more, the chosen matrices.
fn experts(shader: Shader) -> Shader {
    let (defines, buffers) = (shader.defines.flag("EXPERTS", true), shader.buffers + 1);
    Shader {
        defines,
        buffers,
        params: <params::MatMulIntExperts as params::Params>::FIELDS,
        ..shader
    }
}

/// Up to three products with the same quantised activations.
pub fn mat_mul_int8(dtype: DType, products: usize) -> Shader {
    int8("mat_mul/int8", dtype, products)
}

/// The same for few rows of activations: a few threads share a row of weights, a whole block each at a time.
pub fn mat_vec_int8(dtype: DType, products: usize) -> Shader {
    let shader = int8("mat_mul/vec_int8", dtype, products);
    let defines = shader.defines.set("LANES", &FEW_LANES).set("THREADS", &(32 * FEW_LANES));
    Shader { defines, ..shader }
}

/// The same with `lanes` threads for each row of weights, which take parts of blocks.
pub fn mat_vec_split(dtype: DType, products: usize, lanes: usize) -> Shader {
    let shader = int8("mat_mul/vec_split", dtype, products);
    let Layout::Quant(q) = Layout::of(dtype) else { return shader };
    // A part is two units, which have one word of scales; formats of one unit a block are not split. The workgroup's
    // memory, 32 KiB, holds two or four words for each row and block of a round.
    let part = q.units().min(2);
    let round = if q.scales == Scales::Two { 64 } else { 128 };
    // How many parts a lane loads before it uses the first. With 32 lanes these are 1024 threads, of which most devices
    // give each 64 registers: half as many parts as with 16.
    let steps = if part == 1 { 64 } else { 32 } / lanes;
    let defines = shader
        .defines
        .flag("ATOMIC", part < q.units())
        .flag("FLOAT_SUMS", q.scales == Scales::Two && !q.mins)
        .set("LANES", &lanes)
        .set("THREADS", &(32 * lanes))
        .set("ROUND", &round)
        .set("ROUND_WORDS", &(32 * round))
        .set("ROUND_EACH", &(round / lanes))
        .set("PARTS", &(q.units() / part))
        .set("PART_UNITS", &part)
        .set("STEPS", &steps)
        .set("UNIT_RUNS", &(if by_sixteen(&q.form) { 2 } else { 1 }));
    Shader { defines, ..shader }
}

/// The same for many rows on a device with a matrix unit.
pub fn mat_mul_coop(dtype: DType, products: usize, matrix: Matrix) -> Shader {
    let shader = int8("mat_mul/coop", dtype, products);
    let defines = shader.defines.with(&matrix::defines(dtype, matrix));
    Shader { defines, matrix: Some(matrix), ..shader }
}

/// The same as [`mat_mul_int8`] with activations of 15 bits and a sign.
pub fn mat_mul_int16(dtype: DType, products: usize) -> Shader {
    int16("mat_mul/int16", dtype, products)
}

/// The same for few rows of activations: `lanes` threads for each row of weights, which take units of 32 elements.
pub fn mat_vec_int16(dtype: DType, products: usize, lanes: usize) -> Shader {
    let shader = int16("mat_mul/vec_int16", dtype, products);
    let Layout::Quant(q) = Layout::of(dtype) else { return shader };
    let runs = 32 / q.form.run_len();
    // The workgroup's memory, 32 KiB, or half of that on a software device, holds two or three words for each row and run of
    // a round.
    let most = if lanes == FEW_LANES { 64 } else { 128 };
    let round = most / runs / if q.scales == Scales::Two { 2 } else { 1 };
    let steps = if lanes == FEW_LANES { 1 } else { round.min(64) / lanes };
    let defines = shader
        .defines
        .set("LANES", &lanes)
        .set("THREADS", &(32 * lanes))
        .set("ROUND", &round)
        .set("ROUND_RUNS", &(round * runs))
        .set("ROUND_WORDS", &(32 * round * runs))
        .set("STEPS", &steps);
    Shader { defines, ..shader }
}

/// The same for many rows on a device with a matrix unit.
pub fn mat_mul_coop_int16(dtype: DType, products: usize, matrix: Matrix) -> Shader {
    let shader = int16("mat_mul/coop_int16", dtype, products);
    let defines = shader.defines.with(&matrix::defines_int16(dtype, matrix));
    Shader { defines, matrix: Some(matrix), ..shader }
}

fn int8(file: &'static str, dtype: DType, products: usize) -> Shader {
    let halves = form(dtype).is_some_and(|form| by_sixteen(&form));
    let shader = of_ints(file, dtype, products);
    let defines = shader
        .defines
        .set("RUN_0", if halves { "2u * u" } else { "u" })
        .set("RUN_1", if halves { "2u * u + 1u" } else { "u" });
    Shader { defines, ..shader }
}

fn int16(file: &'static str, dtype: DType, products: usize) -> Shader {
    let halves = form(dtype).is_some_and(|form| by_sixteen(&form));
    let shader = of_ints(file, dtype, products);
    let defines = shader.defines.flag("HALVES", halves).set("RUNS", &(1 + usize::from(halves)));
    Shader { defines, ..shader }
}

/// A product of weights with quantised activations.
fn of_ints(file: &'static str, dtype: DType, products: usize) -> Shader {
    let defines = weights(dtype).flag("OUTS_2", products > 1).flag("OUTS_3", products > 2);
    let defines = defines.flag("EXPERTS", false);
    let writes = products as u32;
    Shader { writes, ..Shader::new::<params::MatMulInt>(file, 3 + writes, defines) }
}

/// A table's values as WGSL's words, four signed bytes each.
fn words_of(values: &[i8]) -> String {
    let word = |c: &[i8; 4]| format!("0x{:08x}u", u32::from_le_bytes(c.map(|q| q as u8)));
    values.as_chunks::<4>().0.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Whether sixteen elements share an integer scale, and not a whole unit.
pub(crate) fn by_sixteen(form: &Form) -> bool {
    match form.run() {
        Some(Run::Of16) => true,
        Some(Run::Of32) | None => false,
    }
}

/// The sizes that `weights.wgsl` wants.
pub(super) fn weights(dtype: DType) -> Defines {
    let q = match Layout::of(dtype) {
        Layout::Float { kind, .. } => {
            let (f32, f16, bf16) = match kind {
                Float::F32 => (true, false, false),
                Float::F16 => (false, true, false),
                Float::BF16 => (false, false, true),
            };
            let defines = Defines::new().flag("QUANT", false);
            return defines.flag("F32", f32).flag("F16", f16).flag("BF16", bf16);
        }
        Layout::Quant(q) => q,
    };
    let Quant { form, unit_words, runs, mins, scales } = q;
    let (stored, table_words) = match form.codes {
        Codes::Plain { .. } | Codes::Signs | Codes::Bytes => (form.codes.bits(), None),
        Codes::Table(values) => (4, Some(words_of(values))),
        Codes::ShortTable(values) => (3, Some(words_of(values))),
    };
    let (one, two, power) = match scales {
        Scales::One => (true, false, false),
        Scales::Two => (false, true, false),
        Scales::Power => (false, false, true),
    };
    let run_of_group = if by_sixteen(&form) { "2u * u + (j >> 2u)" } else { "u" };
    let bits = [1, 2, 3, 4, 5, 6, 8].into_iter().fold(Defines::new(), |defines, bits| {
        defines.flag(&format!("BITS_{bits}"), stored == bits)
    });
    bits.flag("QUANT", true)
        .flag("TABLE", table_words.is_some())
        .set("TABLE_LEN", &(form.codes.values().count() / 4))
        .set("TABLE_WORDS", &table_words.unwrap_or_default())
        .flag("FRACTION", form.scale.fraction() < 1.0)
        .set("D_TIMES", &format!("{:?}f", form.scale.fraction()))
        .flag("SCALES", runs > 0)
        .set("RUN_OF_GROUP", run_of_group)
        .flag("MINS", mins)
        .flag("D_ONE", one)
        .flag("D_TWO", two)
        .flag("D_F32", power)
        .set("OFFSET", &form.offset())
        .set("UNITS", &q.units())
        .set("UNIT_WORDS", &unit_words)
        .set("FULL", &q.full())
        .set("SCALES_AT", &q.scales_at())
        .set("MINS_AT", &q.mins_at())
        .set("BLOCK_WORDS", &q.block_words())
}
