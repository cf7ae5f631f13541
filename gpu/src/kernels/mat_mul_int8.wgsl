// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`. Each thread has one row of weights and eight rows of rounded
// activations, so that a weight is unpacked once for eight products; 32 rows by 64 tokens in a workgroup.
#include float
#include weights
#include dot

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let row = wg.x * 32u + r;
    let token = wg.y * 64u + (t >> 5u) * 8u;
    if row >= p.count || token >= p.rows { return; }
    // Rows past the last one repeat it; they are not stored.
#for T 0 1 2 3 4 5 6 7
    let a{{T}} = min(token + {{T}}u, p.rows - 1u) * p.row_words;
#endfor
    var acc: array<f32, 8>;
    for (var b = 0u; b < p.blocks; b++) {
        let base = (wg.x * p.blocks + b) * {{BLOCK_WORDS}}u;
        var isum: array<i32, 8>;
        var msum: array<i32, 8>;
#for T 0 1 2 3 4 5 6 7
        isum[{{T}}] = 0;
        msum[{{T}}] = 0;
#endfor
        for (var u = 0u; u < {{UNITS}}u; u++) {
            let unit = b * {{UNITS}}u + u;
#for J 0 1 2 3 4 5 6 7
            let c{{J}} = codes(base, u, {{J}}u, r);
#endfor
#if SCALES
            let scale0 = run_scale(base, {{RUN_0}}, r);
            let scale1 = run_scale(base, {{RUN_1}}, r);
#endif
#if MINS
            let min0 = run_min(base, {{RUN_0}}, r);
            let min1 = run_min(base, {{RUN_1}}, r);
#endif
#for T 0 1 2 3 4 5 6 7
            {
                let q = (a{{T}} >> 2u) + unit * 2u;
                let x0 = quads[q];
                let x1 = quads[q + 1u];
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
#if MINS
                msum[{{T}}] += min0 * sum0 + min1 * sum1;
#endif
            }
#endfor
        }
#if SOFT_FMA
        for (var i = 0u; i < 8u; i++) {
            let a = min(token + i, p.rows - 1u) * p.row_words;
            acc[i] = add_block(sums_of(base, r, a, b, isum[i], msum[i]), acc[i]);
        }
#else
#for T 0 1 2 3 4 5 6 7
        acc[{{T}}] = add_block(sums_of(base, r, a{{T}}, b, isum[{{T}}], msum[{{T}}]), acc[{{T}}]);
#endfor
#endif
    }
#for T 0 1 2 3 4 5 6 7
    if token + {{T}}u < p.rows { store(token + {{T}}u, row, acc[{{T}}]); }
#endfor
}
