// One score: a query head against the key at `place` of the block whose keys begin at word `cache`.
#flag KV_F16   the cache holds f16, two of a position in a word; else f32
#flag SOFTCAP  scores are capped
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#needs cache_k, capped, f16_to_f32, fused, keep, p.cap, p.dim_k, p.scale, q
fn score(cache: u32, q_at: u32, place: u32) -> f32 {
    var total = 0.0;
    for (var chunk = 0u; chunk < p.dim_k; chunk += 256u) {
        let end = min(p.dim_k, chunk + 256u);
        var sum = 0.0;
#if KV_F16
        var d = chunk;
        // Many words are loaded before the first is used: the chain of sums is in order, the loads need not be.
#if !SOFT_FMA
        for (; d + 32u <= end; d += 32u) {
            let begins = cache + (d >> 1u) * 64u + place;
            #for I 0..16: let w{{I}} = cache_k[begins + {{I}}u * 64u];
#for I 0..16
            sum = fused(f16_to_f32(w{{I}} & 0xffffu), q[q_at + d + 2u * {{I}}u], sum);
            sum = fused(f16_to_f32(w{{I}} >> 16u), q[q_at + d + 2u * {{I}}u + 1u], sum);
#endfor
        }
#endif
        for (; d + 8u <= end; d += 8u) {
            let begins = cache + (d >> 1u) * 64u + place;
            let w = vec4<u32>(cache_k[begins], cache_k[begins + 64u], cache_k[begins + 128u], cache_k[begins + 192u]);
#if SOFT_FMA
            for (var i = 0u; i < 8u; i++) {
                let half = (w[i >> 1u] >> (16u * (i & 1u))) & 0xffffu;
                sum = fused(f16_to_f32(half), q[q_at + d + i], sum);
            }
#else
#for I 0..4
            sum = fused(f16_to_f32(w[{{I}}] & 0xffffu), q[q_at + d + 2u * {{I}}u], sum);
            sum = fused(f16_to_f32(w[{{I}}] >> 16u), q[q_at + d + 2u * {{I}}u + 1u], sum);
#endfor
#endif
        }
        for (; d < end; d += 2u) {
            let both = cache_k[cache + (d >> 1u) * 64u + place];
            sum = fused(f16_to_f32(both & 0xffffu), q[q_at + d], sum);
            if d + 1u < end { sum = fused(f16_to_f32(both >> 16u), q[q_at + d + 1u], sum); }
        }
#else
        for (var d = chunk; d < end; d++) {
            sum = fused(bitcast<f32>(cache_k[cache + d * 64u + place]), q[q_at + d], sum);
        }
#endif
        total = keep(total + sum);
    }
#if SOFTCAP
    return keep(capped(keep(total * p.scale), p.cap));
#else
    return keep(total * p.scale);
#endif
}
