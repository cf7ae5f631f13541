// Part of mat_mul_coop.wgsl: what this thread brings next.
// The next unit is on its way while this one is multiplied; behind the last one it is read again.
let next = min(b * {{UNITS}}u + u + 1u, p.blocks * {{UNITS}}u - 1u);
let next_b = next / {{UNITS}}u;
let next_u = next % {{UNITS}}u;
#for I {{A_LIST}}
w_next{{I}} = half_words((a_tile{{I}} + next_b) * {{BLOCK_WORDS}}u, next_u, a_h{{I}} & 1u, a_r{{I}} & 31u);
#if SCALES
scale_next{{I}} = run_scale((a_tile{{I}} + next_b) * {{BLOCK_WORDS}}u, {{NEXT_RUN}}, a_r{{I}} & 31u);
#endif
#endfor
#for I {{X_LIST}}
x_next{{I}} = quads[(x_row{{I}} >> 2u) + next * 2u + x_h];
#endfor
if next_u == 0u {
    d_next = block_d((d_tile + next_b) * {{BLOCK_WORDS}}u, t & 31u);
#if D_TWO
    m_next = block_m((d_tile + next_b) * {{BLOCK_WORDS}}u, t & 31u);
#endif
#for I {{TOKEN_LIST}}
    d_a_next{{I}} = acts[s_at{{I}} + next_b];
#if D_TWO
#if MINS
#else
    s_a_next{{I}} = acts[s_at{{I}} + p.blocks + next_b];
#endif
#endif
#endfor
#if MINS
#for I {{MIN_LIST}}
    min_next{{I}} = word((min_tile{{I}} + next_b) * {{BLOCK_WORDS}}u, {{MINS_AT}}u + min_k{{I}}, min_r{{I}} & 31u);
#endfor
#for I {{SUM_LIST}}
    sum_next{{I}} = vec4<i32>(quads[sum_at{{I}} + 4u * next_b]);
#endfor
#endif
}
