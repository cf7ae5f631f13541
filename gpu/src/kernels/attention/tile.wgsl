// Meaning: graph/src/ops/attention.rs. For steps of many tokens on GPUs: one workgroup of 128 threads for 32 queries, the
// heads of one KV head in neighbouring tokens, so that what is read and converted of K and V serves them all. A thread
// has four queries (`quad`); of the scores it has four positions of a chunk, of the weighted sums every 16th four elements.
// K passes through workgroup memory in tiles of 32 elements, V in tiles of {{V_ROWS}} positions; a tile is prefetched
// while the one before it is used. Tokens of one sequence are done together, sequences one after the other.
#flag SINKS    a sink of each head is merged last, as a chunk with the sum 1 and no value
#flag SOFTCAP  scores are capped
#const LOADS    fours of words of a tile that a thread loads
#const V_FOURS  fours of elements of a head of V
#const V_PASSES fours of elements of V that a thread adds up
#const V_ROWS   positions in a tile of V
#include attention/params
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
#if SINKS
@group(0) @binding(3) var<storage, read> sinks: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
#endif
@group(1) @binding(0) var<storage, read_write> cache_k: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read_write> cache_v: array<vec4<u32>>;
#include lib/exp
#include lib/mask

// Four of what a thread reads one after the other, and one that keeps banks apart: an index is checked once for four.
// Weights: a row is four positions of the queries `quad`, eight rows for each four positions.
var<workgroup> weight: array<array<vec4<f32>, 5>, 128>;
// Of K, a row is four elements of four positions; of V, four positions of four elements.
var<workgroup> tile: array<array<vec4<f32>, 5>, 128>;
// A row is four elements of four queries.
var<workgroup> queries: array<array<vec4<f32>, 5>, 64>;
// Of the threads with the same queries: maxima, then sums.
var<workgroup> shares: array<vec4<f32>, 128>;

const LOWEST: f32 = -3.4028234663852886e38;

#include attention/fours

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let head_tiles = (p.heads_per_kv + p.heads_each - 1u) / p.heads_each;
    let heads_kv = p.n_head / p.heads_per_kv;
    let head_kv = wg.x / head_tiles;
    let head0 = (wg.x % head_tiles) * p.heads_each;
    let heads = min(p.heads_each, p.heads_per_kv - head0);
    // The last tokens, which see most, come first.
    let each = 32u / p.heads_each;
    let row0 = ((p.rows + each - 1u) / each - 1u - wg.y) * each;
    let tokens = min(each, p.rows - row0);
    let positions_at = p.positions_at + p.row0 + row0;
    let tables_at = p.tables_at + p.row0 + row0;
    let quad = (t & 3u) + 4u * (t >> 6u);
    let lane = (t >> 2u) & 15u;
    // Where the thread's queries stand: token, and head of all tokens' heads. A place that is none has no token.
#for I 0..4
    let of{{I}} = select(32u, (4u * quad + {{I}}u) / p.heads_each, (4u * quad + {{I}}u) % p.heads_each < heads);
    let to{{I}} = (row0 + of{{I}}) * p.n_head + head_kv * p.heads_per_kv + head0 + (4u * quad + {{I}}u) % p.heads_each;
    #for N 0..{{V_PASSES}}: var acc{{I}}_{{N}} = vec4<f32>(0.0);
#endfor
    // Where the two queries stand of which the thread takes a part into workgroup memory.
#for L 0..2
    let ask{{L}} = (t >> 3u) + 16u * {{L}}u;
    let q_at{{L}} = ((row0 + min(ask{{L}} / p.heads_each, tokens - 1u)) * p.n_head + head_kv * p.heads_per_kv + head0
        + min(ask{{L}} % p.heads_each, heads - 1u)) * (p.dim_k / 4u);
    let q_to{{L}} = (t & 7u) * 8u + (ask{{L}} >> 2u);
