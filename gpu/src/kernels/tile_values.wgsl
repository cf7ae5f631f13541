// Of attention_tile: the chains of the weighted sums over the positions of a chunk, through tiles of V.
for (var tile_at = v_first; tile_at <= v_to; tile_at += {{V_ROWS}}u) {
    workgroupBarrier();
#for L {{LOADS}}
    if t + {{L}}u * 128u < v_each {
#if KV_F16
        let low = low_halves(w{{L}});
        let high = high_halves(w{{L}});
        let h0 = vec4<f32>(low.x, high.x, low.y, high.y);
        let h1 = vec4<f32>(low.z, high.z, low.w, high.w);
#for H 0 1
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
#for L {{LOADS}}
        w{{L}} = cache_v[v_at + (tile_at + {{V_ROWS}}u) * p.words_v / 4u + min(t + {{L}}u * 128u, v_each - 1u)];
#endfor
    }
    if whole {
        for (var j = 0u; j < {{V_ROWS}}u / 4u; j++) {
#for J 0 1 2 3
            let e{{J}} = weight[(tile_at / 4u + j) * 8u + quad][{{J}}];
#endfor
#for N {{V_LIST}}
#for J 0 1 2 3
            let v{{J}}_{{N}} = tile[j * {{V_ACROSS}}u + lane + 16u * {{N}}u][{{J}}];
#for I 0 1 2 3
            part{{I}}_{{N}} = fused4(vec4<f32>(e{{J}}[{{I}}]), v{{J}}_{{N}}, part{{I}}_{{N}});
#endfor
#endfor
#endfor
        }
    } else {
        for (var j = max(v_from, tile_at); j <= min(v_to, tile_at + {{V_ROWS}}u - 1u); j++) {
            let e = weight[j / 4u * 8u + quad][j & 3u];
#for N {{V_LIST}}
            let v{{N}} = tile[(j - tile_at) / 4u * {{V_ACROSS}}u + lane + 16u * {{N}}u][j & 3u];
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
