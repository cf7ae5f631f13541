// Meaning: graph/src/ops/mat_mul.rs, `dot_int16`, for few rows of activations. 32 rows of weights by {{LANES}} lanes in a
// workgroup: the lanes of a row take its units of 32 elements in turn and store what each run adds; one lane adds the runs
// in order, from the workgroup's memory alone. A lane asks for the weights of {{STEPS}} units before it uses the first.
#flag D_TWO       a block has two f16, its scale and what is added
#flag EXPERTS     the matrix is one of several
#flag HALVES      a run is of 16 elements; else of 32
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#flag SOFT_FMA    fma is made of many steps, so that one copy of it in a loop beats many in line
#const BLOCK_WORDS words of a block of 32 rows
#const LANES       threads for each row of weights
#const MINS_AT     the word of a row where its minimums begin
#const OFFSET      what is taken from a stored code
#const ROUND       units in a round
#const ROUND_RUNS  runs in a round
#const ROUND_WORDS runs in a round, times 32 rows
#const RUNS        runs in a unit
#const SCALES_AT   the word of a row where its integer scales begin
#const STEPS       units that a lane asks for at once
#const THREADS     threads in a workgroup
#const UNITS       units of 32 elements in a block
#const UNIT_WORDS  words of the codes of a unit of one row
#include lib/float
#include lib/weights
#include mat_mul/runs

const ROUND: u32 = {{ROUND}}u;
const LANES: u32 = {{LANES}}u;
const UNITS: u32 = {{UNITS}}u;
const RUNS: u32 = {{RUNS}}u;
// For each run of a round and each row what it adds; the sum of its activations is the same for all rows.
var<workgroup> ds: array<f32, {{ROUND_WORDS}}>;
var<workgroup> isums: array<f32, {{ROUND_WORDS}}>;
#if D_TWO
var<workgroup> ms: array<f32, {{ROUND_WORDS}}>;
var<workgroup> msums: array<f32, {{ROUND_RUNS}}>;
#endif

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let lane = t >> 5u;
#include mat_mul/place
    let a = act * (p.row_words >> 2u);
    let units = p.blocks * UNITS;
    var acc = 0.0;
    for (var first = 0u; first < units; first += ROUND) {
        let count = min(units - first, ROUND);
        for (var next = lane; next < count; next += {{STEPS}}u * LANES) {
#for S 0..{{STEPS}}
            // Units past the last one are it again, and not stored.
            let i{{S}} = min(next + {{S}}u * LANES, count - 1u);
            let u{{S}} = (first + i{{S}}) % UNITS;
            let base{{S}} = (tile + (first + i{{S}}) / UNITS) * {{BLOCK_WORDS}}u;
            let w{{S}} = array<u32, {{UNIT_WORDS}}>(
                #for K 0..{{UNIT_WORDS}}: word(base{{S}}, u{{S}} * {{UNIT_WORDS}}u + {{K}}u, q),
            );
            let d{{S}} = d_word(base{{S}}, q);
            var scales{{S}} = 0u;
            var mins{{S}} = 0u;
            #if SCALES: scales{{S}} = word(base{{S}}, {{SCALES_AT}}u + ((u{{S}} * RUNS) >> 2u), q);
            #if MINS: mins{{S}} = word(base{{S}}, {{MINS_AT}}u + ((u{{S}} * RUNS) >> 2u), q);
#endfor
#for S 0..{{STEPS}}
            {
                let words = w{{S}};
                let at = a + (first + i{{S}}) * 5u;
                let high = array<vec4<u32>, 2>(acts_fours[at], acts_fours[at + 1u]);
                let low = array<vec4<u32>, 2>(acts_fours[at + 2u], acts_fours[at + 3u]);
                let sums = acts_fours[at + 4u];
                var highs = vec2<i32>(0);
                var lows = -{{OFFSET}} * vec2<i32>(sums.xy);
#for J 0..8
                {
#include mat_mul/codes
                    // In blocks, since naga's text for Metal declares the four bytes of `code` anew in each product.
                    { highs[{{J}} / 4] += dot4I8Packed(code, high[{{J}} / 4][{{J}} % 4]); }
                    { lows[{{J}} / 4] += dot4I8Packed(code, low[{{J}} / 4][{{J}} % 4]); }
                }
#endfor
                let halves = highs * 128 + lows;
#if HALVES
                let isum = halves;
#else
                let isum = vec2<i32>(halves.x + halves.y, 0);
#endif
                if next + {{S}}u * LANES < count {
#for H 0..{{RUNS}}
                    {
                        let shift = ((u{{S}} * RUNS + {{H}}u) & 3u) * 8u;
                        let sum = run_sums(run_of(d{{S}}, scales{{S}}, mins{{S}}, shift, q), isum[{{H}}], sums, {{H}}u);
                        let run = i{{S}} * RUNS + {{H}}u;
                        ds[run * 32u + r] = sum.d;
                        isums[run * 32u + r] = sum.isum;
#if D_TWO
                        ms[run * 32u + r] = sum.m;
                        if r == 0u { msums[run] = sum.msum; }
#endif
                    }
#endfor
                }
            }
#endfor
        }
        workgroupBarrier();
        if lane == 0u {
            let runs = count * RUNS;
            var run = 0u;
#if !SOFT_FMA
            for (; run + 8u <= runs; run += 8u) {
#for K 0..8
                let d{{K}} = ds[(run + {{K}}u) * 32u + r];
                let isum{{K}} = isums[(run + {{K}}u) * 32u + r];
#if D_TWO
                let m{{K}} = ms[(run + {{K}}u) * 32u + r];
                let msum{{K}} = msums[run + {{K}}u];
#endif
#endfor
#for K 0..8
                acc = fused(d{{K}}, isum{{K}}, acc);
                #if D_TWO: acc = fused(m{{K}}, msum{{K}}, acc);
#endfor
            }
#endif
            for (; run < runs; run++) {
                acc = fused(ds[run * 32u + r], isums[run * 32u + r], acc);
                #if D_TWO: acc = fused(ms[run * 32u + r], msums[run], acc);
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