#endfor
    let v_each = {{V_ROWS}}u * p.words_v / 4u;
    var most = vec4<f32>(0.0);
    var sum = vec4<f32>(0.0);
    var begin = 0u;
    while begin < tokens {
        // The tokens of the same sequence that follow; the least and the greatest of their first and last positions.
        let table = step[tables_at + begin];
        var end = begin;
        var least = vec2<u32>(0xffffffffu);
        var greatest = vec2<u32>(0u);
        while end < tokens && step[tables_at + end] == table {
            let own = step[positions_at + end];
            let ends = vec2<u32>(first_seen(own), last_seen(own));
            least = min(least, ends);
            greatest = max(greatest, ends);
            end++;
        }
        // A query of another sequence sees nothing.
        var first = vec4<u32>(64u);
        var last = vec4<u32>(0u);
#for I 0..4
        if of{{I}} >= begin && of{{I}} < end {
            first[{{I}}] = first_seen(step[positions_at + of{{I}}]);
            last[{{I}}] = last_seen(step[positions_at + of{{I}}]);
        }
#endfor
        let chunks = greatest.y / 64u;
        var at = tables[table + least.x / 64u] * heads_kv + head_kv;
        for (var chunk = least.x / 64u; chunk <= chunks; chunk++) {
            let next = tables[table + min(chunk + 1u, chunks)] * heads_kv + head_kv;
            let base = chunk * 64u;
            let k_end = p.words_k * 16u - 1u;
            #for I 0..4: var s{{I}} = vec4<f32>(0.0);
            #for L 0..{{LOADS}}: var w{{L}} = cache_k[at * p.words_k * 16u + min(t + {{L}}u * 128u, k_end)];
            #for L 0..2: var x{{L}} = q[q_at{{L}} + min(t & 7u, p.dim_k / 4u - 1u)];
#include attention/tile_scores
            // The places of the chunk that any query sees, and the tile of V that the first of them is in.
            let v_from = max(least.x, base) - base;
            let v_to = min(greatest.y - base, 63u);
            let v_first = v_from / {{V_ROWS}}u * {{V_ROWS}}u;
            let v_at = at * p.words_v * 16u;
            #for L 0..{{LOADS}}: w{{L}} = cache_v[v_at + v_first * p.words_v / 4u + min(t + {{L}}u * 128u, v_each - 1u)];
            let place = vec4<u32>(base + 4u * lane) + vec4<u32>(0u, 1u, 2u, 3u);
            var chunk_most = vec4<f32>(LOWEST);
#for I 0..4
            s{{I}} = keep4(keep4(s{{I}}) * p.scale);
            #if SOFTCAP: for (var i = 0u; i < 4u; i++) { s{{I}}[i] = keep(capped(s{{I}}[i], p.cap)); }
            s{{I}} = select(vec4<f32>(LOWEST), s{{I}}, (place >= vec4<u32>(first[{{I}}])) & (place <= vec4<u32>(last[{{I}}])));
            #for J 0..4: if s{{I}}[{{J}}] > chunk_most[{{I}}] { chunk_most[{{I}}] = s{{I}}[{{J}}]; }
#endfor
            shares[lane * 8u + quad] = chunk_most;
            workgroupBarrier();
            for (var i = 0u; i < 16u; i++) {
                let other = shares[i * 8u + quad];
                chunk_most = select(chunk_most, other, other > chunk_most);
            }
#for I 0..4
            s{{I}} = weigh(s{{I}}, chunk_most[{{I}}]);
            s{{I}} = select(vec4<f32>(0.0), s{{I}}, (place >= vec4<u32>(first[{{I}}])) & (place <= vec4<u32>(last[{{I}}])));
#endfor
            #for J 0..4: weight[lane * 8u + quad][{{J}}] = vec4<f32>(s0[{{J}}], s1[{{J}}], s2[{{J}}], s3[{{J}}]);
            workgroupBarrier();
            // The upper levels of the halving tree: positions that are equal modulo 16.
            let row = (lane >> 2u) * 8u + quad;
            let upper = keep4(weight[row][lane & 3u] + weight[row + 64u][lane & 3u]);
            let lower = keep4(weight[row + 32u][lane & 3u] + weight[row + 96u][lane & 3u]);
            shares[lane * 8u + quad] = keep4(upper + lower);
            #for I 0..4: #for N 0..{{V_PASSES}}: var part{{I}}_{{N}} = vec4<f32>(0.0);
            // Whether every query sees all of the chunk; else, what each sees of it.
            let whole = base >= greatest.x && base + 63u <= least.y;
            let begins = max(first, vec4<u32>(base)) - base;
            let more = min(last - base, vec4<u32>(63u)) - begins;
#include attention/tile_values
            // The rest of the tree, and the merge.
#for I 0..4
            let sum{{I}} = keep4(keep4(shares[{{I}}u * 8u + quad] + shares[({{I}}u + 8u) * 8u + quad])
                + keep4(shares[({{I}}u + 4u) * 8u + quad] + shares[({{I}}u + 12u) * 8u + quad]));
#endfor
            let chunk_sum = keep4(keep4(sum0 + sum2) + keep4(sum1 + sum3));
            var new_most = select(most, chunk_most, chunk_most > most);
            #for I 0..4: if chunk == first[{{I}}] / 64u { new_most[{{I}}] = chunk_most[{{I}}]; }
            let a = exponential4(most - new_most);
            let b = exponential4(chunk_most - new_most);
            let merged = fused4(sum, a, chunk_sum * b);
#for I 0..4
            if chunk >= first[{{I}}] / 64u && chunk <= last[{{I}}] / 64u {
                let starts = chunk == first[{{I}}] / 64u;
                sum[{{I}}] = select(merged[{{I}}], chunk_sum[{{I}}], starts);
                most[{{I}}] = new_most[{{I}}];
#for N 0..{{V_PASSES}}
                if !starts { part{{I}}_{{N}} = fused4(acc{{I}}_{{N}}, vec4<f32>(a[{{I}}]), part{{I}}_{{N}} * b[{{I}}]); }
                acc{{I}}_{{N}} = part{{I}}_{{N}};
#endfor
            }
#endfor
            at = next;
        }
        begin = end;
    }
#if SINKS
    var sink = vec4<f32>(0.0);
    #for I 0..4: sink[{{I}}] = sinks[to{{I}} % p.n_head];
    let top = select(most, sink, sink > most);
    let share = exponential4(most - top);
    sum = fused4(sum, share, exponential4(sink - top));
    let nothing = vec4<f32>(bitcast<f32>(no_bits()));
    #for I 0..4: #for N 0..{{V_PASSES}}: acc{{I}}_{{N}} = fused4(acc{{I}}_{{N}}, vec4<f32>(share[{{I}}]), nothing);
#endif
#for I 0..4
    if of{{I}} < tokens {
        let inverse = quotient(1.0, sum[{{I}}]);
#for N 0..{{V_PASSES}}
        if lane + 16u * {{N}}u < {{V_FOURS}}u { out[to{{I}} * {{V_FOURS}}u + lane + 16u * {{N}}u] = acc{{I}}_{{N}} * inverse; }
#endfor
    }
#endfor
}
