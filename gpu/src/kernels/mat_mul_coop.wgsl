enable f16;
enable wgpu_cooperative_matrix;
// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`, on matrix units: {{ROWS}} rows of weights by {{TOKENS}} rows of rounded
// activations in a workgroup, {{SIZE}} x {{SIZE}} fragments. Quants, times their integer scale, are f16 numbers, and the sums of
// a span of elements are below 2^24, so f32 holds each exactly in whatever order the unit adds (gpu/src/matrix.rs says how
// long a span may be; the probe of the device asks whether its unit keeps to that). Spans join as integers, blocks in order.
#include float
#include weights
#include dot

const ROWS: u32 = {{ROWS}}u;
const TOKENS: u32 = {{TOKENS}}u;
const THREADS: u32 = {{THREADS}}u;
// Rows of a stage stand 40 apart, so that the rows of a fragment lie in different banks; so do the columns of the sums.
const PITCH: u32 = 40u;
const SUMS: u32 = {{ROWS}}u + 4u;
var<workgroup> a: array<f16, {{A_LEN}}>;
#if SPLIT
var<workgroup> a_high: array<f16, {{A_LEN}}>;
#endif
var<workgroup> x: array<f16, {{X_LEN}}>;
var<workgroup> c: array<f32, {{C_LEN}}>;
// Scales of this block and the next, by turns.
var<workgroup> d_rows: array<f32, {{TWO_ROWS}}>;
var<workgroup> d_tokens: array<f32, {{TWO_TOKENS}}>;
#if D_TWO
var<workgroup> m_rows: array<f32, {{TWO_ROWS}}>;
#if MINS
#else
var<workgroup> s_tokens: array<f32, {{TWO_TOKENS}}>;
#endif
#endif

