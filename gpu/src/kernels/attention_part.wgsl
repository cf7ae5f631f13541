// The first half of attention for a step of one token, as graph/src/ops/attention.rs `chunk`: one workgroup of 64 lanes
// for one head and one chunk of 64 positions. The chunks' maximum, sum and weighted sum go to `pieces`.
struct Params { rows: u32, row0: u32, n_head: u32, group: u32, dim_k: u32, dim_v: u32, words_k: u32, words_v: u32,
    positions_at: u32, tables_at: u32, window: u32, scale: f32, cap: f32, most_chunks: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read_write> pieces: array<f32>;
@group(1) @binding(0) var<storage, read_write> cache_k: array<u32>;
@group(1) @binding(1) var<storage, read_write> cache_v: array<u32>;
#include exp

var<workgroup> weight: array<f32, 64>;
var<workgroup> lanes: array<f32, 64>;

const LOWEST: f32 = -3.4028234663852886e38;

#include score

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let last = step[p.positions_at];
    let first = last + 1u - min(last + 1u, p.window);
    let chunk = first / 64u + wg.z;
    let heads_kv = p.n_head / p.group;
    let at = tables[step[p.tables_at] + chunk] * heads_kv + wg.x / p.group;
    let position = chunk * 64u + t;
    let seen = position >= first && position <= last;
    var s = LOWEST;
    if seen { s = score(at * p.words_k * 64u, wg.x * p.dim_k, t); }
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
    let to = (wg.x * p.most_chunks + wg.z) * (p.dim_v + 2u);
    if t == 0u {
        pieces[to] = most;
        pieces[to + 1u] = lanes[0];
    }
    let begin = max(first, chunk * 64u) - chunk * 64u;
    let end = min(last - chunk * 64u, 63u);
    for (var c = t; c < p.words_v; c += 64u) {
        var low = 0.0;
        var high = 0.0;
        var j = begin;
#if KV_F16
#if SOFT_FMA
#else
        // Sixteen words are asked for before the first is used.
        for (; j + 15u <= end; j += 16u) {
            let begins = (at * 64u + j) * p.words_v + c;
#for I 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
            let v{{I}} = cache_v[begins + {{I}}u * p.words_v];
#endfor
#for I 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
            low = fused(weight[j + {{I}}u], f16_to_f32(v{{I}} & 0xffffu), low);
            high = fused(weight[j + {{I}}u], f16_to_f32(v{{I}} >> 16u), high);
#endfor
        }
#endif
#endif
        for (; j <= end; j++) {
            let v = cache_v[(at * 64u + j) * p.words_v + c];
#if KV_F16
            low = fused(weight[j], f16_to_f32(v & 0xffffu), low);
            high = fused(weight[j], f16_to_f32(v >> 16u), high);
#else
            low = fused(weight[j], bitcast<f32>(v), low);
#endif
        }
#if KV_F16
        pieces[to + 2u + 2u * c] = low;
        if 2u * c + 1u < p.dim_v { pieces[to + 3u + 2u * c] = high; }
#else
        pieces[to + 2u + c] = low;
#endif
    }
}
