// Meaning: graph/src/ops/quantize_act.rs; with GLU of act(gate) · up, with MERGE of the chunks of a token's attention, either
// of which is written to `out`. One workgroup for 256 elements of a row: eight blocks of 32, or one of 256.
#if MERGE
struct Params { rows: u32, row0: u32, n: u32, row_words: u32, dim_v: u32, positions_at: u32, window: u32,
    most_chunks: u32 }
#else
struct Params { rows: u32, row0: u32, n: u32, row_words: u32 }
#endif
var<immediate> p: Params;
#if MERGE
@group(0) @binding(0) var<storage, read> pieces: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> acts: array<u32>;
#include exp
#include merge
#else
#if GLU
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> acts: array<u32>;
#include exp
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> acts: array<u32>;
#include float
#endif
#endif

var<workgroup> tile: array<f32, 256>;
#include round_memory

// Element i of what is rounded.
fn element(i: u32) -> f32 {
#if MERGE
    // One row.
    let v = keep(merged(i / p.dim_v, i % p.dim_v));
    out[i] = v;
    return v;
#else
#if GLU
#if SILU
    let v = keep(silu(gate[i]) * up[i]);
#else
    let v = keep(gelu_tanh(gate[i]) * up[i]);
#endif
    out[i] = v;
    return v;
#else
    return x[i];
#endif
#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = wg.x * 256u;
    let count = min(p.n - first, 256u);
    if t < count { tile[t] = element(wg.y * p.n + first + t); }
    let row_at = wg.y * p.row_words;
#include round
}
