enable f16;
enable wgpu_int16;
enable wgpu_cooperative_matrix;
// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`, on matrix units: {{ROWS}} rows of weights by {{TOKENS}} rows of rounded
// activations in a workgroup, {{SIZE}} x {{SIZE}} fragments. Quants, times their integer scale, are f16 numbers, and the sums
// of a span of elements are below 2^24, so f32 holds each exactly in whatever order the unit adds (gpu/src/matrix.rs says how
// long a span may be; a probe of the device asks whether its unit keeps to that). Spans join as integers, blocks in order.
// Tried, 4096 x 4096 in Q4_K by 512 tokens on an H100, where the packed products of mat_mul_int8.wgsl take 580 us: numbers
// made by unpack2x16float and stored one by one, 630; made of bits, stored in fours, a fragment's sums through a place of its
// own, the next unit asked for ahead, 223; the next minimums too, and bytes 0, 2, 1, 3 for 0, 1, 2, 3, 202 (Q8_0 289, Q6_K
// 287). Slower: 64 x 128 in a workgroup, 308; 128 x 64, 282; a stage of two halves and one barrier a unit, 368; minimums
// multiplied behind the units instead of before them, 375.
#include float
#include weights
#include dot
#include halves

const ROWS: u32 = {{ROWS}}u;
const TOKENS: u32 = {{TOKENS}}u;
const THREADS: u32 = {{THREADS}}u;
// In fours of numbers: rows of a stage stand 40 apart, of minimums 24, so that those of a fragment lie in different banks.
const PITCH: u32 = 10u;
const MIN_PITCH: u32 = 6u;
const SUMS: u32 = {{SIZE}}u + 4u;
var<workgroup> a: array<vec4<f16>, {{A_LEN}}>;
#if SPLIT
var<workgroup> a_high: array<vec4<f16>, {{A_LEN}}>;
#endif
var<workgroup> x: array<vec4<f16>, {{X_LEN}}>;
// A fragment of sums for each subgroup.
var<workgroup> c: array<f32, {{C_LEN}}>;
// Scales of this block and the next, by turns.
var<workgroup> d_rows: array<f32, {{TWO_ROWS}}>;
var<workgroup> d_tokens: array<f32, {{TWO_TOKENS}}>;
#if D_TWO
var<workgroup> m_rows: array<f32, {{TWO_ROWS}}>;
#if MINS
var<workgroup> mins: array<vec4<f16>, {{MINS_LEN}}>;
var<workgroup> sums: array<vec4<f16>, {{SUMS_LEN}}>;
#else
var<workgroup> s_tokens: array<f32, {{TWO_TOKENS}}>;
#endif
#endif

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32,
    @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let last_tile = (p.count - 1u) >> 5u;
    // The part of the tile that this subgroup multiplies, and of each of its fragments the row and the first token that
    // this thread adds up.
    let sub_row = (subgroup % {{SUB_ROWS}}u) * {{FRAGMENTS}}u * {{SIZE}}u;
    let sub_token = (subgroup / {{SUB_ROWS}}u) * {{FRAGMENTS}}u * {{SIZE}}u;
    let own_row = lane % {{SIZE}}u;
    let own_token = (lane / {{SIZE}}u) * {{EACH}}u;
    let region = subgroup * {{SIZE}}u * SUMS;
    let own = region + own_token * SUMS + own_row;
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
    var acc_{{R}}_{{T}}: array<f32, {{EACH}}>;
#if SINGLE
#else
    var isum_{{R}}_{{T}}: array<{{SUM_TYPE}}, {{EACH}}>;
#endif
#if MINS
    var msum_{{R}}_{{T}}: array<f32, {{EACH}}>;
#endif
#endfor
#endfor
    // What this thread brings to the workgroup: half a unit, 16 elements, of a row of weights and of activations
    // (neighbouring threads have neighbouring rows of weights, and the two halves of an activation), and scales.
#for I {{A_LIST}}
    let a_r{{I}} = (t + {{I}}u * THREADS) % ROWS;
    let a_h{{I}} = (t + {{I}}u * THREADS) / ROWS;
    let a_tile{{I}} = min(wg.x * (ROWS / 32u) + (a_r{{I}} >> 5u), last_tile) * p.blocks;
    var w_next{{I}} = half_words(a_tile{{I}} * {{BLOCK_WORDS}}u, 0u, a_h{{I}} & 1u, a_r{{I}} & 31u);
