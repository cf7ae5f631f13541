// What products with quantised activations have in common: their parameters and buffers, what enters the accumulator, and
// where a result goes. `acts` are rows as quantize.wgsl makes them, `acts_fours` the same, four words at a time.
#flag D_TWO  a block has two f16, its scale and what is added
#flag EXPERTS the matrix is one of several
#flag OUTS_2 two products or more
#flag OUTS_3 three products
#needs fused
#if EXPERTS
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, row_words: u32,
    slots: u32, x_slots: u32 }
#else
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, row_words: u32,
    end0: u32, end1: u32 }
#endif
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> acts: array<u32>;
@group(0) @binding(2) var<storage, read> acts_fours: array<vec4<u32>>;
#if EXPERTS
@group(0) @binding(3) var<storage, read> chosen: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#endif
#if OUTS_2: @group(0) @binding(4) var<storage, read_write> out1: array<f32>;
#if OUTS_3: @group(0) @binding(5) var<storage, read_write> out2: array<f32>;

// What a block adds in `int8`, and a run of weights in `int16`: acc = fma(d, isum, acc), then acc = fma(m, msum, acc).
struct Sums {
    d: f32,
    isum: f32,
#if D_TWO
    m: f32,
    msum: f32,
#endif
}

fn add_sums(s: Sums, acc: f32) -> f32 {
#if D_TWO
    return fused(s.m, s.msum, fused(s.d, s.isum, acc));
#else
    return fused(s.d, s.isum, acc);
#endif
}

// One element of the result. Products of the same activations stand behind one another, rows 0 .. end0 .. end1 .. n_out,
// and each has a result of its own.
fn store(token: u32, row: u32, v: f32) {
#if OUTS_2
    if row < p.end0 {
        out[token * p.end0 + row] = v;
        return;
    }
#if OUTS_3
    if row >= p.end1 {
        out2[token * (p.n_out - p.end1) + row - p.end1] = v;
        return;
    }
#endif
    out1[token * (p.end1 - p.end0) + row - p.end0] = v;
#else
    out[token * p.n_out + p.first + row] = v;
#endif
}
