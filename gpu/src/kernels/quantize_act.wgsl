// Meaning: graph/src/ops/quantize_act.rs; with GLU of act(gate) · up, which is written to `glu`. One workgroup for 256
// elements of a row: eight blocks of 32, or one of 256. A row of the result: n/4 words of four quants, a word with the sum
// of each 16, the f32 scale of each block, and for blocks of 32 the rounded sum `s` of each block.
struct Params { rows: u32, row0: u32, n: u32, row_words: u32 }
var<immediate> p: Params;
#if GLU
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> glu: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
#include exp
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
#include float
#endif

var<workgroup> largest: array<u32, 256>;
var<workgroup> quants: array<i32, 256>;
#if Q8X256
var<workgroup> values: array<f32, 256>;
var<workgroup> first: atomic<u32>;
#endif

// Element i of what is rounded.
fn element(i: u32) -> f32 {
#if GLU
#if SILU
    let v = keep(silu(gate[i]) * up[i]);
#else
    let v = keep(gelu_tanh(gate[i]) * up[i]);
#endif
    glu[i] = v;
    return v;
#else
    return x[i];
#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 256u + t;
    let inside = c < p.n;
    var v = 0.0;
    if inside { v = element(wg.y * p.n + c); }
    let size = bitcast<u32>(v) & 0x7fffffffu;
    largest[t] = size;
    workgroupBarrier();
    // The largest magnitude by bits: a NaN is above infinity, which is above the rest.
#if Q8X256
#for HALF 128 64 32 16 8 4 2 1
    if t < {{HALF}}u { largest[t] = max(largest[t], largest[t + {{HALF}}u]); }
    workgroupBarrier();
#endfor
    let top = largest[0];
    if t == 0u { atomicStore(&first, 255u); }
    values[t] = v;
    workgroupBarrier();
    if size == top { atomicMin(&first, t); }
    workgroupBarrier();
    let largest_value = values[atomicLoad(&first)];
    var q = 0;
    var d = 0.0;
    if top >= 0x7f800000u {
        d = bitcast<f32>(0x7fc00000u ^ no_bits());
    } else if top != 0u {
        let iscale = quotient(-127.0, largest_value);
        q = i32(clamp(round(iscale * v), -127.0, 127.0));
        d = quotient(1.0, iscale);
    }
#else
    let lane = t & 31u;
#for HALF 16 8 4 2 1
    if lane < {{HALF}}u { largest[t] = max(largest[t], largest[t + {{HALF}}u]); }
    workgroupBarrier();
#endfor
    let top = largest[t & 0xffffffe0u];
    let amax = bitcast<f32>(top);
    var d = bitcast<f32>(0x7fc00000u ^ no_bits());
    if top < 0x7f800000u { d = quotient(amax, 127.0); }
    var q = 0;
    // Of an infinite or NaN block the scale speaks; a scale of zero makes the quants of a tiny block worth nothing.
    if top != 0u && top < 0x7f800000u {
        let scaled = round(v * quotient(127.0, amax));
        q = i32(clamp(scaled, -127.0, 127.0));
    }
#endif
    quants[t] = q;
    workgroupBarrier();
    if !inside { return; }
    let row = wg.y * p.row_words;
    if (t & 3u) == 0u {
        out[row + c / 4u] = (u32(q) & 255u) | (u32(quants[t + 1u]) & 255u) << 8u
            | (u32(quants[t + 2u]) & 255u) << 16u | (u32(quants[t + 3u]) & 255u) << 24u;
    }
    if (t & 15u) == 0u {
        var sum = 0;
        for (var i = 0u; i < 16u; i++) { sum += quants[t + i]; }
        out[row + p.n / 4u + c / 16u] = u32(sum);
    }
    let scales = row + p.n / 4u + p.n / 16u;
#if Q8X256
    if t == 0u { out[scales + wg.x] = bitcast<u32>(d); }
#else
    if lane == 0u {
        var sum = 0;
        for (var i = 0u; i < 32u; i++) { sum += quants[t + i]; }
        let blocks = p.n / 32u;
        out[scales + c / 32u] = bitcast<u32>(round_f16(d));
        out[scales + blocks + c / 32u] = bitcast<u32>(round_f16(d * f32(sum)));
    }
#endif
}
