// One score: a query head against the key at `place` of the block whose keys begin at word `cache`. Needs exp.wgsl, `q`,
// `cache_k` and the parameters of attention.
fn score(cache: u32, q_at: u32, place: u32) -> f32 {
    var total = 0.0;
    for (var chunk = 0u; chunk < p.dim_k; chunk += 256u) {
        let end = min(p.dim_k, chunk + 256u);
        var sum = 0.0;
#if KV_F16
        for (var d = chunk; d < end; d += 2u) {
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