// Four bytes as numbers, less what they were stored with: 1024 + b is a number whose lowest bits are b.
fn numbers(bytes: u32, less: f16) -> vec4<f16> {
    let low = (bytes & 0xffu) | ((bytes & 0xff00u) << 8u) | 0x64006400u;
    let high = ((bytes >> 16u) & 0xffu) | ((bytes >> 8u) & 0xff0000u) | 0x64006400u;
    return vec4<f16>(vec2<f16>(unpack2x16float(low)), vec2<f16>(unpack2x16float(high))) - vec4<f16>(less);
}

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32,
    @builtin(subgroup_id) subgroup: u32) {
    let last_tile = (p.count - 1u) >> 5u;
    // The part of the tile that this subgroup multiplies, and the row and the tokens that this thread adds up.
    let sub_row = (subgroup % {{SUB_ROWS}}u) * {{FRAGMENTS}}u * {{SIZE}}u;
    let sub_token = (subgroup / {{SUB_ROWS}}u) * {{FRAGMENTS}}u * {{SIZE}}u;
    let own_row = t % ROWS;
    let own_token = (t / ROWS) * {{OUTS}}u;
    var acc: array<f32, {{OUTS}}>;
#if SINGLE
#else
    var isum: array<{{SUM_TYPE}}, {{OUTS}}>;
#endif
#if MINS
    var msum: array<f32, {{OUTS}}>;
#endif
    for (var b = 0u; b < p.blocks; b++) {
        let turn = b & 1u;
        for (var i = t; i < ROWS; i += THREADS) {
            let base = (min(wg.x * (ROWS / 32u) + (i >> 5u), last_tile) * p.blocks + b) * {{BLOCK_WORDS}}u;
            d_rows[turn * ROWS + i] = block_d(base, i & 31u);
#if D_TWO
            m_rows[turn * ROWS + i] = block_m(base, i & 31u);
#endif
        }
        for (var i = t; i < TOKENS; i += THREADS) {
            let scales = min(wg.y * TOKENS + i, p.rows - 1u) * p.row_words + p.n_in / 4u + p.n_in / 16u;
            d_tokens[turn * TOKENS + i] = bitcast<f32>(acts[scales + b]);
#if D_TWO
#if MINS
#else
            s_tokens[turn * TOKENS + i] = bitcast<f32>(acts[scales + p.blocks + b]);
#endif
#endif
        }
#if MINS
        // The minimums and the sums of sixteen activations: one more product, of 16 elements.
        for (var i = t; i < ROWS; i += THREADS) {
            let base = (min(wg.x * (ROWS / 32u) + (i >> 5u), last_tile) * p.blocks + b) * {{BLOCK_WORDS}}u;
            for (var s = 0u; s < 16u; s++) { a[i * PITCH + s] = f16(run_min(base, {{MIN_RUN}}, i & 31u)); }
        }
        for (var i = t; i < TOKENS; i += THREADS) {
            let sums = min(wg.y * TOKENS + i, p.rows - 1u) * p.row_words + p.n_in / 4u + b * 16u;
            for (var s = 0u; s < 16u; s++) { x[i * PITCH + s] = f16(i32(acts[sums + s])); }
        }
        workgroupBarrier();
        {
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
            var m_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#endfor
#endfor
#for K {{SUM_STEPS}}
            {
#for R {{FRAGMENT_LIST}}
                let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&a[(sub_row + {{R}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for T {{FRAGMENT_LIST}}
                let x_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&x[(sub_token + {{T}}u * {{SIZE}}u) * PITCH + {{K}}u], PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
                m_{{R}}_{{T}} = coopMultiplyAdd(w_{{R}}, x_{{T}}, m_{{R}}_{{T}});
#endfor
#endfor
            }
#endfor
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
            let at_{{R}}_{{T}} = (sub_token + {{T}}u * {{SIZE}}u) * SUMS + sub_row + {{R}}u * {{SIZE}}u;
            coopStore(m_{{R}}_{{T}}, &c[at_{{R}}_{{T}}], SUMS);
#endfor
#endfor
        }
        workgroupBarrier();
#for J {{OUT_LIST}}
        msum[{{J}}] = c[(own_token + {{J}}u) * SUMS + own_row];
#endfor
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
                // Half a unit, 16 elements, of each row: neighbouring threads have neighbouring rows of weights, and
                // the two halves of an activation.
                for (var i = t; i < 2u * ROWS; i += THREADS) {
                    let r = i % ROWS;
                    let h = i / ROWS;
                    let base = (min(wg.x * (ROWS / 32u) + (r >> 5u), last_tile) * p.blocks + b) * {{BLOCK_WORDS}}u;
                    let to = r * PITCH + h * 16u;
#if SCALES
                    let scale = f16(run_scale(base, {{HALF_RUN}}, r & 31u));
#endif
#for J 0 1 2 3
                    {
                        let bytes = codes(base, u, h * 4u + {{J}}u, r & 31u){{TO_UNSIGNED}};
#if SPLIT
                        let v = numbers(bytes & {{LOW_MASK}}, 1024.0h) * scale;
                        let high = numbers((bytes >> {{SHIFT}}u) & {{HIGH_MASK}}, {{LESS}}) * scale;
#for I 0 1 2 3
                        a_high[to + 4u * {{J}}u + {{I}}u] = high[{{I}}];
#endfor
#else
#if SCALES
                        let v = numbers(bytes, {{LESS}}) * scale;
#else
                        let v = numbers(bytes, {{LESS}});
#endif
#endif
#for I 0 1 2 3
                        a[to + 4u * {{J}}u + {{I}}u] = v[{{I}}];
#endfor
                    }
#endfor
                }
                for (var i = t; i < 2u * TOKENS; i += THREADS) {
                    let token = i >> 1u;
                    let h = i & 1u;
                    let row = min(wg.y * TOKENS + token, p.rows - 1u) * p.row_words;
                    let q = quads[(row >> 2u) + (b * {{UNITS}}u + u) * 2u + h];
                    let to = token * PITCH + h * 16u;
#for J 0 1 2 3
                    {
                        let v = numbers(q[{{J}}] ^ 0x80808080u, 1152.0h);
#for I 0 1 2 3
                        x[to + 4u * {{J}}u + {{I}}u] = v[{{I}}];
#endfor
                    }
#endfor
                }
                workgroupBarrier();
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
#if SPLIT
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
            let high_{{R}}_{{T}} = (sub_token + {{T}}u * {{SIZE}}u) * SUMS + sub_row + {{R}}u * {{SIZE}}u;
            coopStore(h_{{R}}_{{T}}, &c[high_{{R}}_{{T}}], SUMS);
#endfor
#endfor
            workgroupBarrier();
#for J {{OUT_LIST}}
            isum[{{J}}] += i32(c[(own_token + {{J}}u) * SUMS + own_row]) << {{SHIFT}}u;
#endfor
            workgroupBarrier();
#endif
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
            let at_{{R}}_{{T}} = (sub_token + {{T}}u * {{SIZE}}u) * SUMS + sub_row + {{R}}u * {{SIZE}}u;
            coopStore(m_{{R}}_{{T}}, &c[at_{{R}}_{{T}}], SUMS);
#endfor
#endfor
            workgroupBarrier();
#if SINGLE
#else
#for J {{OUT_LIST}}
            isum[{{J}}] += {{SUM_TYPE}}(c[(own_token + {{J}}u) * SUMS + own_row]);
#endfor
#endif
        }
        let d_row = d_rows[turn * ROWS + own_row];
#if D_TWO
        let m_row = m_rows[turn * ROWS + own_row];
#endif
#for J {{OUT_LIST}}
        {
            let d_token = d_tokens[turn * TOKENS + own_token + {{J}}u];
#if SINGLE
            let sum = c[(own_token + {{J}}u) * SUMS + own_row];
#else
            let sum = f32(isum[{{J}}]);
            isum[{{J}}] = {{SUM_TYPE}}(0);
#endif
            let v = fused(keep(d_row * d_token), sum, acc[{{J}}]);
#if D_TWO
#if MINS
            acc[{{J}}] = fused(-keep(m_row * d_token), msum[{{J}}], v);
#else
            acc[{{J}}] = fused(m_row, s_tokens[turn * TOKENS + own_token + {{J}}u], v);
#endif
#else
            acc[{{J}}] = v;
#endif
        }
#endfor
    }
    let row = wg.x * ROWS + own_row;
    let token = wg.y * TOKENS + own_token;
    if row >= p.count { return; }
#for J {{OUT_LIST}}
    if token + {{J}}u < p.rows { store(token + {{J}}u, row, acc[{{J}}]); }
#endfor
}
