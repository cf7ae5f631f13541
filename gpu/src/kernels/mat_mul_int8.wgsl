// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`. One thread for each output: 32 rows of weights by 8 rows of rounded
// activations, block after block.
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, row_words: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> acts: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include float
#include weights
#include dot

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let row = wg.x * 32u + r;
    let token = wg.y * 8u + (t >> 5u);
    if row >= p.count || token >= p.rows { return; }
    let a = token * p.row_words;
    var acc = 0.0;
    for (var b = 0u; b < p.blocks; b++) {
        acc = add_block(block_sums((wg.x * p.blocks + b) * {{BLOCK_WORDS}}u, r, a, b), acc);
    }
    out[token * p.n_out + p.first + row] = acc;
}
