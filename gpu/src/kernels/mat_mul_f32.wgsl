// Meaning: graph/src/ops/mat_mul.rs and `math::dot_f32`: a chain of fma over each 256 elements, the sums of the chunks
// in order. One thread for each output: 32 rows of weights by 8 rows of x.
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include float
#include weights

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = wg.x * 32u + (t & 31u);
    let token = wg.y * 8u + (t >> 5u);
    if row >= p.count || token >= p.rows { return; }
    let at = token * p.n_in;
    var total = 0.0;
    for (var chunk = 0u; chunk < p.n_in; chunk += 256u) {
        let end = min(p.n_in, chunk + 256u);
        var acc = 0.0;
        for (var k = chunk; k < end; k += 4u) {
            let v = weights4(row, k >> 2u);
            acc = fma_(v.x, x[at + k], acc);
            if k + 1u < end { acc = fma_(v.y, x[at + k + 1u], acc); }
            if k + 2u < end { acc = fma_(v.z, x[at + k + 2u], acc); }
            if k + 3u < end { acc = fma_(v.w, x[at + k + 3u], acc); }
        }
        total += acc;
    }
    out[token * p.n_out + p.first + row] = total;
}
