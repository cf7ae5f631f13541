// Of attention_tile: the chains of the weighted sums over the positions of a chunk, through tiles of V.
for (var tile_at = v_first; tile_at <= v_to; tile_at += {{V_ROWS}}u) {
    workgroupBarrier();
#for L {{LOADS}}
#if KV_F16
    tile[2u * (t + {{L}}u * 128u)] = vec4<f32>(low_halves(w{{L}}).xy, high_halves(w{{L}}).xy).xzyw;
    tile[2u * (t + {{L}}u * 128u) + 1u] = vec4<f32>(low_halves(w{{L}}).zw, high_halves(w{{L}}).zw).xzyw;
#else
    tile[t + {{L}}u * 128u] = bitcast<vec4<f32>>(w{{L}});
#endif
#endfor
    workgroupBarrier();
    if tile_at + {{V_ROWS}}u <= v_to {
#for L {{LOADS}}
        w{{L}} = cache_v[v_at + (tile_at + {{V_ROWS}}u) * p.words_v / 4u + min(t + {{L}}u * 128u, v_each - 1u)];
#endfor
    }
    if whole {
        for (var j = 0u; j < {{V_ROWS}}u; j++) {
            let e = weight[(tile_at + j) * 8u + quad];
#for N {{V_LIST}}
            let v{{N}} = tile[j * {{V_FOURS}}u + lane + 16u * {{N}}u];
#for I 0 1 2 3
            part{{I}}_{{N}} = fused4(vec4<f32>(e[{{I}}]), v{{N}}, part{{I}}_{{N}});
#endfor
#endfor
        }
    } else {
        for (var j = max(v_from, tile_at); j <= min(v_to, tile_at + {{V_ROWS}}u - 1u); j++) {
            let e = weight[j * 8u + quad];
#for N {{V_LIST}}
            let v{{N}} = tile[(j - tile_at) * {{V_FOURS}}u + lane + 16u * {{N}}u];
#endfor
#for I 0 1 2 3
            if j - begins[{{I}}] <= more[{{I}}] {
#for N {{V_LIST}}
                part{{I}}_{{N}} = fused4(vec4<f32>(e[{{I}}]), v{{N}}, part{{I}}_{{N}});
#endfor
            }
#endfor
        }
    }
}
