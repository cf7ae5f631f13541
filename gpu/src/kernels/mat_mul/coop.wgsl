enable f16;
enable wgpu_int16;
enable wgpu_cooperative_matrix;
// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`, on matrix units: {{ROWS}} rows of weights by {{TOKENS}} rows of
// quantised activations in a workgroup, {{SIZE}} x {{SIZE}} fragments. Quants, times their integer scale, are f16
// numbers, and the sums of a span of elements are below 2^24, so f32 holds each exactly in whatever order the unit adds
// (gpu/src/matrix.rs says how long a span may be; a probe of the device asks whether its unit keeps to that). Spans join
// as integers, blocks in order. Tried, 4096 x 4096 in Q4_K by 512 tokens on an H100, where the packed products of
// int8.wgsl take 580 us: numbers made by unpack2x16float and stored one by one, 630; made of bits, stored in fours, a
// fragment's sums through a place of its own, the next unit prefetched, 223; the next minimums too, and bytes 0, 2, 1, 3
// for 0, 1, 2, 3, 202 (Q8_0 289, Q6_K 287). Slower: 64 x 128 in a workgroup, 308; 128 x 64, 282; a stage of two halves
// and one barrier a unit, 368; minimums multiplied after the units instead of before them, 375.
#flag D_TWO       a block has two f16, its scale and what is added
#flag HIGH_LOW    quants are multiplied in two parts, high and low bits
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#flag SINGLE      a block is one span: its sums need not be kept as integers
#const A_EACH      half units of weights that a thread brings
#const BLOCK_WORDS words of a block of 32 rows
#const EACH        elements of a fragment for each thread
#const FIRST_RUN   the run of the thread's half of the first unit
#const FRAGMENTS   fragments of a subgroup along the rows of weights, and along the tokens
#const K_STEPS     where the fragments of a unit begin, in fours of numbers
#const MINS_AT     the word of a row where its minimums begin
#const MIN_EACH    words of minimums that a thread brings
#const MIN_WORDS   words of the minimums of a row of a block
#const ROWS        rows of weights in a workgroup
#const SIZE        rows and columns of a fragment
#const SPAN_UNITS  units in a span
#const SUBGROUPS   subgroups in a workgroup
#const SUB_ROWS    subgroups beside one another along the rows of weights
#const SUM_EACH    fours of sums that a thread brings
#const SUM_TYPE    the type that joins the spans of a block
#const THREADS     threads in a workgroup
#const TOKENS      rows of activations in a workgroup
#const TOKEN_EACH  scales of tokens that a thread brings
#const UNITS       units of 32 elements in a block
#const X_EACH      half units of activations that a thread brings
#include lib/float
#include lib/weights
#include mat_mul/dot
#include mat_mul/halves

const ROWS: u32 = {{ROWS}}u;
const TOKENS: u32 = {{TOKENS}}u;
const THREADS: u32 = {{THREADS}}u;
// In fours of numbers: rows of a stage stand 40 apart, of minimums 24, so that those of a fragment lie in different banks.
const PITCH: u32 = 10u;
const MIN_PITCH: u32 = 6u;
const SUMS: u32 = {{SIZE}}u + 4u;
var<workgroup> a: array<vec4<f16>, ROWS * PITCH>;
#if HIGH_LOW: var<workgroup> a_high: array<vec4<f16>, ROWS * PITCH>;
var<workgroup> x: array<vec4<f16>, TOKENS * PITCH>;
// A fragment of sums for each subgroup.
var<workgroup> c: array<f32, {{SUBGROUPS}}u * {{SIZE}}u * SUMS>;
// Scales of this block and the next: even blocks have the first slot, odd ones the second.
var<workgroup> d_rows: array<f32, 2u * ROWS>;
var<workgroup> d_tokens: array<f32, 2u * TOKENS>;
#if D_TWO
var<workgroup> m_rows: array<f32, 2u * ROWS>;
#if MINS
var<workgroup> mins: array<vec4<f16>, ROWS * MIN_PITCH>;
var<workgroup> sums: array<vec4<f16>, TOKENS * MIN_PITCH>;
#else
var<workgroup> s_tokens: array<f32, 2u * TOKENS>;
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
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
    var acc_{{R}}_{{T}}: array<f32, {{EACH}}>;
    #if !SINGLE: var isum_{{R}}_{{T}}: array<{{SUM_TYPE}}, {{EACH}}>;
    #if MINS: var msum_{{R}}_{{T}}: array<f32, {{EACH}}>;
