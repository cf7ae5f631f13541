// Part of mat_mul_coop.wgsl: what the minimums of a block give, into `msum`s.
// The minimums and the sums of sixteen activations: one more product, of 16 elements.
#for I {{MIN_LIST}}
if t + {{I}}u * THREADS < {{MIN_WORDS}}u * ROWS {
    let v = numbers(min_next{{I}}, 1024.0h);
#if MIN_TWICE
    mins[min_r{{I}} * MIN_PITCH + 2u * min_k{{I}}] = v.xxzz;
    mins[min_r{{I}} * MIN_PITCH + 2u * min_k{{I}} + 1u] = v.yyww;
#else
    mins[min_r{{I}} * MIN_PITCH + min_k{{I}}] = v.xzyw;
#endif
}
#endfor
#for I {{SUM_LIST}}
sums[((t + {{I}}u * THREADS) >> 2u) * MIN_PITCH + (t & 3u)] = vec4<f16>(sum_next{{I}});
#endfor
workgroupBarrier();
{
#for R {{FRAGMENT_LIST}}
#for T {{FRAGMENT_LIST}}
    var n_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#endfor
#endfor
#for K {{SUM_STEPS}}
    {
#for T {{FRAGMENT_LIST}}
        let x_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&sums[(sub_token + {{T}}u * {{SIZE}}u) * MIN_PITCH + {{K}}u], MIN_PITCH);
#endfor
#for R {{FRAGMENT_LIST}}
        let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&mins[(sub_row + {{R}}u * {{SIZE}}u) * MIN_PITCH + {{K}}u], MIN_PITCH);
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
#for J {{EACH_LIST}}
    msum_{{R}}_{{T}}[{{J}}] = c[own + {{J}}u * SUMS];
#endfor
    subgroupBarrier();
#endfor
#endfor
}
