// The second half of attention for a step of one token, as graph/src/ops/attention.rs `merge`: the chunks of one head, in
// order. One workgroup for each head; lanes are elements.
struct Params { rows: u32, row0: u32, n_head: u32, dim_v: u32, positions_at: u32, window: u32, most_chunks: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> pieces: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include exp

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let last = step[p.positions_at];
    let first = last + 1u - min(last + 1u, p.window);
    let n = last / 64u - first / 64u + 1u;
    let each = p.dim_v + 2u;
    let begin = wg.x * p.most_chunks * each;
    for (var d = t; d < p.dim_v; d += 64u) {
        var most = pieces[begin];
        var sum = pieces[begin + 1u];
        var acc = pieces[begin + 2u + d];
        for (var i = 1u; i < n; i++) {
            let at = begin + i * each;
            let next = pieces[at];
            var new_most = most;
            if next > most { new_most = next; }
            var exps = vec2<f32>(most - new_most, next - new_most);
            for (var k = 0u; k < 2u; k++) { exps[k] = exponential(exps[k]); }
            sum = fused(sum, exps.x, pieces[at + 1u] * exps.y);
            acc = fused(acc, exps.x, pieces[at + 2u + d] * exps.y);
            most = new_most;
        }
        out[wg.x * p.dim_v + d] = acc * quotient(1.0, sum);
    }
}
