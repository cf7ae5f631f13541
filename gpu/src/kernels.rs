//! The texts of the kernels, by the names that `#include` and [`crate::shaders::Shader`] call them. A kernel is a file with a
//! `main`; what several include lies in `kernels/lib`, or beside them where they are kernels of one op.

macro_rules! files {
    ($($name:literal)*) => {
        /// The names of all files.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The text of a file.
        pub fn text(name: &str) -> Option<&'static str> {
            Some(match name {
                $($name => include_str!(concat!("kernels/", $name, ".wgsl")),)*
                _ => return None,
            })
        }
    };
}

files! {
    "attention/attention"
    "attention/fours"
    "attention/merge"
    "attention/merged"
    "attention/params"
    "attention/part"
    "attention/score"
    "attention/tile"
    "attention/tile_scores"
    "attention/tile_values"
    "experts/route"
    "experts/slots"
    "lib/exp"
    "lib/float"
    "lib/mask"
    "lib/weights"
    "mat_mul/codes"
    "mat_mul/coop"
    "mat_mul/coop_int16"
    "mat_mul/coop_int16_next"
    "mat_mul/coop_int16_stage"
    "mat_mul/coop_int16_sums"
    "mat_mul/coop_mins"
    "mat_mul/coop_next"
    "mat_mul/coop_stage"
    "mat_mul/coop_store"
    "mat_mul/coop_sums"
    "mat_mul/dot"
    "mat_mul/f32"
    "mat_mul/halves"
    "mat_mul/int16"
    "mat_mul/int8"
    "mat_mul/place"
    "mat_mul/product"
    "mat_mul/runs"
    "mat_mul/vec_f32"
    "mat_mul/vec_int16"
    "mat_mul/vec_int8"
    "mat_mul/vec_split"
    "mat_mul/vec_split_sums"
    "norm_rope/layer_norm"
    "norm_rope/rms_norm"
    "norm_rope/rope"
    "norm_rope/rope_store"
    "norm_rope/store_kv"
    "probe/coop"
    "probe/limits"
    "probe/probe"
    "quantize/blocks_q16"
    "quantize/blocks_q8"
    "quantize/memory"
    "quantize/quantize"
    "quantize/tops"
    "rows/argmax"
    "rows/copy"
    "rows/elementwise"
    "rows/get_rows"
    "rows/heads"
    "ssm/conv"
}
