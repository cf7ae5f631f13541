// What a run of weights, those that share a scale, adds in `int16`: graph/src/ints.rs, `Ints::run`. A unit of 32 weights is
// one run or two halves; a unit of activations is the five fours that blocks_q16.wgsl writes.
#flag D_TWO  a block has two f16, its scale and what is added
#flag HALVES a run is of 16 elements; else of 32
#flag MINS   runs of elements have an integer minimum
#flag SCALES runs of elements have an integer scale
#needs d_of, fused, keep, m_of
#include mat_mul/product

// What the weights of a run are scaled by.
struct Run {
    scale: f32,
#if D_TWO
    min: f32,
#endif
}

// The run whose integer scale and minimum are the bytes of `scales` and `mins` from bit `shift` on, in a block whose f32
// scales are in the word `d`. What a format has not, nobody asks for.
fn run_of(d: u32, scales: u32, mins: u32, shift: u32, r: u32) -> Run {
    var run: Run;
#if SCALES
    run.scale = keep(d_of(d, r) * f32(extractBits(i32(scales), shift, 8u)));
#else
    run.scale = d_of(d, r);
#endif
#if MINS
    run.min = -keep(m_of(d) * f32(extractBits(mins, shift, 8u)));
#elif D_TWO
    run.min = m_of(d);
#endif
    return run;
}

#if D_TWO
// The scaled sum of the activations of a run, the `half` of a unit where it is not all of it. `fifth` is the last four of
// the unit: the sums of its halves, the scale, and both sums times the scale.
fn scaled_sum(fifth: vec4<u32>, half: u32) -> f32 {
#if HALVES
    return keep(bitcast<f32>(fifth.z) * f32(i32(fifth[half])));
#else
    return bitcast<f32>(fifth.w);
#endif
}
#endif

// From the integer sum of a run to what it adds.
fn run_sums(run: Run, isum: i32, fifth: vec4<u32>, half: u32) -> Sums {
    var out: Sums;
    out.d = keep(run.scale * bitcast<f32>(fifth.z));
    out.isum = f32(isum);
#if D_TWO
    out.m = run.min;
    out.msum = scaled_sum(fifth, half);
#endif
    return out;
}
