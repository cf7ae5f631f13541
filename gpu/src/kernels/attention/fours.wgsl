// Four numbers at once, as exp.wgsl and float.wgsl one by one. Included behind them.
#flag KV_F16   the cache holds f16, two of a position in a word; else f32
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#needs LOWEST, exponential, f16_to_f32, fused, is_finite, no_bits

#if SOFT_FMA
fn fused4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    var v = c;
    for (var i = 0u; i < 4u; i++) { v[i] = fused(a[i], b[i], c[i]); }
    return v;
}
#else
fn fused4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> { return fma(a, b, c); }
#endif

fn keep4(x: vec4<f32>) -> vec4<f32> { return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ vec4<u32>(no_bits())); }

fn exponential4(x: vec4<f32>) -> vec4<f32> {
    var e = x;
    for (var i = 0u; i < 4u; i++) { e[i] = exponential(x[i]); }
    return e;
}

// What one query's scores weigh at four positions that it sees.
fn weigh(s: vec4<f32>, most: f32) -> vec4<f32> {
    var e = exponential4(s - vec4<f32>(most));
    for (var i = 0u; i < 4u; i++) {
        // The contract's maximum starts from -infinity: a chunk in which nothing is above it is NaN.
        if most == LOWEST && !is_finite(s[i]) { e[i] = bitcast<f32>(0x7fc00000u ^ no_bits()); }
    }
    return e;
}

#if KV_F16
fn low_halves(w: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f16_to_f32(w.x & 0xffffu), f16_to_f32(w.y & 0xffffu), f16_to_f32(w.z & 0xffffu), f16_to_f32(w.w & 0xffffu));
}
fn high_halves(w: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f16_to_f32(w.x >> 16u), f16_to_f32(w.y >> 16u), f16_to_f32(w.z >> 16u), f16_to_f32(w.w >> 16u));
}
#endif
