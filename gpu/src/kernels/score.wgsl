// One score: a query head against the key at `place` of the block whose keys begin at word `cache`. Needs exp.wgsl, `q`,
// `cache_k` and the parameters of attention.
fn score(cache: u32, q_at: u32, place: u32) -> f32 {
    var total = 0.0;
    for (var chunk = 0u; chunk < p.dim_k; chunk += 256u) {
        let end = min(p.dim_k, chunk + 256u);
        var sum = 0.0;
#if KV_F16
        var d = chunk;
        // Many words are asked for before the first is used: the chain of sums is in order, the reads need not be.
#if SOFT_FMA
#else
        for (; d + 32u <= end; d += 32u) {
            let begins = cache + (d >> 1u) * 64u + place;
#for I 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
            let w{{I}} = cache_k[begins + {{I}}u * 64u];
#endfor
#for I 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
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
#for I 0 1 2 3
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
