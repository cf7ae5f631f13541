// Meaning: graph/src/ops/experts.rs, `route`. One workgroup for each row of a router's numbers.
#flag EACH      the columns in their order
#flag NORMALISE x / sum of the row
#flag PICK      the elements in the chosen columns
#flag SIGMOID   the logistic function of each
#flag SOFTMAX   softmax over the row
#flag TOP_GROUPS the elements of the best groups, -infinity for the others
#flag TOP_K     the columns of the largest elements
struct Params { rows: u32, row0: u32, cols: u32, n: u32, at_least: f32, groups: u32, used: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
#if PICK
@group(0) @binding(1) var<storage, read> chosen: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
#endif
#include lib/exp

// Numbers as integers in the same order: +0 and -0 are one, and NaN is below all.
fn rank(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u { return 0u; }
    if size == 0u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

#if TOP_GROUPS
// The rank of the sum of a group's two largest elements.
fn worth(begin: u32, each: u32) -> u32 {
    var first = x[begin];
    var second = x[begin + 1u];
    if rank(second) > rank(first) { first = second; second = x[begin]; }
    for (var i = 2u; i < each; i += 1u) {
        let v = x[begin + i];
        if rank(v) > rank(first) { second = first; first = v; } else if rank(v) > rank(second) { second = v; }
    }
    return rank(keep(first + second));
}
#endif

#if SOFTMAX
var<workgroup> tops: array<u32, 64>;
var<workgroup> lanes: array<f32, 64>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = wg.y * p.cols;
    let to = wg.y * p.n;
#if SOFTMAX
    // The largest element, by rank; -infinity where there is none.
    var top = 0x007fffffu;
    for (var i = t; i < p.cols; i += 64u) { top = max(top, rank(x[at + i])); }
    tops[t] = top;
    workgroupBarrier();
#for HALF 32 16 8 4 2 1
    if t < {{HALF}}u { tops[t] = max(tops[t], tops[t + {{HALF}}u]); }
    workgroupBarrier();
#endfor
    let r = tops[0];
    let largest = bitcast<f32>(select(~r, r ^ 0x80000000u, (r >> 31u) == 1u));
    var sum = 0.0;
    for (var i = t; i < p.cols; i += 64u) {
        let e = keep(exponential(x[at + i] - largest));
        out[to + i] = e;
        sum = keep(sum + e);
    }
    lanes[t] = sum;
    workgroupBarrier();
#for HALF 32 16 8 4 2 1
    if t < {{HALF}}u { lanes[t] = lanes[t] + lanes[t + {{HALF}}u]; }
    workgroupBarrier();
#endfor
    for (var i = t; i < p.cols; i += 64u) { out[to + i] = quotient(out[to + i], lanes[0]); }
#endif
#if SIGMOID
    for (var i = t; i < p.cols; i += 64u) {
        out[to + i] = quotient(1.0, 1.0 + keep(exponential(-x[at + i])));
    }
#endif
#if TOP_GROUPS
    let each = p.cols / p.groups;
    for (var i = t; i < p.cols; i += 64u) {
        let group = i / each;
        let own = worth(at + group * each, each);
        var place = 0u;
        for (var j = 0u; j < p.groups; j += 1u) {
            let other = worth(at + j * each, each);
            if other > own || (other == own && j < group) { place += 1u; }
        }
        if place < p.used { out[to + i] = x[at + i]; } else { out[to + i] = -infinity(); }
    }
#endif
#if TOP_K
    // An element's place is how many stand before it.
    for (var i = t; i < p.cols; i += 64u) {
        let own = rank(x[at + i]);
        var place = 0u;
        for (var j = 0u; j < p.cols; j += 1u) {
            let other = rank(x[at + j]);
            if other > own || (other == own && j < i) { place += 1u; }
        }
        if place < p.n { out[to + place] = f32(i); }
    }
#endif
#if EACH
    for (var i = t; i < p.n; i += 64u) { out[to + i] = f32(i); }
#endif
#if PICK
    for (var i = t; i < p.n; i += 64u) { out[to + i] = x[at + u32(chosen[to + i])]; }
#endif
#if NORMALISE
    // Few: every thread adds them all.
    var sum = 0.0;
    for (var i = 0u; i < p.cols; i += 1u) { sum = keep(sum + x[at + i]); }
    if sum < p.at_least { sum = p.at_least; }
    for (var i = t; i < p.cols; i += 64u) { out[to + i] = quotient(x[at + i], sum); }
#endif
}
