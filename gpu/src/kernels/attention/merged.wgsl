// Element `d` of the result of head `head`, from its chunks in order: graph/src/ops/attention.rs `merge`. `partials` are
// as part.wgsl stores them.
#flag SINKS    a sink of each head is merged last, as a chunk with the sum 1 and no value
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#needs exponential, fused, keep, no_bits, p.dim_v, p.max_chunks, p.positions_at, p.window, partials, quotient, sinks, step
#include lib/mask
fn merged(head: u32, d: u32) -> f32 {
    let first = first_seen(step[p.positions_at]);
    let last = last_seen(step[p.positions_at]);
    let n = last / 64u - first / 64u + 1u;
    let each = p.dim_v + 2u;
    let begin = head * p.max_chunks * each;
    var most = partials[begin];
    var sum = partials[begin + 1u];
    var acc = partials[begin + 2u + d];
#if SOFT_FMA
    for (var i = 1u; i < n; i++) {
        let at = begin + i * each;
        var new_most = most;
        if partials[at] > most { new_most = partials[at]; }
        // One copy of exp in the code.
        var exps = vec2<f32>(most - new_most, partials[at] - new_most);
        for (var e = 0u; e < 2u; e++) { exps[e] = exponential(exps[e]); }
        sum = fused(sum, exps.x, partials[at + 1u] * exps.y);
        acc = fused(acc, exps.x, partials[at + 2u + d] * exps.y);
        most = new_most;
    }
#else
    for (var i = 1u; i < n; i += 4u) {
        // Four chunks are loaded before the first is used.
#for K 0..4
        let at{{K}} = begin + min(i + {{K}}u, n - 1u) * each;
        let next{{K}} = vec3<f32>(partials[at{{K}}], partials[at{{K}} + 1u], partials[at{{K}} + 2u + d]);
#endfor
#for K 0..4
        if i + {{K}}u < n {
            var new_most = most;
            if next{{K}}.x > most { new_most = next{{K}}.x; }
            let a = exponential(most - new_most);
            let b = exponential(next{{K}}.x - new_most);
            sum = fused(sum, a, keep(next{{K}}.y * b));
            acc = fused(acc, a, keep(next{{K}}.z * b));
            most = new_most;
        }
#endfor
    }
#endif
#if SINKS
    let sink = sinks[head];
    var top = most;
    if sink > most { top = sink; }
    let share = exponential(most - top);
    sum = fused(sum, share, exponential(sink - top));
    acc = fused(acc, share, bitcast<f32>(no_bits()));
#endif
    return acc * quotient(1.0, sum);
}
