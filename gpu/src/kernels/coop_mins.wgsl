// Part of mat_mul_coop.wgsl: what the minimums of a block add, one more product: of them with the sums of 16 activations.
{
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
    var n_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#endfor
#endfor
#for K {{SUM_STEPS}}
    {
#for T {{FRAGMENT_LIST}}
        let x_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&sums[(turn * TOKENS + sub_token + {{T}}u * {{SIZE}}u) * MIN_PITCH + {{K}}u], MIN_PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
        let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&mins[(turn * ROWS + sub_row + {{R}}u * {{SIZE}}u) * MIN_PITCH + {{K}}u], MIN_PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
        n_{{R}}_{{T}} = coopMultiplyAdd(w_{{R}}, x_{{T}}, n_{{R}}_{{T}});
#endfor
#endfor
    }
#endfor
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
    coopStore(n_{{R}}_{{T}}, &c[region], SUMS);
    subgroupBarrier();
    {
        let m_row = m_rows[turn * ROWS + sub_row + {{R}}u * {{SIZE}}u + own_row];
        let token = turn * TOKENS + sub_token + {{T}}u * {{SIZE}}u + own_token;
#for J {{EACH_LIST}}
        acc_{{R}}_{{T}}[{{J}}] =
            fused(-keep(m_row * d_tokens[token + {{J}}u]), c[own + {{J}}u * SUMS], acc_{{R}}_{{T}}[{{J}}]);
#endfor
    }
    subgroupBarrier();
#endfor
#endfor
}
