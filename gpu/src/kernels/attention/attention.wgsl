// Meaning: graph/src/ops/attention.rs. One workgroup of 64 lanes for one head of one token. Lanes are positions for the
// scores and words of the head for the weighted sum; chunks of 64 positions are merged in order.
#flag KV_F16   the cache holds f16, two of a position in a word; else f32
#flag SINKS    a sink of each head is merged last, as a chunk with the sum 1 and no value
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#flag V_IN_K   values are the first elements of keys, which lie across them
#const DIM_V    elements of a head of V, an even number
#include attention/params
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
#if SINKS
@group(0) @binding(3) var<storage, read> sinks: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#endif
@group(1) @binding(0) var<storage, read_write> cache_k: array<u32>;
@group(1) @binding(1) var<storage, read_write> cache_v: array<u32>;
#include lib/exp
#include lib/mask

var<workgroup> weight: array<f32, 64>;
var<workgroup> lanes: array<f32, 64>;
// The running result, {{DIM_V}} elements.
var<workgroup> acc: array<f32, {{DIM_V}}>;

// Below every score; no infinity, which a device may not keep.
const LOWEST: f32 = -3.4028234663852886e38;

#include attention/score

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let token = p.row0 + wg.y;
    let own = step[p.positions_at + token];
    let table = step[p.tables_at + token];
    let first = first_seen(own);
    let last = last_seen(own);
    let heads_kv = p.n_head / p.heads_per_kv;
    let head_kv = wg.x / p.heads_per_kv;
    let q_at = (wg.y * p.n_head + wg.x) * p.dim_k;
    var most = 0.0;
    var sum = 0.0;
    for (var chunk = first / 64u; chunk <= last / 64u; chunk++) {
        let at = tables[table + chunk] * heads_kv + head_kv;
        let position = chunk * 64u + t;
        let seen = position >= first && position <= last;
        var s = LOWEST;
        if seen { s = score(at * p.words_k * 64u, q_at, t); }
        lanes[t] = s;
        workgroupBarrier();
#for HALF 32 16 8 4 2 1
        if t < {{HALF}}u && lanes[t + {{HALF}}u] > lanes[t] { lanes[t] = lanes[t + {{HALF}}u]; }
        workgroupBarrier();
#endfor
        let chunk_most = lanes[0];
        workgroupBarrier();
        let is_first = chunk == first / 64u;
        var new_most = chunk_most;
        if !is_first && !(chunk_most > most) { new_most = most; }
        // One copy of exp in the code: the lane's weight, then the factors of the merge.
        var exps = vec3<f32>(s - chunk_most, most - new_most, chunk_most - new_most);
        for (var i = 0u; i < 3u; i++) { exps[i] = exponential(exps[i]); }
        var e = exps.x;
        let a = exps.y;
        let b = exps.z;
        if !seen { e = 0.0; }
        // The contract's maximum starts from -infinity: a chunk in which nothing is above it is NaN.
        if seen && chunk_most == LOWEST && !is_finite(s) { e = bitcast<f32>(0x7fc00000u ^ no_bits()); }
        weight[t] = e;
        lanes[t] = e;
        workgroupBarrier();
#for HALF 32 16 8 4 2 1
        if t < {{HALF}}u { lanes[t] = lanes[t] + lanes[t + {{HALF}}u]; }
        workgroupBarrier();
#endfor
        let chunk_sum = lanes[0];
        let begin = max(first, chunk * 64u) - chunk * 64u;
        let to = min(last - chunk * 64u, 63u);
        for (var c = t; c < p.words_v; c += 64u) {
            var low = 0.0;
            var high = 0.0;
            var j = begin;
#if KV_F16
#if !SOFT_FMA
            for (; j + 7u <= to; j += 8u) {
#if V_IN_K
                #for I 0..8: let v{{I}} = cache_k[(at * p.words_k + c) * 64u + j + {{I}}u];
#else
                let begins = (at * 64u + j) * p.words_v + c;
                #for I 0..8: let v{{I}} = cache_v[begins + {{I}}u * p.words_v];
#endif
#for I 0..8
                low = fused(weight[j + {{I}}u], f16_to_f32(v{{I}} & 0xffffu), low);
                high = fused(weight[j + {{I}}u], f16_to_f32(v{{I}} >> 16u), high);
#endfor
            }
#endif
#endif
            for (; j <= to; j++) {
                #if V_IN_K: let v = cache_k[(at * p.words_k + c) * 64u + j];
                #if !V_IN_K: let v = cache_v[(at * 64u + j) * p.words_v + c];
#if KV_F16
                low = fused(weight[j], f16_to_f32(v & 0xffffu), low);
                high = fused(weight[j], f16_to_f32(v >> 16u), high);
#else
                low = fused(weight[j], bitcast<f32>(v), low);
#endif
            }
#if KV_F16
            if !is_first {
                low = fused(acc[2u * c], a, low * b);
                high = fused(acc[2u * c + 1u], a, high * b);
            }
            acc[2u * c] = low;
            acc[2u * c + 1u] = high;
#else
            if !is_first { low = fused(acc[c], a, low * b); }
            acc[c] = low;
#endif
        }
        if is_first { sum = chunk_sum; } else { sum = fused(sum, a, chunk_sum * b); }
        most = new_most;
        workgroupBarrier();
    }
#if SINKS
    let sink = sinks[wg.x];
    var top = most;
    if sink > most { top = sink; }
    var shares = vec2<f32>(most - top, sink - top);
    for (var i = 0u; i < 2u; i++) { shares[i] = exponential(shares[i]); }
    sum = fused(sum, shares.x, shares.y);
#endif
    let inverse = quotient(1.0, sum);
    for (var d = t; d < p.dim_v; d += 64u) {
#if SINKS
        acc[d] = fused(acc[d], shares.x, bitcast<f32>(no_bits()));
#endif
        out[(wg.y * p.n_head + wg.x) * p.dim_v + d] = acc[d] * inverse;
    }
}
