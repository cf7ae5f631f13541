// Meaning: graph/src/ops/rms_norm.rs. One workgroup of 64 lanes for each group of `n` columns: lane i sums the squares
// of the elements i, i + 64, …; then the halving tree.
struct Params { rows: u32, row0: u32, cols: u32, n: u32, eps: f32, n_f32: f32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include float

var<workgroup> lanes: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = wg.y * p.cols + wg.x * p.n;
    var sum = 0.0;
    for (var i = t; i < p.n; i += 64u) {
        let v = x[at + i];
        sum = fused(v, v, sum);
    }
    lanes[t] = sum;
    workgroupBarrier();
#for HALF 32 16 8 4 2 1
    if t < {{HALF}}u { lanes[t] = lanes[t] + lanes[t + {{HALF}}u]; }
    workgroupBarrier();
#endfor
    let scale = quotient(1.0, root(keep(quotient(lanes[0], p.n_f32)) + p.eps));
    for (var i = t; i < p.n; i += 64u) {
        out[at + i] = keep(x[at + i] * scale) * w[i];
    }
}
