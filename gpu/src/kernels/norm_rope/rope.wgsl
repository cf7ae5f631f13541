// Meaning: graph/src/ops/rope.rs. One thread for each pair of a head; the elements past the pairs are copied by the
// threads after those of the pairs. Angles are made on the host, in f64. TWO: the first `workgroups` of them rotate `x`, the
// others `x2`.
#flag TWO two values by the same angles
struct Params { rows: u32, row0: u32, cols: u32, head_dim: u32, pairs: u32, per_head: u32, adjacent: u32,
    workgroups: u32, cols2: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
#if TWO
@group(0) @binding(2) var<storage, read> x2: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> out2: array<f32>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif
#include lib/float

fn value_at(second: bool, i: u32) -> f32 {
    #if TWO: if second { return x2[i]; }
    return x[i];
}

fn put(second: bool, i: u32, v: f32) {
#if TWO
    if second {
        out2[i] = v;
        return;
    }
#endif
    out[i] = v;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let second = wg.x >= p.workgroups;
    let i = select(wg.x, wg.x - p.workgroups, second) * 64u + t;
    let cols = select(p.cols, p.cols2, second);
    let head = i / p.per_head;
    let k = i % p.per_head;
    if head * p.head_dim >= cols { return; }
    let at = wg.y * cols + head * p.head_dim;
    if k >= p.pairs {
        let tail = at + k + p.pairs;
        put(second, tail, value_at(second, tail));
        return;
    }
    var a = at + k;
    var b = a + p.pairs;
    if p.adjacent != 0u {
        a = at + 2u * k;
        b = a + 1u;
    }
    let angle = angles[wg.y * p.pairs + k];
    let x0 = value_at(second, a);
    let x1 = value_at(second, b);
    put(second, a, fused(x0, angle.x, -keep(x1 * angle.y)));
    put(second, b, fused(x0, angle.y, keep(x1 * angle.x)));
}
