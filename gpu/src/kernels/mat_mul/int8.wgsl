// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`. Each thread has one row of weights and eight rows of quantised
// activations, so that a weight is unpacked once for eight products; 32 rows by 64 tokens in a workgroup.
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#flag SOFT_FMA    fma is made of many steps, so that one copy of it in a loop beats many in line
#const BLOCK_WORDS words of a block of 32 rows
#const OFFSET      what is taken from a stored code
#const RUN_0       the run of the first half of unit `u`
#const RUN_1       the run of its second half
#const UNITS       units of 32 elements in a block
#include lib/float
#include lib/weights
#include mat_mul/dot

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let row = wg.x * 32u + r;
    let token = wg.y * 64u + (t >> 5u) * 8u;
    if row >= p.count || token >= p.rows { return; }
    // Rows past the last one repeat it; they are not stored.
    #for T 0..8: let a{{T}} = min(token + {{T}}u, p.rows - 1u) * p.row_words;
    var acc: array<f32, 8>;
    for (var b = 0u; b < p.blocks; b++) {
        let base = (wg.x * p.blocks + b) * {{BLOCK_WORDS}}u;
        var isum: array<i32, 8>;
        var msum: array<i32, 8>;
#for T 0..8
        isum[{{T}}] = 0;
        msum[{{T}}] = 0;
#endfor
        for (var u = 0u; u < {{UNITS}}u; u++) {
            let unit = b * {{UNITS}}u + u;
            #for J 0..8: let c{{J}} = codes(base, u, {{J}}u, r);
#if SCALES
            let scale0 = run_scale(base, {{RUN_0}}, r);
            let scale1 = run_scale(base, {{RUN_1}}, r);
#endif
#if MINS
            let min0 = run_min(base, {{RUN_0}}, r);
            let min1 = run_min(base, {{RUN_1}}, r);
#endif
#for T 0..8
            {
                let q = (a{{T}} >> 2u) + unit * 2u;
                let x0 = acts_fours[q];
                let x1 = acts_fours[q + 1u];
                let sums = a{{T}} + p.n_in / 4u + unit * 2u;
                let sum0 = i32(acts[sums]);
                let sum1 = i32(acts[sums + 1u]);
                var dot0 = -{{OFFSET}} * sum0;
                var dot1 = -{{OFFSET}} * sum1;
                dot0 += dot4I8Packed(c0, x0.x) + dot4I8Packed(c1, x0.y) + dot4I8Packed(c2, x0.z) + dot4I8Packed(c3, x0.w);
                dot1 += dot4I8Packed(c4, x1.x) + dot4I8Packed(c5, x1.y) + dot4I8Packed(c6, x1.z) + dot4I8Packed(c7, x1.w);
#if SCALES
                isum[{{T}}] += scale0 * dot0 + scale1 * dot1;
#else
                isum[{{T}}] += dot0 + dot1;
#endif
                #if MINS: msum[{{T}}] += min0 * sum0 + min1 * sum1;
            }
#endfor
        }
#if SOFT_FMA
        for (var i = 0u; i < 8u; i++) {
            let a = min(token + i, p.rows - 1u) * p.row_words;
            acc[i] = add_sums(sums_of(base, r, a, b, isum[i], msum[i]), acc[i]);
        }
#else
        #for T 0..8: acc[{{T}}] = add_sums(sums_of(base, r, a{{T}}, b, isum[{{T}}], msum[{{T}}]), acc[{{T}}]);
#endif
    }
    #for T 0..8: if token + {{T}}u < p.rows { store(token + {{T}}u, row, acc[{{T}}]); }
}
