// Part of mat_mul_coop.wgsl: what the minimums of a block give, into `msum`s.
// The minimums and the sums of sixteen activations: one more product, of 16 elements.
for (var i = t; i < {{MIN_WORDS}}u * ROWS; i += THREADS) {
    let r = i % ROWS;
    let k = i / ROWS;
    let base = (min(wg.x * (ROWS / 32u) + (r >> 5u), last_tile) * p.blocks + b) * {{BLOCK_WORDS}}u;
    let v = numbers(word(base, {{MINS_AT}}u + k, r & 31u), 1024.0h);
#if MIN_TWICE
    mins[r * MIN_PITCH + 2u * k] = v.xxyy;
    mins[r * MIN_PITCH + 2u * k + 1u] = v.zzww;
#else
    mins[r * MIN_PITCH + k] = v;
#endif
}
for (var i = t; i < 4u * TOKENS; i += THREADS) {
    let row = min(wg.y * TOKENS + (i >> 2u), p.rows - 1u) * p.row_words + p.n_in / 4u;
    sums[(i >> 2u) * MIN_PITCH + (i & 3u)] = vec4<f16>(vec4<i32>(quads[(row >> 2u) + 4u * b + (i & 3u)]));
}
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
