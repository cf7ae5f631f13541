// Meaning: graph/src/ops/mat_mul.rs and `math::dot_f32`, for few rows of x: 32 rows of weights by 8 lanes in a workgroup.
// The lanes of a row take its chunks of 256 elements in turn; one lane adds their sums in order.
#flag EXPERTS  the matrix is one of several
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#if EXPERTS
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, slots: u32, x_slots: u32 }
#else
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32 }
#endif
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
#if EXPERTS
@group(0) @binding(2) var<storage, read> chosen: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif
#include lib/float
#include lib/weights

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let lane = t >> 5u;
#if EXPERTS
#include mat_mul/place
    let row = there - p.first;
#else
    let row = wg.x * 32u + r;
    let act = wg.y;
#endif
    let at = act * p.n_in;
    var total = 0.0;
    for (var first = 0u; first < p.n_in; first += 2048u) {
        let chunk = first + lane * 256u;
        var acc = 0.0;
        if row < p.count {
            let end = min(p.n_in, chunk + 256u);
            for (var k = chunk; k < end; k += 4u) {
                let v = weights4(row, k >> 2u);
#if SOFT_FMA
                for (var i = 0u; i < min(4u, end - k); i++) { acc = fused(v[i], x[at + k + i], acc); }
#else
                acc = fma(v.x, x[at + k], acc);
                if k + 1u < end { acc = fma(v.y, x[at + k + 1u], acc); }
                if k + 2u < end { acc = fma(v.z, x[at + k + 2u], acc); }
                if k + 3u < end { acc = fma(v.w, x[at + k + 3u], acc); }
#endif
            }
        }
        sums[t] = acc;
        workgroupBarrier();
        if lane == 0u {
            for (var i = 0u; i < 8u && first + i * 256u < p.n_in; i++) { total = keep(total + sums[i * 32u + r]); }
        }
        workgroupBarrier();
    }
#if EXPERTS
    if lane == 0u && is_there { out[slot * p.n_out + column] = total; }
#else
    if lane == 0u && row < p.count { out[wg.y * p.n_out + p.first + row] = total; }
#endif
}
