enable f16;
enable wgpu_int16;
enable wgpu_cooperative_matrix;
// Meaning: graph/src/ops/mat_mul.rs, `dot_int16`, on matrix units: {{ROWS}} rows of weights by {{TOKENS}} rows of
// quantised activations in a workgroup, {{SIZE}} x {{SIZE}} fragments, as coop.wgsl. An activation is two f16 numbers,
// 128 · high and low, and a weight its quant alone, so the sum of a run of weights stays below 2^24 and f32 holds it
// exactly, whatever the unit adds first. Where quants are bytes it does not: there the high and the low numbers have sums of
// their own (gpu/src/matrix.rs says where). Runs leave the unit one by one, and are added to the result in order.
#flag D_TWO       a block has two f16, its scale and what is added
#const A_EACH      half units of weights that a thread brings
#const EACH        elements of a fragment for each thread
#const FRAGMENTS   fragments of a subgroup along the rows of weights, and along the tokens
#const K_STEPS     where the fragments of a run begin, in fours of numbers
#const PARTS       sums of a unit
#const PART_OF     the sum that part {{P}} of run {{H}} enters
#const ROWS        rows of weights in a workgroup
#const RUNS        runs in a unit
#const SIZE        rows and columns of a fragment
#const SUBGROUPS   subgroups in a workgroup
#const SUB_ROWS    subgroups beside one another along the rows of weights
#const THREADS     threads in a workgroup
#const TOKENS      rows of activations in a workgroup
#const UNITS       units of 32 elements in a block
#const X_EACH      half units of activations that a thread brings
#include lib/float
#include lib/weights
#include mat_mul/runs
#include mat_mul/halves

const ROWS: u32 = {{ROWS}}u;
const TOKENS: u32 = {{TOKENS}}u;
const THREADS: u32 = {{THREADS}}u;
const UNITS: u32 = {{UNITS}}u;
const RUNS: u32 = {{RUNS}}u;
// In fours of numbers: rows of a stage stand 40 apart, so that those of a fragment lie in different banks.
const PITCH: u32 = 10u;
const SUMS: u32 = {{SIZE}}u + 4u;
var<workgroup> a: array<vec4<f16>, ROWS * PITCH>;
// The low numbers of all tokens, and then the high ones.
var<workgroup> x: array<vec4<f16>, 2u * TOKENS * PITCH>;
// A fragment of sums for each subgroup.
var<workgroup> c: array<f32, {{SUBGROUPS}}u * {{SIZE}}u * SUMS>;
// Scales of the runs of this unit and the next: even units have the first slot, odd ones the second.
var<workgroup> d_rows: array<f32, 2u * RUNS * ROWS>;
var<workgroup> d_tokens: array<f32, 2u * TOKENS>;
#if D_TWO
var<workgroup> m_rows: array<f32, 2u * RUNS * ROWS>;
var<workgroup> s_tokens: array<f32, 2u * RUNS * TOKENS>;
#endif

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32,
    @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let last_tile = (p.count - 1u) >> 5u;
    let units = p.blocks * UNITS;
    // The part of the tile that this subgroup multiplies, and of each of its fragments the row and the first token that
    // this thread adds up.
    let sub_row = (subgroup % {{SUB_ROWS}}u) * {{FRAGMENTS}}u * {{SIZE}}u;
    let sub_token = (subgroup / {{SUB_ROWS}}u) * {{FRAGMENTS}}u * {{SIZE}}u;
    let own_row = lane % {{SIZE}}u;
    let own_token = (lane / {{SIZE}}u) * {{EACH}}u;
    let region = subgroup * {{SIZE}}u * SUMS;
    let own = region + own_token * SUMS + own_row;
    // 128, where no compiler sees it: in fast math one would make (x - 1152) · 128 a difference of numbers too large for f16.
    let by = bitcast<f16>(u16(0x5800u ^ (no_bits() >> 16u)));
#for R 0..{{FRAGMENTS}}
    #for T 0..{{FRAGMENTS}}: var acc_{{R}}_{{T}}: array<f32, {{EACH}}>;
#endfor
    // What this thread loads for the workgroup: half a unit, 16 elements, of a row of weights and of activations
    // (neighbouring threads have neighbouring rows of weights, and the two halves of an activation), and their scales.
#for I 0..{{A_EACH}}
    let a_r{{I}} = (t + {{I}}u * THREADS) % ROWS;
    let a_h{{I}} = ((t + {{I}}u * THREADS) / ROWS) & 1u;
    let a_tile{{I}} = min(wg.x * (ROWS / 32u) + (a_r{{I}} >> 5u), last_tile) * p.blocks;
    var w_next{{I}}: vec4<u32>;
    var d_next{{I}} = 0u;
    var scales_next{{I}} = 0u;
    var mins_next{{I}} = 0u;
#endfor
    let x_h = t & 1u;
#for I 0..{{X_EACH}}
    let x_token{{I}} = (t + {{I}}u * THREADS) >> 1u;
    let x_row{{I}} = min(wg.y * TOKENS + x_token{{I}}, p.rows - 1u) * (p.row_words >> 2u);
    var high_next{{I}}: vec4<u32>;
    var low_next{{I}}: vec4<u32>;
    var sums_next{{I}}: vec4<u32>;
#endfor
    {
        let next = 0u;
#include mat_mul/coop_int16_next
    }
    for (var n = 0u; n < units; n++) {
        let slot = n & 1u;
#include mat_mul/coop_int16_stage
        workgroupBarrier();
        {
            // After the last unit it loads that one again, which nobody uses.
            let next = min(n + 1u, units - 1u);
#include mat_mul/coop_int16_next
        }
#for R 0..{{FRAGMENTS}}
        #for T 0..{{FRAGMENTS}}: #for S 0..{{PARTS}}: var m_{{R}}_{{T}}_{{S}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#endfor
#for H 0..{{RUNS}}
#for K {{K_STEPS}}
        {
#for R 0..{{FRAGMENTS}}
            let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(
                &a[(sub_row + {{R}}u * {{SIZE}}u) * PITCH + 4u * {{H}}u + {{K}}u], PITCH);
#endfor
#for P 0..2
#for T 0..{{FRAGMENTS}}
            let x_{{P}}_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(
                &x[({{P}}u * TOKENS + sub_token + {{T}}u * {{SIZE}}u) * PITCH + 4u * {{H}}u + {{K}}u], PITCH);
#endfor
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
            m_{{R}}_{{T}}_{{PART_OF}} = coopMultiplyAdd(w_{{R}}, x_{{P}}_{{T}}, m_{{R}}_{{T}}_{{PART_OF}});
#endfor
#endfor
#endfor
        }
#endfor
#endfor
        workgroupBarrier();
#include mat_mul/coop_int16_sums
    }
#include mat_mul/coop_store
}
