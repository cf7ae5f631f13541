// Rows of a table for the step's tokens, or for their positions, in f32. One thread for four elements; a piece of the table has
// the rows `first .. first + count`, and those outside it are another dispatch's.
struct Params { rows: u32, row0: u32, n: u32, blocks: u32, first: u32, count: u32, wanted_at: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#include lib/float
#include lib/weights

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let g = wg.x * 64u + t;
    let row = step[p.wanted_at + p.row0 + wg.y] - p.first;
    if 4u * g >= p.n || row >= p.count { return; }
    let v = weights4(row, g);
    for (var i = 0u; i < 4u; i++) {
        let c = 4u * g + i;
        if c < p.n { out[wg.y * p.n + c] = v[i]; }
    }
}
