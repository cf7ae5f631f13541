// Meaning: graph/src/ops/elementwise.rs. One thread for each element; a row of workgroups for each row.
#flag ADD       a + b
#flag BIAS      a + b[column]
#flag CLAMP     a between -by and by
#flag GELU      gelu_tanh(a)
#flag GELU_TANH gelu_tanh(a) · b
#flag MUL       a · b
#flag RELU2     max(a, 0)²
#flag SCALE     a · by
#flag SILU      silu(a) · b
#flag SOFTCAP   by · tanh(a / by)
#flag SWIGLU_OAI gpt-oss's gated unit of a and b
#flag TWO       there is a second input
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
#include lib/exp

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 256u + t;
    if c >= p.cols { return; }
    let i = wg.y * p.cols + c;
    #if ADD: out[i] = a[i] + b[i];
    #if MUL: out[i] = a[i] * b[i];
    #if BIAS: out[i] = a[i] + b[c];
    #if SCALE: out[i] = a[i] * p.by;
    #if GELU: out[i] = gelu_tanh(a[i]);
#if RELU2
    let positive = select(0.0, a[i], a[i] > 0.0);
    out[i] = positive * positive;
#endif
#if CLAMP
    let above = select(a[i], -p.by, a[i] < -p.by);
    out[i] = select(above, p.by, above > p.by);
#endif
    #if SILU: out[i] = silu(a[i]) * b[i];
    #if GELU_TANH: out[i] = gelu_tanh(a[i]) * b[i];
    #if SWIGLU_OAI: out[i] = swiglu_oai(a[i], b[i]);
    #if SOFTCAP: out[i] = capped(a[i], p.by);
}
