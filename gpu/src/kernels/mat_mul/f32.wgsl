// Meaning: graph/src/ops/mat_mul.rs and `math::dot_f32`: a chain of fma over each 256 elements, the sums of the chunks
// in order. Each thread has one row of weights and four rows of x; 32 rows by 32 tokens in a workgroup.
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include lib/float
#include lib/weights

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = wg.x * 32u + (t & 31u);
    let token = wg.y * 32u + (t >> 5u) * 4u;
    if row >= p.count || token >= p.rows { return; }
    // Rows past the last one repeat it; they are not stored.
    let at = vec4<u32>(token, min(token + 1u, p.rows - 1u), min(token + 2u, p.rows - 1u), min(token + 3u, p.rows - 1u))
        * p.n_in;
    var total = vec4<f32>(0.0);
    for (var chunk = 0u; chunk < p.n_in; chunk += 256u) {
        let end = min(p.n_in, chunk + 256u);
        var acc = vec4<f32>(0.0);
        for (var k = chunk; k < end; k += 4u) {
            let v = weights4(row, k >> 2u);
#if SOFT_FMA
            for (var i = 0u; i < min(4u, end - k); i++) {
                for (var j = 0u; j < 4u; j++) { acc[j] = fused(v[i], x[at[j] + k + i], acc[j]); }
            }
#else
#for I 0..4
            if k + {{I}}u < end {
                let a = vec4<f32>(x[at.x + k + {{I}}u], x[at.y + k + {{I}}u], x[at.z + k + {{I}}u], x[at.w + k + {{I}}u]);
                acc = fma(vec4<f32>(v[{{I}}]), a, acc);
            }
#endfor
#endif
        }
        #for J 0..4: total[{{J}}] = keep(total[{{J}}] + acc[{{J}}]);
    }
    for (var j = 0u; j < 4u; j++) {
        if token + j < p.rows { out[(token + j) * p.n_out + p.first + row] = total[j]; }
    }
}
