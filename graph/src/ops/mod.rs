//! What each op computes, in plain loops over f32 rows. One file for each op that is more than a line.

pub mod attention;
pub mod elementwise;
pub mod experts;
pub mod heads;
pub mod layer_norm;
pub mod mat_mul;
pub mod quantize_q16;
pub mod quantize_q8;
pub mod rms_norm;
pub mod rope;
pub mod ssm_conv;
