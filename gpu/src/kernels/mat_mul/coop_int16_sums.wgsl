// Part of coop_int16.wgsl: adds the runs of a unit to the result. One fragment at a time goes through workgroup memory,
// because WGSL does not say which thread holds which element of a fragment.
#flag APART       high and low numbers have sums of their own
#flag D_TWO       a block has two f16, its scale and what is added
#const EACH      elements of a fragment for each thread
#const FRAGMENTS fragments of a subgroup along the rows of weights, and along the tokens
#const RUNS      runs in a unit
#const SIZE      rows and columns of a fragment
#needs ROWS, SUMS, TOKENS, acc_*_*, c, d_rows, d_tokens, fused, keep, m_*_*_*, m_rows, own, own_row, own_token, region,
#needs s_tokens, slot, sub_row, sub_token
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
{
    let row = sub_row + {{R}}u * {{SIZE}}u + own_row;
    let token = sub_token + {{T}}u * {{SIZE}}u + own_token;
#for H 0..{{RUNS}}
    {
#if APART
        coopStore(m_{{R}}_{{T}}_1, &c[region], SUMS);
        subgroupBarrier();
        // Both are whole numbers that f32 holds; their sum is rounded once, when it becomes an f32.
        #for J 0..{{EACH}}: let high_{{J}} = i32(c[own + {{J}}u * SUMS]);
        subgroupBarrier();
        coopStore(m_{{R}}_{{T}}_0, &c[region], SUMS);
        subgroupBarrier();
        #for J 0..{{EACH}}: let sum_{{J}} = f32(high_{{J}} + i32(c[own + {{J}}u * SUMS]));
#else
        coopStore(m_{{R}}_{{T}}_{{H}}, &c[region], SUMS);
        subgroupBarrier();
        #for J 0..{{EACH}}: let sum_{{J}} = c[own + {{J}}u * SUMS];
#endif
        let d_row = d_rows[(slot * {{RUNS}}u + {{H}}u) * ROWS + row];
        #if D_TWO: let m_row = m_rows[(slot * {{RUNS}}u + {{H}}u) * ROWS + row];
#for J 0..{{EACH}}
        {
            let d = keep(d_row * d_tokens[slot * TOKENS + token + {{J}}u]);
            acc_{{R}}_{{T}}[{{J}}] = fused(d, sum_{{J}}, acc_{{R}}_{{T}}[{{J}}]);
#if D_TWO
            let msum = s_tokens[(slot * {{RUNS}}u + {{H}}u) * TOKENS + token + {{J}}u];
            acc_{{R}}_{{T}}[{{J}}] = fused(m_row, msum, acc_{{R}}_{{T}}[{{J}}]);
#endif
        }
#endfor
        subgroupBarrier();
    }
#endfor
}
#endfor
#endfor
