// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`, for few rows of activations. 32 rows of weights by {{LANES}} lanes in a
// workgroup: the lanes of a row take its blocks in turn and store what each block adds; one lane adds them in order.
// Tried, an 8B model in Q4_K_M on an H100: 8 lanes 117 tokens/s, 16 lanes 115, 32 lanes 125 (but a third of the speed on
// lavapipe, and more threads than some devices have); 2 or 4 blocks of a lane at once 110 and 113.
#flag D_TWO       a block has two f16, its scale and what is added
#flag EXPERTS     the matrix is one of several
#const BLOCK_WORDS words of a block of 32 rows
#const LANES       threads for each row of weights
#const THREADS     threads in a workgroup
#include lib/float
#include lib/weights
#include mat_mul/dot

// Blocks in a round, and for each of them and each row what it adds.
#if D_TWO
const ROUND: u32 = 32u;
var<workgroup> ds: array<f32, 1024>;
var<workgroup> isums: array<f32, 1024>;
var<workgroup> ms: array<f32, 1024>;
var<workgroup> msums: array<f32, 1024>;
#else
const ROUND: u32 = 64u;
var<workgroup> ds: array<f32, 2048>;
var<workgroup> isums: array<f32, 2048>;
#endif

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let lane = t >> 5u;
#include mat_mul/place
    let a = act * p.row_words;
    var acc = 0.0;
    for (var first = 0u; first < p.blocks; first += ROUND) {
        let end = min(p.blocks, first + ROUND);
        for (var b = first + lane; b < end; b += {{LANES}}u) {
            let s = block_sums((tile + b) * {{BLOCK_WORDS}}u, q, a, b);
            let at = (b - first) * 32u + r;
            ds[at] = s.d;
            isums[at] = s.isum;
#if D_TWO
            ms[at] = s.m;
            msums[at] = s.msum;
#endif
        }
        workgroupBarrier();
        if lane == 0u {
            for (var b = 0u; b < end - first; b++) {
                let at = b * 32u + r;
                var s: Sums;
                s.d = ds[at];
                s.isum = isums[at];
#if D_TWO
                s.m = ms[at];
                s.msum = msums[at];
#endif
                acc = add_sums(s, acc);
            }
        }
        workgroupBarrier();
    }
#if EXPERTS
    if lane == 0u && is_there { out[slot * p.n_out + column] = acc; }
#else
    let row = wg.x * 32u + r;
    if lane == 0u && row < p.count { store(wg.y, row, acc); }
#endif
}
