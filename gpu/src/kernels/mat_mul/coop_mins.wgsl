// Part of coop.wgsl: the minimums of a block times the sums of 16 activations each, one more matrix product, into `msum_*`.
#flag MIN_TWICE   a minimum is of 32 elements: it meets two sums of 16
#const EACH        elements of a fragment for each thread
#const FRAGMENTS   fragments of a subgroup along the rows of weights, and along the tokens
#const MIN_EACH    words of minimums that a thread brings
#const MIN_WORDS   words of the minimums of a row of a block
#const SIZE        rows and columns of a fragment
#const SUM_EACH    fours of sums that a thread brings
#const SUM_K_STEPS where the fragments of 16 sums begin, in fours of numbers
#needs MIN_PITCH, ROWS, SUMS, THREADS, c, min_k*, min_next*, min_r*, mins, msum_*_*, numbers, own, region, sub_row,
#needs sub_token, sum_next*, sums, t
#for I 0..{{MIN_EACH}}
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
#for I 0..{{SUM_EACH}}: sums[((t + {{I}}u * THREADS) >> 2u) * MIN_PITCH + (t & 3u)] = vec4<f16>(sum_next{{I}});
workgroupBarrier();
{
    #for R 0..{{FRAGMENTS}}: #for T 0..{{FRAGMENTS}}: var n_{{R}}_{{T}}: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
#for K {{SUM_K_STEPS}}
    {
#for T 0..{{FRAGMENTS}}
        let x_{{T}} = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&sums[(sub_token + {{T}}u * {{SIZE}}u) * MIN_PITCH + {{K}}u], MIN_PITCH);
#endfor
#for R 0..{{FRAGMENTS}}
        let w_{{R}} = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&mins[(sub_row + {{R}}u * {{SIZE}}u) * MIN_PITCH + {{K}}u], MIN_PITCH);
#endfor
        #for R 0..{{FRAGMENTS}}: #for T 0..{{FRAGMENTS}}: n_{{R}}_{{T}} = coopMultiplyAdd(w_{{R}}, x_{{T}}, n_{{R}}_{{T}});
    }
#endfor
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
    coopStore(n_{{R}}_{{T}}, &c[region], SUMS);
    subgroupBarrier();
    #for J 0..{{EACH}}: msum_{{R}}_{{T}}[{{J}}] = c[own + {{J}}u * SUMS];
    subgroupBarrier();
#endfor
#endfor
}
