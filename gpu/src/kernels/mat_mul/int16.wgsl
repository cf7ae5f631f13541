// Meaning: graph/src/ops/mat_mul.rs, `dot_int16`. Each thread has one row of weights and eight rows of quantised
// activations, so that a weight is unpacked once for sixteen products; 32 rows by 64 tokens in a workgroup.
#flag HALVES      a run is of 16 elements; else of 32
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#flag SOFT_FMA    fma is made of many steps, so that one copy of it in a loop beats many in line
#const BLOCK_WORDS words of a block of 32 rows
#const MINS_AT     the word of a row where its minimums begin
#const OFFSET      what is taken from a stored code
#const RUNS        runs in a unit
#const SCALES_AT   the word of a row where its integer scales begin
#const UNITS       units of 32 elements in a block
#include lib/float
#include lib/weights
#include mat_mul/runs

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let row = wg.x * 32u + r;
    let token = wg.y * 64u + (t >> 5u) * 8u;
    if row >= p.count || token >= p.rows { return; }
    // Rows past the last one repeat it; they are not stored.
    #for T 0..8: let a{{T}} = min(token + {{T}}u, p.rows - 1u) * (p.row_words >> 2u);
    var acc: array<f32, 8>;
    for (var b = 0u; b < p.blocks; b++) {
        let base = (wg.x * p.blocks + b) * {{BLOCK_WORDS}}u;
        let d = d_word(base, r);
        for (var u = 0u; u < {{UNITS}}u; u++) {
            #for H 0..2: #for J 0..4: let c{{H}}{{J}} = codes(base, u, {{H}}u * 4u + {{J}}u, r);
            var scales = 0u;
            var mins = 0u;
            #if SCALES: scales = word(base, {{SCALES_AT}}u + ((u * {{RUNS}}u) >> 2u), r);
            #if MINS: mins = word(base, {{MINS_AT}}u + ((u * {{RUNS}}u) >> 2u), r);
            let shift = ((u * {{RUNS}}u) & 3u) * 8u;
            let run0 = run_of(d, scales, mins, shift, r);
            #if HALVES: let run1 = run_of(d, scales, mins, shift + 8u, r);
            let unit = (b * {{UNITS}}u + u) * 5u;
            var isum0: array<i32, 8>;
            #if HALVES: var isum1: array<i32, 8>;
#for T 0..8
            {
                let at = a{{T}} + unit;
                let sums = acts_fours[at + 4u];
                // The high bytes, shifted, and then the low ones; in blocks, since naga's text for Metal declares the four
                // bytes of a code anew in each product.
#for H 0..2
                let high{{H}} = acts_fours[at + {{H}}u];
                let low{{H}} = acts_fours[at + 2u + {{H}}u];
                var dot{{H}} = 0;
                {
                    #for J 0..4: dot{{H}} += dot4I8Packed(c{{H}}{{J}}, high{{H}}[{{J}}]);
                }
                dot{{H}} = dot{{H}} * 128 - {{OFFSET}} * i32(sums[{{H}}]);
                {
                    #for J 0..4: dot{{H}} += dot4I8Packed(c{{H}}{{J}}, low{{H}}[{{J}}]);
                }
#endfor
#if HALVES
                isum0[{{T}}] = dot0;
                isum1[{{T}}] = dot1;
#else
                isum0[{{T}}] = dot0 + dot1;
#endif
            }
#endfor
#if SOFT_FMA
            for (var i = 0u; i < 8u; i++) {
                let sums = acts_fours[min(token + i, p.rows - 1u) * (p.row_words >> 2u) + unit + 4u];
                acc[i] = add_sums(run_sums(run0, isum0[i], sums, 0u), acc[i]);
                #if HALVES: acc[i] = add_sums(run_sums(run1, isum1[i], sums, 1u), acc[i]);
            }
#else
#for T 0..8
            {
                let sums = acts_fours[a{{T}} + unit + 4u];
                acc[{{T}}] = add_sums(run_sums(run0, isum0[{{T}}], sums, 0u), acc[{{T}}]);
                #if HALVES: acc[{{T}}] = add_sums(run_sums(run1, isum1[{{T}}], sums, 1u), acc[{{T}}]);
            }
#endfor
#endif
        }
    }
    #for T 0..8: if token + {{T}}u < p.rows { store(token + {{T}}u, row, acc[{{T}}]); }
}
