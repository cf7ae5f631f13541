// Meaning: graph/src/ops/rms_norm.rs; with ADD the norm of a sum, which is written to `x`; with QUANTIZE also quantised for
// the products that follow. One workgroup for each group of `n` columns: chain i of 64 sums the squares of the elements i,
// i + 64, …; then the halving tree. WIDE: 256 threads hold 4096 elements at a time in registers, and in the workgroup's
// memory, from where 64 of them sum.
// Tried, a row of 4096 on an H100: 64 threads that read for themselves took 51 us, each read waiting for the one before;
// tiles of 2048 of which the row was read again to be written, 14 us.
#flag ADD      of the sum a + b, which is written to `x`
#flag Q16      it is quantised to 15 bits and a sign; else to 8 bits
#flag QUANTIZE the result is quantised too
#flag SOFT_FMA fma is made of many steps, so that one copy of it in a loop beats many in line
#flag WIDE     groups of more than 128 elements: 256 threads
#const THREADS  threads in a workgroup
struct Params { rows: u32, row0: u32, cols: u32, n: u32, eps: f32, n_f32: f32, row_words: u32 }
var<immediate> p: Params;
#if ADD
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#if QUANTIZE: @group(0) @binding(5) var<storage, read_write> acts: array<u32>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#if QUANTIZE: @group(0) @binding(3) var<storage, read_write> acts: array<u32>;
#endif
#include lib/float

var<workgroup> lanes: array<f32, 64>;
#if WIDE
const TILE: u32 = 4096u;
var<workgroup> tile: array<f32, 4096>;
#endif
#if QUANTIZE
#include quantize/memory
#endif

// An element of x. Of a sum it is still to be written.
fn element(i: u32) -> f32 {
#if ADD
    return keep(a[i] + b[i]);
#else
    return x[i];
#endif
}

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = wg.y * p.cols + wg.x * p.n;
    var sum = 0.0;
#if WIDE
    // This thread's elements of a tile, 256 apart, and their weights.
    var v: array<f32, 16>;
    var by: array<f32, 16>;
    for (var first = 0u; first < p.n; first += TILE) {
        let count = min(p.n - first, TILE);
        // All loads come before the first store: the compiler must assume that a store changes what is loaded next.
#for Q 0..4
        if {{Q}}u * 1024u < count {
            #for K 0..4: v[4 * {{Q}} + {{K}}] = element(at + first + min(t + {{Q}}u * 1024u + {{K}}u * 256u, count - 1u));
        }
#endfor
        if p.n <= TILE {
#for Q 0..4
            if {{Q}}u * 1024u < count {
                #for K 0..4: by[4 * {{Q}} + {{K}}] = w[min(t + {{Q}}u * 1024u + {{K}}u * 256u, count - 1u)];
            }
#endfor
        }
        workgroupBarrier();
#for Q 0..4
        if {{Q}}u * 1024u < count {
#for K 0..4
            {
                let i = t + {{Q}}u * 1024u + {{K}}u * 256u;
                if i < count {
                    tile[i] = v[4 * {{Q}} + {{K}}];
                    #if ADD: x[at + first + i] = v[4 * {{Q}} + {{K}}];
                }
            }
#endfor
        }
#endfor
        workgroupBarrier();
        if t < 64u {
            var i = t;
#if !SOFT_FMA
            for (; i + 960u < count; i += 1024u) {
                #for K 0..16: let e{{K}} = tile[i + {{K}}u * 64u];
                #for K 0..16: sum = fused(e{{K}}, e{{K}}, sum);
            }
#endif
            for (; i < count; i += 64u) { sum = fused(tile[i], tile[i], sum); }
        }
    }
    if t < 64u { lanes[t] = sum; }
#else
    for (var i = t; i < p.n; i += 64u) {
        let v = element(at + i);
        #if ADD: x[at + i] = v;
        sum = fused(v, v, sum);
    }
    lanes[t] = sum;
#endif
    workgroupBarrier();
#for HALF 32 16 8 4 2 1
    if t < {{HALF}}u { lanes[t] = lanes[t] + lanes[t + {{HALF}}u]; }
    workgroupBarrier();
#endfor
    let scale = quotient(1.0, root(keep(quotient(lanes[0], p.n_f32)) + p.eps));
#if WIDE
    for (var first = 0u; first < p.n; first += TILE) {
        let count = min(p.n - first, TILE);
        if p.n > TILE {
#for Q 0..4
            if {{Q}}u * 1024u < count {
#for K 0..4
                {
                    let i = first + min(t + {{Q}}u * 1024u + {{K}}u * 256u, count - 1u);
                    v[4 * {{Q}} + {{K}}] = element(at + i);
                    by[4 * {{Q}} + {{K}}] = w[i];
                }
#endfor
            }
#endfor
        }
#for Q 0..4
        if {{Q}}u * 1024u < count {
#for K 0..4
            {
                let i = t + {{Q}}u * 1024u + {{K}}u * 256u;
                if i < count {
                    let y = keep(v[4 * {{Q}} + {{K}}] * scale) * by[4 * {{Q}} + {{K}}];
                    out[at + first + i] = y;
                    #if QUANTIZE: tile[i] = y;
                }
            }
#endfor
        }
#endfor
#if QUANTIZE
        let row_at = wg.y * p.row_words;
#if Q16
#include quantize/blocks_q16
#else
#include quantize/blocks_q8
#endif
        workgroupBarrier();
#endif
    }
#else
    for (var i = t; i < p.n; i += 64u) {
        let x_i = x[at + i];
        out[at + i] = keep(x_i * scale) * w[i];
    }
#endif
}
