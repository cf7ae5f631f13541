// Meaning: graph/src/ops/experts.rs. A row has `slots` slots of `n` columns. One thread for each element of the result; a row
// of workgroups for each row.
#flag ADD_ID   x + b[expert]
#flag SUM      the sum of the slots
#flag WEIGHTED each slot times its weight
struct Params { rows: u32, row0: u32, cols: u32, n: u32, slots: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
#if ADD_ID
@group(0) @binding(1) var<storage, read> chosen: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#elif WEIGHTED
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
#endif
#include lib/float

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 256u + t;
    if c >= p.cols { return; }
    let i = wg.y * p.cols + c;
#if SUM
    let at = wg.y * p.cols * p.slots + c;
    var sum = x[at];
    for (var slot = 1u; slot < p.slots; slot += 1u) { sum = keep(sum + x[at + slot * p.cols]); }
    out[i] = sum;
#endif
    #if WEIGHTED: out[i] = x[i] * w[wg.y * p.slots + c / p.n];
    #if ADD_ID: out[i] = x[i] + b[u32(chosen[wg.y * p.slots + c / p.n]) * p.n + c % p.n];
}
