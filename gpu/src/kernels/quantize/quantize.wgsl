// Meaning: graph/src/ops/quantize_q8.rs and quantize_q16.rs; with GLU of activation(gate) · up, with MERGE of the chunks of
// a token's attention, either of which is written to `out`. One workgroup for 256 elements of a row: eight blocks of 32,
// or one of 256.
#flag GELU_TANH the activation function is GELU by tanh
#flag GLU       of activation(gate) · up
#flag MERGE     of the merged chunks of attention
#flag Q16       to 15 bits and a sign; else to 8 bits
#flag SILU      the activation function is SiLU
#flag SINKS     the attention has a sink for each head
#flag SLOTS     a row of the value is several rows
#flag SWIGLU_OAI the activation function is gpt-oss's unit
#if MERGE
struct Params { rows: u32, row0: u32, n: u32, row_words: u32, dim_v: u32, positions_at: u32, window: u32,
    max_chunks: u32 }
#elif SLOTS
struct Params { rows: u32, row0: u32, n: u32, row_words: u32, slots: u32 }
#else
struct Params { rows: u32, row0: u32, n: u32, row_words: u32 }
#endif
var<immediate> p: Params;
#if MERGE
@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
#if SINKS
@group(0) @binding(2) var<storage, read> sinks: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> acts: array<u32>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> acts: array<u32>;
#endif
#include lib/exp
#include attention/merged
#elif GLU
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> acts: array<u32>;
#include lib/exp
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> acts: array<u32>;
#include lib/float
#endif

var<workgroup> tile: array<f32, 256>;
#include quantize/memory

// Element i of the value that is quantised.
fn element(i: u32) -> f32 {
#if MERGE
    // One row.
    let v = keep(merged(i / p.dim_v, i % p.dim_v));
    out[i] = v;
    return v;
#elif GLU
    #if SILU: let v = keep(silu(gate[i]) * up[i]);
    #if GELU_TANH: let v = keep(gelu_tanh(gate[i]) * up[i]);
    #if SWIGLU_OAI: let v = keep(swiglu_oai(gate[i], up[i]));
    out[i] = v;
    return v;
#else
    return x[i];
#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
#if SLOTS
    let each = (p.n + 255u) / 256u;
    let row = wg.y * p.slots + wg.x / each;
    let first = wg.x % each * 256u;
#else
    let row = wg.y;
    let first = wg.x * 256u;
#endif
    let count = min(p.n - first, 256u);
    if t < count { tile[t] = element(row * p.n + first + t); }
    let row_at = row * p.row_words;
#if Q16
#include quantize/blocks_q16
#else
#include quantize/blocks_q8
#endif
}
