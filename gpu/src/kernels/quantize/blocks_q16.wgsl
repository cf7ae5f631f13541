// Quantises the `count` elements in `tile` to 15 bits and a sign: graph/src/ops/quantize_q16.rs. They stand in a row from
// element `first` on; the row's words begin at `row_at`. A quant is 128 · high + low, each a signed byte, so that
// instructions for bytes multiply it in two goes. Twenty words for each block of 32 stand side by side: eight of high
// bytes, eight of low bytes, the sum of the first 16 quants and that of the others, the f32 scale, and the sum of all
// times the scale. Statements of a kernel of 256 threads with memory.wgsl, as blocks_q8.wgsl, and shared among threads so.
#const Q16_MAX     the largest quant
#const Q16_TINY    the bits of the least magnitude that is not taken for zero
#const TILE_BLOCKS blocks in the tile
#const TILE_LANES  threads that take 256 elements together
#const TILE_SUMS   sums of 16 elements in the tile
#needs acts, count, first, keep, no_bits, quotient, row_at, sums, t, tile, tops
{
    if t < {{TILE_BLOCKS}}u { atomicStore(&tops[t], 0u); }
    if t < {{TILE_SUMS}}u { atomicStore(&sums[t], 0); }
    workgroupBarrier();
    let begin = t / {{TILE_LANES}}u * 64u + t % {{TILE_LANES}}u;
    // The largest magnitude by bits: a NaN is above infinity, which is above the rest.
#include quantize/tops
    for (var g = begin; g < min(count / 4u, begin - t % {{TILE_LANES}}u + 64u); g += {{TILE_LANES}}u) {
        let top = atomicLoad(&tops[g / 8u]);
        var high = 0u;
        var low = 0u;
        if top >= {{Q16_TINY}}u && top < 0x7f800000u {
            let inverse = quotient({{Q16_MAX}}, bitcast<f32>(top));
            var sum = 0;
#for I 0..4
            {
                let q = i32(round(tile[g * 4u + {{I}}u] * inverse));
                // The nearest multiple of 128: what is left is -64 .. 63.
                let h = (q + 64) >> 7u;
                high |= (u32(h) & 255u) << (8u * {{I}}u);
                low |= (u32(q - h * 128) & 255u) << (8u * {{I}}u);
                sum += q;
            }
#endfor
            atomicAdd(&sums[g / 4u], sum);
        }
        let to = row_at + (first / 32u + g / 8u) * 20u + g % 8u;
        acts[to] = high;
        acts[to + 8u] = low;
    }
    workgroupBarrier();
    if t * 32u < count {
        let top = atomicLoad(&tops[t]);
        // Of an infinite or NaN block the scale speaks.
        var d = bitcast<f32>(0x7fc00000u ^ no_bits());
        if top < {{Q16_TINY}}u { d = 0.0; }
        if top >= {{Q16_TINY}}u && top < 0x7f800000u { d = quotient(bitcast<f32>(top), {{Q16_MAX}}); }
        let sum0 = atomicLoad(&sums[2u * t]);
        let sum1 = atomicLoad(&sums[2u * t + 1u]);
        let to = row_at + (first / 32u + t) * 20u + 16u;
        acts[to] = u32(sum0);
        acts[to + 1u] = u32(sum1);
        acts[to + 2u] = bitcast<u32>(d);
        acts[to + 3u] = bitcast<u32>(keep(d * f32(sum0 + sum1)));
    }
}
