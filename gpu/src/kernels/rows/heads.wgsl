// Meaning: graph/src/ops/heads.rs. Some columns of each head, or the heads of two values side by side. One thread for each
// element; a row of workgroups for each row. A head of the result has `n_a` elements of the first value, and `n_b` of the second.
#flag JOIN two values; else some columns of each head of one
struct Params { rows: u32, row0: u32, cols: u32, a_cols: u32, b_cols: u32, a_head: u32, start: u32, n_a: u32, n_b: u32 }
var<immediate> p: Params;
#if JOIN
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
#endif

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 256u + t;
    if c >= p.cols { return; }
    let each = p.n_a + p.n_b;
    let head = c / each;
    let i = c % each;
    let to = wg.y * p.cols + c;
#if JOIN
    if i >= p.n_a {
        // One head of b goes to all heads of a.
        let at = (head * p.n_b) % p.b_cols + i - p.n_a;
        out[to] = b[wg.y * p.b_cols + at];
        return;
    }
#endif
    out[to] = a[wg.y * p.a_cols + head * p.a_head + p.start + i];
}
