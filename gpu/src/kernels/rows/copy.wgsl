// Columns of every row (`start` of `from` columns), or the rows that give logits.
#flag OUTPUT_ROWS the rows that give logits; else columns of every row
struct Params { rows: u32, row0: u32, cols: u32, from_cols: u32, start: u32, outputs_at: u32 }
var<immediate> p: Params;
#if OUTPUT_ROWS
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
#endif

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = wg.x * 256u + t;
    if c >= p.cols { return; }
#if OUTPUT_ROWS
    let row = step[p.outputs_at + p.row0 + wg.y];
#else
    let row = wg.y;
#endif
    out[wg.y * p.cols + c] = x[row * p.from_cols + p.start + c];
}
