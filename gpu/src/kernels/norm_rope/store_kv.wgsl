// Stores k and v of the step's tokens in the cache of a layer. K is [block][head][words of a head][64 positions], V is
// [block][head][64][words of a head]; a word holds an f32, or two f16 of one position. One thread for each word.
#flag KV_F16 the cache holds f16, two of a position in a word; else f32
struct Params { rows: u32, row0: u32, heads: u32, dim_k: u32, dim_v: u32, words_k: u32, words_v: u32,
    positions_at: u32, tables_at: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> k: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> tables: array<u32>;
@group(1) @binding(0) var<storage, read_write> cache_k: array<u32>;
@group(1) @binding(1) var<storage, read_write> cache_v: array<u32>;
#include lib/float

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = wg.x * 64u + t;
    let per_head = p.words_k + p.words_v;
    let head = i / per_head;
    var c = i % per_head;
    if head >= p.heads { return; }
    let token = p.row0 + wg.y;
    let position = step[p.positions_at + token];
    let block = tables[step[p.tables_at + token] + position / 64u];
    let place = position % 64u;
    let at = block * p.heads + head;
    if c < p.words_k {
        let begin = (wg.y * p.heads + head) * p.dim_k;
#if KV_F16
        var both = f32_to_f16(k[begin + 2u * c]);
        if 2u * c + 1u < p.dim_k { both |= f32_to_f16(k[begin + 2u * c + 1u]) << 16u; }
        cache_k[(at * p.words_k + c) * 64u + place] = both;
#else
        cache_k[(at * p.words_k + c) * 64u + place] = bitcast<u32>(k[begin + c]);
#endif
        return;
    }
    c -= p.words_k;
    let begin = (wg.y * p.heads + head) * p.dim_v;
#if KV_F16
    var both = f32_to_f16(v[begin + 2u * c]);
    if 2u * c + 1u < p.dim_v { both |= f32_to_f16(v[begin + 2u * c + 1u]) << 16u; }
    cache_v[(at * 64u + place) * p.words_v + c] = both;
#else
    cache_v[(at * 64u + place) * p.words_v + c] = bitcast<u32>(v[begin + c]);
#endif
}
