// Part of tile.wgsl: the chains of the weighted sums over the positions of a chunk, through tiles of V.
#flag KV_F16   the cache holds f16, two of a position in a word; else f32
#const LOADS    fours of words of a tile that a thread loads
#const V_ACROSS fours of elements that four positions of a tile of V take
#const V_FOURS  fours of elements of a head of V
#const V_PASSES fours of elements of V that a thread adds up
#const V_ROWS   positions in a tile of V
#needs begins, cache_v, fused4, high_halves, lane, low_halves, more, p.words_v, part*_*, quad, t, tile, v_at,
#needs v_each, v_first, v_from, v_to, w*, weight, whole
for (var tile_at = v_first; tile_at <= v_to; tile_at += {{V_ROWS}}u) {
    workgroupBarrier();
#for L 0..{{LOADS}}
    if t + {{L}}u * 128u < v_each {
#if KV_F16
        let low = low_halves(w{{L}});
        let high = high_halves(w{{L}});
        let h0 = vec4<f32>(low.x, high.x, low.y, high.y);
        let h1 = vec4<f32>(low.z, high.z, low.w, high.w);
#for H 0..2
        let g{{H}} = 2u * (t + {{L}}u * 128u) + {{H}}u;
        tile[g{{H}} / {{V_FOURS}}u / 4u * {{V_ACROSS}}u + g{{H}} % {{V_FOURS}}u][g{{H}} / {{V_FOURS}}u % 4u] = h{{H}};
#endfor
#else
        let g = t + {{L}}u * 128u;
        tile[g / {{V_FOURS}}u / 4u * {{V_ACROSS}}u + g % {{V_FOURS}}u][g / {{V_FOURS}}u % 4u] = bitcast<vec4<f32>>(w{{L}});
#endif
    }
#endfor
    workgroupBarrier();
    if tile_at + {{V_ROWS}}u <= v_to {
#for L 0..{{LOADS}}
        w{{L}} = cache_v[v_at + (tile_at + {{V_ROWS}}u) * p.words_v / 4u + min(t + {{L}}u * 128u, v_each - 1u)];
#endfor
    }
    if whole {
        for (var j = 0u; j < {{V_ROWS}}u / 4u; j++) {
            #for J 0..4: let e{{J}} = weight[(tile_at / 4u + j) * 8u + quad][{{J}}];
#for N 0..{{V_PASSES}}
#for J 0..4
            let v{{J}}_{{N}} = tile[j * {{V_ACROSS}}u + lane + 16u * {{N}}u][{{J}}];
            #for I 0..4: part{{I}}_{{N}} = fused4(vec4<f32>(e{{J}}[{{I}}]), v{{J}}_{{N}}, part{{I}}_{{N}});
#endfor
#endfor
        }
    } else {
        for (var j = max(v_from, tile_at); j <= min(v_to, tile_at + {{V_ROWS}}u - 1u); j++) {
            let e = weight[j / 4u * 8u + quad][j & 3u];
            #for N 0..{{V_PASSES}}: let v{{N}} = tile[(j - tile_at) / 4u * {{V_ACROSS}}u + lane + 16u * {{N}}u][j & 3u];
#for I 0..4
            if j - begins[{{I}}] <= more[{{I}}] {
                #for N 0..{{V_PASSES}}: part{{I}}_{{N}} = fused4(vec4<f32>(e[{{I}}]), v{{N}}, part{{I}}_{{N}});
            }
#endfor
        }
    }
}