#endfor
#endfor
    // What this thread loads for the workgroup: half a unit, 16 elements, of a row of weights and of activations
    // (neighbouring threads have neighbouring rows of weights, and the two halves of an activation), and scales.
#for I 0..{{A_EACH}}
    let a_r{{I}} = (t + {{I}}u * THREADS) % ROWS;
    let a_h{{I}} = (t + {{I}}u * THREADS) / ROWS;
    let a_tile{{I}} = min(wg.x * (ROWS / 32u) + (a_r{{I}} >> 5u), last_tile) * p.blocks;
    var w_next{{I}} = half_words(a_tile{{I}} * {{BLOCK_WORDS}}u, 0u, a_h{{I}} & 1u, a_r{{I}} & 31u);
    #if SCALES: var scale_next{{I}} = run_scale(a_tile{{I}} * {{BLOCK_WORDS}}u, {{FIRST_RUN}}, a_r{{I}} & 31u);
#endfor
    let x_h = t & 1u;
#for I 0..{{X_EACH}}
    let x_token{{I}} = (t + {{I}}u * THREADS) >> 1u;
    let x_row{{I}} = min(wg.y * TOKENS + x_token{{I}}, p.rows - 1u) * p.row_words;
    var x_next{{I}} = acts_fours[(x_row{{I}} >> 2u) + x_h];
#endfor
    let d_tile = min(wg.x * (ROWS / 32u) + ((t % ROWS) >> 5u), last_tile) * p.blocks;
    var d_next = block_d(d_tile * {{BLOCK_WORDS}}u, t & 31u);
    #if D_TWO: var m_next = block_m(d_tile * {{BLOCK_WORDS}}u, t & 31u);
#for I 0..{{TOKEN_EACH}}
    let s_at{{I}} = min(wg.y * TOKENS + t + {{I}}u * THREADS, p.rows - 1u) * p.row_words + p.n_in / 4u + p.n_in / 16u;
    var d_a_next{{I}} = acts[s_at{{I}}];
#if D_TWO
    #if !MINS: var s_a_next{{I}} = acts[s_at{{I}} + p.blocks];
#endif
#endfor
#if MINS
#for I 0..{{MIN_EACH}}
    let min_r{{I}} = (t + {{I}}u * THREADS) % ROWS;
    let min_k{{I}} = min((t + {{I}}u * THREADS) / ROWS, {{MIN_WORDS}}u - 1u);
    let min_tile{{I}} = min(wg.x * (ROWS / 32u) + (min_r{{I}} >> 5u), last_tile) * p.blocks;
    var min_next{{I}} = word(min_tile{{I}} * {{BLOCK_WORDS}}u, {{MINS_AT}}u + min_k{{I}}, min_r{{I}} & 31u);
#endfor
#for I 0..{{SUM_EACH}}
    let sum_at{{I}} =
        ((min(wg.y * TOKENS + ((t + {{I}}u * THREADS) >> 2u), p.rows - 1u) * p.row_words + p.n_in / 4u) >> 2u) + (t & 3u);
    var sum_next{{I}} = vec4<i32>(acts_fours[sum_at{{I}}]);
#endfor
#endif
    for (var b = 0u; b < p.blocks; b++) {
        let slot = b & 1u;
#if MINS
#include mat_mul/coop_mins
#endif
        for (var first = 0u; first < {{UNITS}}u; first += {{SPAN_UNITS}}u) {
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
            var m_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
            #if HIGH_LOW: var h_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#endfor
#endfor
            for (var u = first; u < first + {{SPAN_UNITS}}u; u++) {
#include mat_mul/coop_stage
                workgroupBarrier();
#include mat_mul/coop_next
#for K {{K_STEPS}}
                {
#for T 0..{{FRAGMENTS}}
                    let x_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&x[(sub_token + {{T}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R 0..{{FRAGMENTS}}
                    let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&a[(sub_row + {{R}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R 0..{{FRAGMENTS}}
                    #for T 0..{{FRAGMENTS}}: m_{{R}}_{{T}} = coopMultiplyAdd(w_{{R}}, x_{{T}}, m_{{R}}_{{T}});
#endfor
#if HIGH_LOW
#for R 0..{{FRAGMENTS}}
                    let v_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&a_high[(sub_row + {{R}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R 0..{{FRAGMENTS}}
                    #for T 0..{{FRAGMENTS}}: h_{{R}}_{{T}} = coopMultiplyAdd(v_{{R}}, x_{{T}}, h_{{R}}_{{T}});
#endfor
#endif
                }
#endfor
                workgroupBarrier();
            }
#include mat_mul/coop_sums
        }
    }
#include mat_mul/coop_store
}
