// Meaning: graph/src/ops/layer_norm.rs. One workgroup for each group of `n` columns: 256 threads bring 4096 elements at a time
// into the workgroup's memory, from where 64 of them sum: chain i takes the elements i, i + 64, …; then the halving tree.
#flag BIAS   something is added behind the factors
#flag WEIGHT there are factors
struct Params { rows: u32, row0: u32, cols: u32, n: u32, eps: f32, n_f32: f32, by_group: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
#if WEIGHT
@group(0) @binding(1) var<storage, read> w: array<f32>;
#if BIAS
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif
#else
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
#endif
#include lib/float

const TILE: u32 = 4096u;
var<workgroup> tile: array<f32, 4096>;
var<workgroup> lanes: array<f32, 64>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = wg.y * p.cols + wg.x * p.n;
    var mean = 0.0;
    var scale = 0.0;
    // First the mean, then the squares of the differences from it.
    for (var turn = 0u; turn < 2u; turn++) {
        var sum = 0.0;
        for (var first = 0u; first < p.n; first += TILE) {
            let count = min(p.n - first, TILE);
            workgroupBarrier();
            // A group that fits stays from the first turn to the second.
            if turn == 0u || p.n > TILE {
                for (var i = t; i < count; i += 256u) { tile[i] = x[at + first + i]; }
            }
            workgroupBarrier();
            if t < 64u {
                for (var i = t; i < count; i += 64u) {
                    let d = tile[i] - mean;
                    if turn == 0u { sum = sum + d; } else { sum = fused(d, d, sum); }
                }
            }
        }
        if t < 64u { lanes[t] = sum; }
        workgroupBarrier();
#for HALF 32 16 8 4 2 1
        if t < {{HALF}}u { lanes[t] = lanes[t] + lanes[t + {{HALF}}u]; }
        workgroupBarrier();
#endfor
        let by_n = keep(quotient(lanes[0], p.n_f32));
        if turn == 0u { mean = by_n; } else { scale = quotient(1.0, root(by_n + p.eps)); }
    }
    for (var i = t; i < p.n; i += 256u) {
        let y = keep((x[at + i] - mean) * scale);
        let c = wg.x * p.by_group + i;
#if WEIGHT
#if BIAS
        out[at + i] = fused(y, w[c], b[c]);
#else
        out[at + i] = y * w[c];
#endif
#else
        out[at + i] = y;
#endif
    }
}
