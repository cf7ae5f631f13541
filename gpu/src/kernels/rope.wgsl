// Meaning: graph/src/ops/rope.rs. One thread for each pair of a head; the elements past the pairs are copied by the
// threads after those of the pairs. Angles are made on the host, in f64.
struct Params { rows: u32, row0: u32, cols: u32, head_dim: u32, pairs: u32, per_head: u32, adjacent: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include float

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = wg.x * 64u + t;
    let head = i / p.per_head;
    let k = i % p.per_head;
    if head * p.head_dim >= p.cols { return; }
    let at = wg.y * p.cols + head * p.head_dim;
    if k >= p.pairs {
        let tail = at + k + p.pairs;
        out[tail] = x[tail];
        return;
    }
    var a = at + k;
    var b = a + p.pairs;
    if p.adjacent != 0u {
        a = at + 2u * k;
        b = a + 1u;
    }
    let turn = angles[wg.y * p.pairs + k];
    let x0 = x[a];
    let x1 = x[b];
    out[a] = fused(x0, turn.x, -keep(x1 * turn.y));
    out[b] = fused(x0, turn.y, keep(x1 * turn.x));
}
