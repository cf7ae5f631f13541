// RoPE of q and k, and the storing of k and v: rope.wgsl and store_kv.wgsl in one dispatch. In the first `workgroups_q`
// workgroups each thread rotates one element of q; up to `workgroups_qk` it rotates the elements of one word of the cache of K
// and stores them there and in `out_k`; after that it stores one word of V.
#flag KV_F16 the cache holds f16, two of a position in a word; else f32
struct Params { rows: u32, row0: u32, cols: u32, dim_k: u32, pairs: u32, adjacent: u32, heads: u32, dim_v: u32,
    words_k: u32, words_v: u32, positions_at: u32, tables_at: u32, workgroups_q: u32, workgroups_qk: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> step: array<u32>;
@group(0) @binding(5) var<storage, read> tables: array<u32>;
@group(0) @binding(6) var<storage, read_write> out_q: array<f32>;
@group(0) @binding(7) var<storage, read_write> out_k: array<f32>;
@group(1) @binding(0) var<storage, read_write> cache_k: array<u32>;
@group(1) @binding(1) var<storage, read_write> cache_v: array<u32>;
#include lib/float

// Where element `e` of a head finds the two of its pair, and its pair; past the pairs there is none.
fn places(e: u32) -> vec3<u32> {
    if p.adjacent != 0u { return vec3<u32>(e & 0xfffffffeu, e | 1u, e >> 1u); }
    let i = select(e, e - p.pairs, e >= p.pairs);
    return vec3<u32>(i, i + p.pairs, i);
}

// That element, from the two.
fn rotated(row: u32, e: u32, x: vec2<f32>) -> f32 {
    let at = places(e);
    let angle = angles[row * p.pairs + at.z];
    let first = fused(x.x, angle.x, -keep(x.y * angle.y));
    let second = fused(x.x, angle.y, keep(x.y * angle.x));
    return select(second, first, e == at.x);
}

fn rotated_q(row: u32, head: u32, e: u32) -> f32 {
    if e >= 2u * p.pairs { return q[head + e]; }
    let at = places(e);
    return rotated(row, e, vec2<f32>(q[head + at.x], q[head + at.y]));
}

fn rotated_k(row: u32, head: u32, e: u32) -> f32 {
    if e >= 2u * p.pairs { return k[head + e]; }
    let at = places(e);
    return rotated(row, e, vec2<f32>(k[head + at.x], k[head + at.y]));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if wg.x < p.workgroups_q {
        let i = wg.x * 64u + t;
        if i >= p.cols { return; }
        let head = wg.y * p.cols + i - i % p.dim_k;
        out_q[wg.y * p.cols + i] = rotated_q(wg.y, head, i % p.dim_k);
        return;
    }
    let token = p.row0 + wg.y;
    let position = step[p.positions_at + token];
    let block = tables[step[p.tables_at + token] + position / 64u];
    let place = position % 64u;
    if wg.x < p.workgroups_qk {
        let i = (wg.x - p.workgroups_q) * 64u + t;
        let head = i / p.words_k;
        let c = i % p.words_k;
        if head >= p.heads { return; }
        let begin = (wg.y * p.heads + head) * p.dim_k;
        let to = ((block * p.heads + head) * p.words_k + c) * 64u + place;
#if KV_F16
        let low = rotated_k(wg.y, begin, 2u * c);
        out_k[begin + 2u * c] = low;
        var both = f32_to_f16(low);
        if 2u * c + 1u < p.dim_k {
            let high = rotated_k(wg.y, begin, 2u * c + 1u);
            out_k[begin + 2u * c + 1u] = high;
            both |= f32_to_f16(high) << 16u;
        }
        cache_k[to] = both;
#else
        let x = rotated_k(wg.y, begin, c);
        out_k[begin + c] = x;
        cache_k[to] = bitcast<u32>(x);
#endif
        return;
    }
    let i = (wg.x - p.workgroups_qk) * 64u + t;
    let head = i / p.words_v;
    let c = i % p.words_v;
    if head >= p.heads { return; }
    let begin = (wg.y * p.heads + head) * p.dim_v;
    let to = ((block * p.heads + head) * 64u + place) * p.words_v + c;
#if KV_F16
    var both = f32_to_f16(v[begin + 2u * c]);
    if 2u * c + 1u < p.dim_v { both |= f32_to_f16(v[begin + 2u * c + 1u]) << 16u; }
    cache_v[to] = both;
#else
    cache_v[to] = bitcast<u32>(v[begin + c]);
#endif
}
