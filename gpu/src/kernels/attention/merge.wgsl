// The second half of attention for a step of one token. One workgroup for each head; lanes are elements.
// quantize.wgsl does the same where the product that follows wants it quantised.
#flag SINKS    there is a sink for each head
struct Params { rows: u32, row0: u32, n_head: u32, dim_v: u32, positions_at: u32, window: u32, max_chunks: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
#if SINKS
@group(0) @binding(2) var<storage, read> sinks: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif
#include lib/exp
#include attention/merged

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    for (var d = t; d < p.dim_v; d += 64u) { out[wg.x * p.dim_v + d] = merged(wg.x, d); }
}
