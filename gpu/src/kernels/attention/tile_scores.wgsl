// Part of tile.wgsl: the chains of the scores, through tiles of 32 elements of K.
#flag KV_F16  the cache holds f16, two of a position in a word; else f32
#const K_FOURS fours of words of a tile of K at one position, times 16
#const LOADS   fours of words of a tile that a thread loads
#needs ask*, at, cache_k, fused4, high_halves, k_end, lane, low_halves, p.dim_k, p.words_k, q, q_at*, q_to*, quad,
#needs queries, s*, t, tile, w*, x*
for (var d = 0u; d < p.dim_k; d += 32u) {
    workgroupBarrier();
#for L 0..{{LOADS}}
#if KV_F16
    // Two words of a position are four elements.
    tile[{{L}}u * 64u + (t >> 5u) * 16u + (t & 15u)][2u * ((t >> 4u) & 1u)] = low_halves(w{{L}});
    tile[{{L}}u * 64u + (t >> 5u) * 16u + (t & 15u)][2u * ((t >> 4u) & 1u) + 1u] = high_halves(w{{L}});
#else
    tile[{{L}}u * 32u + (t >> 6u) * 16u + (t & 15u)][(t >> 4u) & 3u] = bitcast<vec4<f32>>(w{{L}});
#endif
#endfor
    #for L 0..2: queries[q_to{{L}}][ask{{L}} & 3u] = x{{L}};
    workgroupBarrier();
    if d + 32u < p.dim_k {
        #for L 0..{{LOADS}}: w{{L}} = cache_k[at * p.words_k * 16u + min((d + 32u) * {{K_FOURS}}u + t + {{L}}u * 128u, k_end)];
        #for L 0..2: x{{L}} = q[q_at{{L}} + min((d + 32u) / 4u + (t & 7u), p.dim_k / 4u - 1u)];
    }
    let fours = min(8u, (p.dim_k - d) / 4u);
    for (var i = 0u; i < fours; i++) {
        #for I 0..4: let y{{I}} = queries[i * 8u + quad][{{I}}];
#for J 0..4
        let k{{J}} = tile[i * 16u + lane][{{J}}];
        #for I 0..4: s{{I}} = fused4(vec4<f32>(y{{I}}[{{J}}]), k{{J}}, s{{I}});
#endfor
    }
}
