// Part of coop.wgsl: this thread prefetches its share of the next unit while the current one is multiplied. After the last
// unit it loads that one again, which nobody uses.
#flag D_TWO       a block has two f16, its scale and what is added
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#const A_EACH      half units of weights that a thread brings
#const BLOCK_WORDS words of a block of 32 rows
#const MINS_AT     the word of a row where its minimums begin
#const MIN_EACH    words of minimums that a thread brings
#const NEXT_RUN    the run of its half of the next unit
#const SUM_EACH    fours of sums that a thread brings
#const TOKEN_EACH  scales of tokens that a thread brings
#const UNITS       units of 32 elements in a block
#const X_EACH      half units of activations that a thread brings
#needs a_h*, a_r*, a_tile*, b, block_d, block_m, d_a_next*, d_next, d_tile, half_words, m_next, min_k*, min_next*,
#needs min_r*, min_tile*, p.blocks, acts, acts_fours, run_scale, s_a_next*, s_at*, scale_next*, sum_at*, sum_next*, t,
#needs w_next*, word, x_h, x_next*, x_row*, u
let next = min(b * {{UNITS}}u + u + 1u, p.blocks * {{UNITS}}u - 1u);
let next_b = next / {{UNITS}}u;
let next_u = next % {{UNITS}}u;
#for I 0..{{A_EACH}}
w_next{{I}} = half_words((a_tile{{I}} + next_b) * {{BLOCK_WORDS}}u, next_u, a_h{{I}} & 1u, a_r{{I}} & 31u);
#if SCALES: scale_next{{I}} = run_scale((a_tile{{I}} + next_b) * {{BLOCK_WORDS}}u, {{NEXT_RUN}}, a_r{{I}} & 31u);
#endfor
#for I 0..{{X_EACH}}: x_next{{I}} = acts_fours[(x_row{{I}} >> 2u) + next * 2u + x_h];
if next_u == 0u {
    d_next = block_d((d_tile + next_b) * {{BLOCK_WORDS}}u, t & 31u);
    #if D_TWO: m_next = block_m((d_tile + next_b) * {{BLOCK_WORDS}}u, t & 31u);
#for I 0..{{TOKEN_EACH}}
    d_a_next{{I}} = acts[s_at{{I}} + next_b];
#if D_TWO
    #if !MINS: s_a_next{{I}} = acts[s_at{{I}} + p.blocks + next_b];
#endif
#endfor
#if MINS
#for I 0..{{MIN_EACH}}
    min_next{{I}} = word((min_tile{{I}} + next_b) * {{BLOCK_WORDS}}u, {{MINS_AT}}u + min_k{{I}}, min_r{{I}} & 31u);
#endfor
    #for I 0..{{SUM_EACH}}: sum_next{{I}} = vec4<i32>(acts_fours[sum_at{{I}} + 4u * next_b]);
#endif
}
