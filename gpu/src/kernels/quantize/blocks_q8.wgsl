// Quantises the `count` elements in `tile` to 8 bits: graph/src/ops/quantize_q8.rs. They stand in a row of `p.n`
// elements from `first` on; the row's words begin at `row_at`: n/4 words of four quants, a word with the sum of each 16,
// the f32 scale of each block, and for blocks of 32 the rounded sum `s` of each block. Statements of a kernel of 256
// threads with memory.wgsl and not a function: Metal's functions get no workgroup memory (wgpu issue 4500). {{TILE_LANES}}
// threads take 256 elements, four at a time.
#flag Q8X256    blocks of 256 elements; else of 32
#const TILE_BLOCKS blocks in the tile
#const TILE_EACH   fours of elements for each thread
#const TILE_LANES  threads that take 256 elements together
#needs count, first, no_bits, p.n, places, acts, quants, quotient, round_f16, row_at, t, tile, tops
{
    if t < {{TILE_BLOCKS}}u {
        atomicStore(&tops[t], 0u);
        #if Q8X256: atomicStore(&places[t], 0xffffffffu);
    }
    workgroupBarrier();
    let begin = t / {{TILE_LANES}}u * 64u + t % {{TILE_LANES}}u;
    let scales_at = row_at + p.n / 4u + p.n / 16u;
    // The largest magnitude by bits: a NaN is above infinity, which is above the rest.
#if Q8X256
    let is_in = begin * 4u < count;
    let block = t / {{TILE_LANES}}u;
    if is_in {
        var top = 0u;
#for G 0..{{TILE_EACH}}
        #for I 0..4: top = max(top, bitcast<u32>(tile[(begin + {{G}}u * {{TILE_LANES}}u) * 4u + {{I}}u]) & 0x7fffffffu);
#endfor
        atomicMax(&tops[block], top);
    }
    workgroupBarrier();
    if is_in {
        // The first of the largest: its place, and as the lowest bit its sign.
        let top = atomicLoad(&tops[block]);
        var place = 0xffffffffu;
#for G 0..{{TILE_EACH}}
#for I 0..4
        {
            let at = (begin + {{G}}u * {{TILE_LANES}}u) * 4u + {{I}}u;
            let bits = bitcast<u32>(tile[at]);
            if (bits & 0x7fffffffu) == top { place = min(place, at << 1u | bits >> 31u); }
        }
#endfor
#endfor
        if place != 0xffffffffu { atomicMin(&places[block], place); }
    }
    workgroupBarrier();
    if is_in {
        let top = atomicLoad(&tops[block]);
        let plain = top != 0u && top < 0x7f800000u;
        var iscale = 0.0;
        if plain { iscale = quotient(-127.0, bitcast<f32>(top | atomicLoad(&places[block]) << 31u)); }
#for G 0..{{TILE_EACH}}
        {
            let g = begin + {{G}}u * {{TILE_LANES}}u;
            var word = 0u;
            if plain {
#for I 0..4
                word |= (u32(i32(clamp(round(iscale * tile[g * 4u + {{I}}u]), -127.0, 127.0))) & 255u) << (8u * {{I}}u);
#endfor
            }
            quants[g] = word;
            acts[row_at + first / 4u + g] = word;
        }
#endfor
        if t % {{TILE_LANES}}u == 0u {
            var d = 0.0;
            if plain { d = quotient(1.0, iscale); }
            if top >= 0x7f800000u { d = bitcast<f32>(0x7fc00000u ^ no_bits()); }
            acts[scales_at + first / 256u + block] = bitcast<u32>(d);
        }
    }
    workgroupBarrier();
#else
#include quantize/tops
    for (var g = begin; g < min(count / 4u, begin - t % {{TILE_LANES}}u + 64u); g += {{TILE_LANES}}u) {
        // Of an infinite or NaN block the scale speaks; a scale of zero makes the quants of a tiny block worth nothing.
        let top = atomicLoad(&tops[g / 8u]);
        var word = 0u;
        if top != 0u && top < 0x7f800000u {
            let inverse = quotient(127.0, bitcast<f32>(top));
#for I 0..4
            word |= (u32(i32(clamp(round(tile[g * 4u + {{I}}u] * inverse), -127.0, 127.0))) & 255u) << (8u * {{I}}u);
#endfor
        }
        quants[g] = word;
        acts[row_at + first / 4u + g] = word;
    }
    workgroupBarrier();
    if t * 32u < count {
        let top = atomicLoad(&tops[t]);
        var d = bitcast<f32>(0x7fc00000u ^ no_bits());
        if top < 0x7f800000u { d = quotient(bitcast<f32>(top), 127.0); }
        var sum = 0;
        #for I 0..8: sum += dot4I8Packed(quants[t * 8u + {{I}}u], 0x01010101u);
        acts[scales_at + first / 32u + t] = bitcast<u32>(round_f16(d));
        acts[scales_at + p.n / 32u + first / 32u + t] = bitcast<u32>(round_f16(d * f32(sum)));
    }
#endif
    if t * 16u < count {
        var sum = 0;
        #for I 0..4: sum += dot4I8Packed(quants[t * 4u + {{I}}u], 0x01010101u);
        acts[row_at + p.n / 4u + first / 16u + t] = u32(sum);
    }
}