#if SCALES
    var scale_next{{I}} = run_scale(a_tile{{I}} * {{BLOCK_WORDS}}u, {{FIRST_RUN}}, a_r{{I}} & 31u);
#endif
#endfor
    let x_h = t & 1u;
#for I {{X_LIST}}
    let x_token{{I}} = (t + {{I}}u * THREADS) >> 1u;
    let x_row{{I}} = min(wg.y * TOKENS + x_token{{I}}, p.rows - 1u) * p.row_words;
    var x_next{{I}} = quads[(x_row{{I}} >> 2u) + x_h];
#endfor
    let d_tile = min(wg.x * (ROWS / 32u) + ((t % ROWS) >> 5u), last_tile) * p.blocks;
    var d_next = block_d(d_tile * {{BLOCK_WORDS}}u, t & 31u);
#if D_TWO
    var m_next = block_m(d_tile * {{BLOCK_WORDS}}u, t & 31u);
#endif
#for I {{TOKEN_LIST}}
    let s_at{{I}} = min(wg.y * TOKENS + t + {{I}}u * THREADS, p.rows - 1u) * p.row_words + p.n_in / 4u + p.n_in / 16u;
    var d_a_next{{I}} = acts[s_at{{I}}];
#if D_TWO
#if MINS
#else
    var s_a_next{{I}} = acts[s_at{{I}} + p.blocks];
#endif
#endif
#endfor
#if MINS
#for I {{MIN_LIST}}
    let min_r{{I}} = (t + {{I}}u * THREADS) % ROWS;
    let min_k{{I}} = min((t + {{I}}u * THREADS) / ROWS, {{MIN_WORDS}}u - 1u);
    let min_tile{{I}} = min(wg.x * (ROWS / 32u) + (min_r{{I}} >> 5u), last_tile) * p.blocks;
    var min_next{{I}} = word(min_tile{{I}} * {{BLOCK_WORDS}}u, {{MINS_AT}}u + min_k{{I}}, min_r{{I}} & 31u);
#endfor
#for I {{SUM_LIST}}
    let sum_at{{I}} =
        ((min(wg.y * TOKENS + ((t + {{I}}u * THREADS) >> 2u), p.rows - 1u) * p.row_words + p.n_in / 4u) >> 2u) + (t & 3u);
    var sum_next{{I}} = vec4<i32>(quads[sum_at{{I}}]);
#endfor
#endif
    for (var b = 0u; b < p.blocks; b++) {
        let turn = b & 1u;
#if MINS
#include coop_mins
#endif
        for (var first = 0u; first < {{UNITS}}u; first += {{SPAN_UNITS}}u) {
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
            var m_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#if SPLIT
            var h_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#endif
#endfor
#endfor
            for (var u = first; u < first + {{SPAN_UNITS}}u; u++) {
#include coop_stage
                workgroupBarrier();
#include coop_next
#for K {{STEPS}}
                {
#for T {{FRAGMENT_LIST}}
                    let x_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&x[(sub_token + {{T}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
                    let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&a[(sub_row + {{R}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
                    m_{{R}}_{{T}} = coopMultiplyAdd(w_{{R}}, x_{{T}}, m_{{R}}_{{T}});
#endfor
#endfor
#if SPLIT
#for R {{FRAGMENT_LIST}}
                    let v_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&a_high[(sub_row + {{R}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
                    h_{{R}}_{{T}} = coopMultiplyAdd(v_{{R}}, x_{{T}}, h_{{R}}_{{T}});
#endfor
#endfor
#endif
                }
#endfor
                workgroupBarrier();
            }
#include coop_sums
        }
    }
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
    {
        let row = wg.x * ROWS + sub_row + {{R}}u * {{SIZE}}u + own_row;
        let token = wg.y * TOKENS + sub_token + {{T}}u * {{SIZE}}u + own_token;
        if row < p.count {
#for J {{EACH_LIST}}
            if token + {{J}}u < p.rows { store(token + {{J}}u, row, acc_{{R}}_{{T}}[{{J}}]); }
#endfor
        }
    }
#endfor
#endfor
}
