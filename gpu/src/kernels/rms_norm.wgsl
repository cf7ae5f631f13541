// Meaning: graph/src/ops/rms_norm.rs; with ADD the norm of a sum, which is written to `x`. One workgroup for each group
// of `n` columns: chain i of 64 sums the squares of the elements i, i + 64, …; then the halving tree. WIDE: 256 threads
// bring 2048 elements at a time to the workgroup's memory, from where 64 of them sum, and all write the result. With 64
// threads that read for themselves a row of 4096 took 51 us on an H100: each read waited for the one before.
struct Params { rows: u32, row0: u32, cols: u32, n: u32, eps: f32, n_f32: f32 }
var<immediate> p: Params;
#if ADD
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif
#include float

var<workgroup> lanes: array<f32, 64>;
#if WIDE
var<workgroup> tile: array<f32, 2048>;
#endif

// An element of x. Of a sum each is asked for once, and read again by the thread that asked.
fn element(i: u32) -> f32 {
#if ADD
    let v = keep(a[i] + b[i]);
    x[i] = v;
    return v;
#else
    return x[i];
#endif
}

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = wg.y * p.cols + wg.x * p.n;
    var sum = 0.0;
#if WIDE
    for (var first = 0u; first < p.n; first += 2048u) {
        let count = min(p.n - first, 2048u);
        if count == 2048u {
#for K 0 1 2 3 4 5 6 7
            let v{{K}} = element(at + first + t + {{K}}u * 256u);
#endfor
#for K 0 1 2 3 4 5 6 7
            tile[t + {{K}}u * 256u] = v{{K}};
#endfor
        } else {
            for (var i = t; i < count; i += 256u) { tile[i] = element(at + first + i); }
        }
        workgroupBarrier();
        if t < 64u {
            for (var i = t; i < count; i += 64u) { sum = fused(tile[i], tile[i], sum); }
        }
        workgroupBarrier();
    }
    if t < 64u { lanes[t] = sum; }
#else
    for (var i = t; i < p.n; i += 64u) {
        let v = element(at + i);
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
    var i = t;
#if WIDE
    // Eight elements are asked for before the first is written: a write could be to what is read next.
    for (; i + 1792u < p.n; i += 2048u) {
#for K 0 1 2 3 4 5 6 7
        let x{{K}} = x[at + i + {{K}}u * 256u];
        let w{{K}} = w[i + {{K}}u * 256u];
#endfor
#for K 0 1 2 3 4 5 6 7
        out[at + i + {{K}}u * 256u] = keep(x{{K}} * scale) * w{{K}};
#endfor
    }
#endif
    for (; i < p.n; i += {{THREADS}}u) {
        out[at + i] = keep(x[at + i] * scale) * w[i];
    }
}
