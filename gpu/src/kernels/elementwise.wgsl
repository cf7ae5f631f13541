// Meaning: graph/src/ops/elementwise.rs. One thread for each element; a row of workgroups for each row.
struct Params { rows: u32, row0: u32, cols: u32, by: f32 }
var<immediate> p: Params;
#if TWO
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
#endif
#include exp

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 256u + t;
    if c >= p.cols { return; }
    let i = wg.y * p.cols + c;
#if ADD
    out[i] = a[i] + b[i];
#endif
#if BIAS
    out[i] = a[i] + b[c];
#endif
#if SCALE
    out[i] = a[i] * p.by;
#endif
#if SILU
    out[i] = silu(a[i]) * b[i];
#endif
#if GELU_TANH
    out[i] = gelu_tanh(a[i]) * b[i];
#endif
#if SOFTCAP
    out[i] = capped(a[i], p.by);
#endif
}
