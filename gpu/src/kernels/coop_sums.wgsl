// Part of mat_mul_coop.wgsl: a span's sums join the block's, and behind the last span the block joins the result. A fragment
// at a time goes through the workgroup's memory, since which thread holds which of its elements is the device's secret.
let is_last = first + {{SPAN_UNITS}}u == {{UNITS}}u;
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
#if SPLIT
coopStore(h_{{R}}_{{T}}, &c[region], SUMS);
subgroupBarrier();
#for J {{EACH_LIST}}
isum_{{R}}_{{T}}[{{J}}] += i32(c[own + {{J}}u * SUMS]) * (1 << {{SHIFT}}u);
#endfor
subgroupBarrier();
#endif
coopStore(m_{{R}}_{{T}}, &c[region], SUMS);
subgroupBarrier();
{
#for J {{EACH_LIST}}
#if SINGLE
    let sum_{{J}} = c[own + {{J}}u * SUMS];
#else
    let sum_{{J}} = isum_{{R}}_{{T}}[{{J}}] + {{SUM_TYPE}}(c[own + {{J}}u * SUMS]);
#endif
#endfor
    if is_last {
        let row = turn * ROWS + sub_row + {{R}}u * {{SIZE}}u + own_row;
        let token = turn * TOKENS + sub_token + {{T}}u * {{SIZE}}u + own_token;
        let d_row = d_rows[row];
#if D_TWO
        let m_row = m_rows[row];
#endif
#for J {{EACH_LIST}}
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
#if SINGLE
#else
            isum_{{R}}_{{T}}[{{J}}] = {{SUM_TYPE}}(0);
#endif
        }
#endfor
    } else {
#if SINGLE
#else
#for J {{EACH_LIST}}
        isum_{{R}}_{{T}}[{{J}}] = sum_{{J}};
#endfor
#endif
    }
}
subgroupBarrier();
#endfor
#endfor
