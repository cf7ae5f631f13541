// What a device does with one operation, on many operands: three words in, one word out.
#flag DIV  division
#flag FMA  fma
#flag HALF conversion from f16
#flag REST what has no variant of ours
#flag SQRT square root
struct Params { rows: u32, row0: u32, n: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
#include lib/float

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = wg.x * 64u + t;
    if i >= p.n { return; }
    let a = bitcast<f32>(x[3u * i]);
    let b = bitcast<f32>(x[3u * i + 1u]);
    let c = bitcast<f32>(x[3u * i + 2u]);
    #if FMA: out[i] = bitcast<u32>(fused(a, b, c));
#if DIV
    // Every other one by a constant, which a compiler may treat in its own way.
    if (i & 1u) == 1u { out[i] = bitcast<u32>(quotient(a, 127.0)); } else { out[i] = bitcast<u32>(quotient(a, b)); }
#endif
    #if SQRT: out[i] = bitcast<u32>(root(abs(a)));
#if HALF
    // All 65536, eight in a place.
    var all = 0u;
    for (var k = 0u; k < 8u; k++) {
        let bits = bitcast<u32>(f16_to_f32(8u * i + k));
        all = (all * 0x01000193u) ^ select(bits, 1u, (bits & 0x7fffffffu) > 0x7f800000u);
    }
    out[i] = all;
#endif
#if REST
    // Sum, product, conversions, rounding, packed dot product: which one is told by the place.
    let which = i % 8u;
    if which == 0u { out[i] = bitcast<u32>(a + b); }
    if which == 1u { out[i] = bitcast<u32>(a * b); }
    if which == 2u { out[i] = bitcast<u32>(f32(bitcast<i32>(x[3u * i]))); }
    if which == 3u { out[i] = u32(dot4I8Packed(x[3u * i], x[3u * i + 1u])); }
    if which == 4u { out[i] = bitcast<u32>(round_f16(a)); }
    if which == 5u { out[i] = bitcast<u32>(round(a)); }
    if which == 6u { out[i] = bitcast<u32>(keep(a * b) + c); }
    if which == 7u { out[i] = u32(extractBits(bitcast<i32>(x[3u * i]), 8u * (x[3u * i + 1u] & 3u), 8u)); }
#endif
}
