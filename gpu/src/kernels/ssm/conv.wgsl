// Meaning: graph/src/ops/ssm_conv.rs. The tokens of a sequence stand side by side in the step, so the rows before a token's
// are the rows above it as long as they have the same table, and then those of its state: `kept` rows of every sequence, the
// newest last. One thread for each column; a row of workgroups for each token. Two dispatches: all tokens are computed from
// the states as they were, then the last token of each sequence leaves the next state.
#flag LEAVE the states are left, instead of read
struct Params { rows: u32, row0: u32, cols: u32, kept: u32, tokens: u32, positions_at: u32, tables_at: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
#if !LEAVE
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#endif
@group(1) @binding(0) var<storage, read_write> states: array<f32>;
#include lib/float

// Tokens of the same sequence before this one in the step, at most `kept`.
fn tokens_before(token: u32) -> u32 {
    let table = step[p.tables_at + token];
    var n = 0u;
    while n < min(p.kept, token) && step[p.tables_at + token - n - 1u] == table { n += 1u; }
    return n;
}

// Row `i` of a sequence's state; before position 0 there are zeros, whatever the state held.
fn kept_row(block: u32, i: u32, read: u32, c: u32) -> f32 {
    if p.kept - i > read { return 0.0; }
    return states[(block * p.kept + i) * p.cols + c];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 64u + t;
    let token = p.row0 + wg.y;
    if c >= p.cols { return; }
    let table = step[p.tables_at + token];
    let block = tables[table];
    let before = tokens_before(token);
    // What the state has read; where more than `kept` tokens stand before, it does not matter.
    let read = step[p.positions_at + token] - before;
#if LEAVE
    if token + 1u < p.tokens && step[p.tables_at + token + 1u] == table { return; }
    // The sequence's rows in this step, this one among them.
    let own = min(before + 1u, p.kept);
    for (var i = 0u; i < p.kept; i += 1u) {
        let back = p.kept - 1u - i;
        var y = 0.0;
        if back < own {
            y = x[(token - back) * p.cols + c];
        } else {
            y = kept_row(block, i + own, read, c);
        }
        states[(block * p.kept + i) * p.cols + c] = y;
    }
#else
    var acc = 0.0;
    for (var k = 0u; k <= p.kept; k += 1u) {
        let back = p.kept - k;
        var y = 0.0;
        if back <= before {
            y = x[(token - back) * p.cols + c];
        } else {
            y = kept_row(block, k + before, read, c);
        }
        acc = fused(w[c * (p.kept + 1u) + k], y, acc);
    }
    out[wg.y * p.cols + c] = acc;
#endif
}
