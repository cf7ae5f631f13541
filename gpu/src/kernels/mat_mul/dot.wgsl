// What products with quantised activations have in common: their buffers, the integer sums of one block of one row, how
// these enter the accumulator, and where a result goes. `q8` are rows as quantize_q8.wgsl makes them, `q8_fours` the
// same, four words at a time.
#flag D_TWO  a block has two f16, its scale and what is added
#flag MINS   runs of elements have an integer minimum
#flag OUTS_2 two products or more
#flag OUTS_3 three products
#flag SCALES runs of elements have an integer scale
#const OFFSET what is taken from a stored code
#const RUN_0  the run of the first half of unit `u`
#const RUN_1  the run of its second half
#const UNITS  units of 32 elements in a block
#needs block_d, block_m, codes, fused, keep, run_min, run_scale
struct Params { rows: u32, row0: u32, n_in: u32, blocks: u32, n_out: u32, first: u32, count: u32, row_words: u32,
    end0: u32, end1: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> q8: array<u32>;
@group(0) @binding(2) var<storage, read> q8_fours: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
#if OUTS_2: @group(0) @binding(4) var<storage, read_write> out1: array<f32>;
#if OUTS_3: @group(0) @binding(5) var<storage, read_write> out2: array<f32>;

// What one block adds: acc = fma(d, isum, acc), then acc = fma(m, msum, acc).
struct Sums {
    d: f32,
    isum: f32,
#if D_TWO
    m: f32,
    msum: f32,
#endif
}

// From the integer sums of a block to what it adds.
fn sums_of(base: u32, r: u32, a: u32, b: u32, isum: i32, msum: i32) -> Sums {
    let scales = a + p.n_in / 4u + p.n_in / 16u;
    let d_a = bitcast<f32>(q8[scales + b]);
    var out: Sums;
    out.d = keep(block_d(base, r) * d_a);
    out.isum = f32(isum);
#if MINS
    out.m = -keep(block_m(base, r) * d_a);
    out.msum = f32(msum);
#elif D_TWO
    out.m = block_m(base, r);
    out.msum = bitcast<f32>(q8[scales + p.blocks + b]);
#endif
    return out;
}

fn block_sums(base: u32, r: u32, a: u32, b: u32) -> Sums {
    var isum = 0;
    var msum = 0;
    let sums = a + p.n_in / 4u + b * {{UNITS}}u * 2u;
    // Written out for every unit of the block, so that the reads of all are under way before the first is used.
#for U 0..{{UNITS}}
    {
        let u = {{U}}u;
        let q = (a + (b * {{UNITS}}u + u) * 8u) >> 2u;
        let x0 = q8_fours[q];
        let x1 = q8_fours[q + 1u];
        let sum0 = i32(q8[sums + 2u * u]);
        let sum1 = i32(q8[sums + 2u * u + 1u]);
        var dot0 = -{{OFFSET}} * sum0;
        var dot1 = -{{OFFSET}} * sum1;
#for J 0..4
        dot0 += dot4I8Packed(codes(base, u, {{J}}u, r), x0[{{J}}]);
        dot1 += dot4I8Packed(codes(base, u, {{J}}u + 4u, r), x1[{{J}}]);
#endfor
#if SCALES
        isum += run_scale(base, {{RUN_0}}, r) * dot0 + run_scale(base, {{RUN_1}}, r) * dot1;
#else
        isum += dot0 + dot1;
#endif
        #if MINS: msum += run_min(base, {{RUN_0}}, r) * sum0 + run_min(base, {{RUN_1}}, r) * sum1;
    }
#endfor
    return sums_of(base, r, a, b, isum, msum);
}

fn add_block(s: Sums, acc: f32) -> f32 {
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
