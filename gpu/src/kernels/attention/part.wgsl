// The first half of attention for a step of one token, as graph/src/ops/attention.rs `chunk`: one workgroup of 64 lanes
// for one head and one chunk of 64 positions. The chunks' maximum, sum and weighted sum go to `partials`.
// AHEAD: heads of at most 128 elements, whose words of K and V a lane loads before it uses the first. Tried, an 8B
// model on an H100: 16 words at a time, and the query from its buffer, 33 us a layer with the merge.
#flag AHEAD    small heads: all words of K and V are asked for before the first is used
#flag KV_F16   the cache holds f16, two of a position in a word; else f32
#flag SOFTCAP  scores are capped
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#flag V_IN_K   values are the first elements of keys, which lie across them
#const K_WORDS  words of a head of K
#include attention/params
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;
@group(1) @binding(0) var<storage, read_write> cache_k: array<u32>;
@group(1) @binding(1) var<storage, read_write> cache_v: array<u32>;
#include lib/exp
#include lib/mask

var<workgroup> weight: array<f32, 64>;
var<workgroup> lanes: array<f32, 64>;
#if AHEAD: var<workgroup> query: array<f32, 128>;

const LOWEST: f32 = -3.4028234663852886e38;

#if !AHEAD
#include attention/score
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = first_seen(step[p.positions_at]);
    let last = last_seen(step[p.positions_at]);
    let chunk = first / 64u + wg.z;
    let heads_kv = p.n_head / p.heads_per_kv;
    let at = tables[step[p.tables_at] + chunk] * heads_kv + wg.x / p.heads_per_kv;
    let position = chunk * 64u + t;
    let seen = position >= first && position <= last;
    // The places of the chunk that are seen.
    let begin = max(first, chunk * 64u) - chunk * 64u;
    let end = min(last - chunk * 64u, 63u);
    var s = LOWEST;
#if AHEAD
    for (var d = t; d < p.dim_k; d += 64u) { query[d] = q[wg.x * p.dim_k + d]; }
    let k_at = at * p.words_k * 64u + t;
    #for I 0..{{K_WORDS}}: let k{{I}} = cache_k[k_at + {{I}}u * 64u];
    // A place that is not seen is one that is, and not added.
    let v_at = at * 64u * p.words_v + min(t, p.words_v - 1u);
    #for I 0..64: let v{{I}} = cache_v[v_at + min({{I}}u, end) * p.words_v];
    workgroupBarrier();
    var sum = 0.0;
#for I 0..{{K_WORDS}}
    sum = fused(f16_to_f32(k{{I}} & 0xffffu), query[2 * {{I}}], sum);
    sum = fused(f16_to_f32(k{{I}} >> 16u), query[2 * {{I}} + 1], sum);
#endfor
    let score = keep(keep(sum) * p.scale);
#if SOFTCAP
    if seen { s = keep(capped(score, p.cap)); }
#else
    if seen { s = score; }
#endif
#else
    if seen { s = score(at * p.words_k * 64u, wg.x * p.dim_k, t); }
#endif
    lanes[t] = s;
    workgroupBarrier();
#for HALF 32 16 8 4 2 1
    if t < {{HALF}}u && lanes[t + {{HALF}}u] > lanes[t] { lanes[t] = lanes[t + {{HALF}}u]; }
    workgroupBarrier();
#endfor
    let most = lanes[0];
    workgroupBarrier();
    var e = exponential(s - most);
    if !seen { e = 0.0; }
    // The contract's maximum starts from -infinity: a chunk in which nothing is above it is NaN.
    if seen && most == LOWEST && !is_finite(s) { e = bitcast<f32>(0x7fc00000u ^ no_bits()); }
    weight[t] = e;
    lanes[t] = e;
    workgroupBarrier();
#for HALF 32 16 8 4 2 1
    if t < {{HALF}}u { lanes[t] = lanes[t] + lanes[t + {{HALF}}u]; }
    workgroupBarrier();
#endfor
    let to = (wg.x * p.max_chunks + wg.z) * (p.dim_v + 2u);
    if t == 0u {
        partials[to] = most;
        partials[to + 1u] = lanes[0];
    }
    for (var c = t; c < p.words_v; c += 64u) {
        var low = 0.0;
        var high = 0.0;
#if AHEAD
#for I 0..64
        if {{I}}u - begin <= end - begin {
            low = fused(weight[{{I}}], f16_to_f32(v{{I}} & 0xffffu), low);
            high = fused(weight[{{I}}], f16_to_f32(v{{I}} >> 16u), high);
        }
#endfor
#else
        var j = begin;
#if KV_F16
#if !SOFT_FMA
        // Sixteen words are loaded before the first is used.
        for (; j + 15u <= end; j += 16u) {
#if V_IN_K
            #for I 0..16: let v{{I}} = cache_k[(at * p.words_k + c) * 64u + j + {{I}}u];
#else
            let begins = (at * 64u + j) * p.words_v + c;
            #for I 0..16: let v{{I}} = cache_v[begins + {{I}}u * p.words_v];
#endif
#for I 0..16
            low = fused(weight[j + {{I}}u], f16_to_f32(v{{I}} & 0xffffu), low);
            high = fused(weight[j + {{I}}u], f16_to_f32(v{{I}} >> 16u), high);
#endfor
        }
#endif
#endif
        for (; j <= end; j++) {
            #if V_IN_K: let v = cache_k[(at * p.words_k + c) * 64u + j];
            #if !V_IN_K: let v = cache_v[(at * 64u + j) * p.words_v + c];
#if KV_F16
            low = fused(weight[j], f16_to_f32(v & 0xffffu), low);
            high = fused(weight[j], f16_to_f32(v >> 16u), high);
#else
            low = fused(weight[j], bitcast<f32>(v), low);
#endif
        }
#endif
#if KV_F16
        partials[to + 2u + 2u * c] = low;
        if 2u * c + 1u < p.dim_v { partials[to + 3u + 2u * c] = high; }
#else
        partials[to + 2u + c] = low;
#endif
    }
}
