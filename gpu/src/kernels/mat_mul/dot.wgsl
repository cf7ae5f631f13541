// The integer sums of one block of one row in `int8`, and what they add.
#flag D_TWO  a block has two f16, its scale and what is added
#flag MINS   runs of elements have an integer minimum
#flag SCALES runs of elements have an integer scale
#const OFFSET what is taken from a stored code
#const RUN_0  the run of the first half of unit `u`
#const RUN_1  the run of its second half
#const UNITS  units of 32 elements in a block
#needs block_d, block_m, codes, fused, keep, run_min, run_scale
#include mat_mul/product

// From the integer sums of a block to what it adds.
fn sums_of(base: u32, r: u32, a: u32, b: u32, isum: i32, msum: i32) -> Sums {
    let scales = a + p.n_in / 4u + p.n_in / 16u;
    let d_a = bitcast<f32>(acts[scales + b]);
    var out: Sums;
    out.d = keep(block_d(base, r) * d_a);
    out.isum = f32(isum);
#if MINS
    out.m = -keep(block_m(base, r) * d_a);
    out.msum = f32(msum);
#elif D_TWO
    out.m = block_m(base, r);
    out.msum = bitcast<f32>(acts[scales + p.blocks + b]);
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
        let x0 = acts_fours[q];
        let x1 = acts_fours[q + 1u];
        let sum0 = i32(acts[sums + 2u * u]);
        let sum1 = i32(acts[sums + 2u * u + 1u]);
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
