// Of attention_tile: the chains of the scores, through tiles of 32 elements of K.
for (var d = 0u; d < p.dim_k; d += 32u) {
    workgroupBarrier();
#for L {{LOADS}}
#if KV_F16
    // Two words of a position are four elements.
    tile[{{L}}u * 64u + (t >> 5u) * 16u + (t & 15u)][2u * ((t >> 4u) & 1u)] = low_halves(w{{L}});
    tile[{{L}}u * 64u + (t >> 5u) * 16u + (t & 15u)][2u * ((t >> 4u) & 1u) + 1u] = high_halves(w{{L}});
#else
    tile[{{L}}u * 32u + (t >> 6u) * 16u + (t & 15u)][(t >> 4u) & 3u] = bitcast<vec4<f32>>(w{{L}});
#endif
#endfor
#for L 0 1
    queries[q_to{{L}}][ask{{L}} & 3u] = x{{L}};
#endfor
    workgroupBarrier();
    if d + 32u < p.dim_k {
#for L {{LOADS}}
        w{{L}} = cache_k[at * p.words_k * 16u + min((d + 32u) * {{K_FOURS}}u + t + {{L}}u * 128u, k_end)];
#endfor
#for L 0 1
        x{{L}} = q[q_at{{L}} + min((d + 32u) / 4u + (t & 7u), p.dim_k / 4u - 1u)];
#endfor
    }
    let fours = min(8u, (p.dim_k - d) / 4u);
    for (var i = 0u; i < fours; i++) {
#for I 0 1 2 3
        let y{{I}} = queries[i * 8u + quad][{{I}}];
#endfor
#for J 0 1 2 3
        let k{{J}} = tile[i * 16u + lane][{{J}}];
#for I 0 1 2 3
        s{{I}} = fused4(vec4<f32>(y{{I}}[{{J}}]), k{{J}}, s{{I}});
#endfor
#endfor
    }
}
