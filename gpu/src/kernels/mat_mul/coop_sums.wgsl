// Part of coop.wgsl: adds a span's sums to the block's, and after the last span the block to the result. One fragment at a
// time goes through workgroup memory, because WGSL does not say which thread holds which element of a fragment.
#flag D_TWO      a block has two f16, its scale and what is added
#flag HIGH_LOW   quants are multiplied in two parts, high and low bits
#flag MINS       runs of elements have an integer minimum
#flag SINGLE     a block is one span: its sums need not be kept as integers
#const EACH       elements of a fragment for each thread
#const FRAGMENTS  fragments of a subgroup along the rows of weights, and along the tokens
#const SHIFT      bits of the low part
#const SIZE       rows and columns of a fragment
#const SPAN_UNITS units in a span
#const SUM_TYPE   the type that joins the spans of a block
#const UNITS      units of 32 elements in a block
#needs ROWS, SUMS, TOKENS, acc_*_*, c, d_rows, d_tokens, first, fused, h_*_*, isum_*_*, keep, m_*_*, m_rows, msum_*_*,
#needs own, own_row, own_token, region, s_tokens, slot, sub_row, sub_token
let is_last = first + {{SPAN_UNITS}}u == {{UNITS}}u;
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
#if HIGH_LOW
coopStore(h_{{R}}_{{T}}, &c[region], SUMS);
subgroupBarrier();
#for J 0..{{EACH}}: isum_{{R}}_{{T}}[{{J}}] += i32(c[own + {{J}}u * SUMS]) * (1 << {{SHIFT}}u);
subgroupBarrier();
#endif
coopStore(m_{{R}}_{{T}}, &c[region], SUMS);
subgroupBarrier();
{
#for J 0..{{EACH}}
#if SINGLE
    let sum_{{J}} = c[own + {{J}}u * SUMS];
#else
    let sum_{{J}} = isum_{{R}}_{{T}}[{{J}}] + {{SUM_TYPE}}(c[own + {{J}}u * SUMS]);
#endif
#endfor
    if is_last {
        let row = slot * ROWS + sub_row + {{R}}u * {{SIZE}}u + own_row;
        let token = slot * TOKENS + sub_token + {{T}}u * {{SIZE}}u + own_token;
        let d_row = d_rows[row];
        #if D_TWO: let m_row = m_rows[row];
#for J 0..{{EACH}}
        {
            let d_token = d_tokens[token + {{J}}u];
            let v = fused(keep(d_row * d_token), f32(sum_{{J}}), acc_{{R}}_{{T}}[{{J}}]);
#if D_TWO
#if MINS
            acc_{{R}}_{{T}}[{{J}}] = fused(-keep(m_row * d_token), msum_{{R}}_{{T}}[{{J}}], v);
#else
            acc_{{R}}_{{T}}[{{J}}] = fused(m_row, s_tokens[token + {{J}}u], v);
#endif
#else
            acc_{{R}}_{{T}}[{{J}}] = v;
#endif
            #if !SINGLE: isum_{{R}}_{{T}}[{{J}}] = {{SUM_TYPE}}(0);
        }
#endfor
    } else {
#if !SINGLE
        #for J 0..{{EACH}}: isum_{{R}}_{{T}}[{{J}}] = sum_{{J}};
#endif
    }
}
subgroupBarrier();
#endfor
#endfor
