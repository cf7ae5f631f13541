// Part of blocks_q8.wgsl and blocks_q16.wgsl: the largest magnitude of each 32 elements, by bits: a NaN is above infinity,
// which is above the rest.
#const TILE_EACH   fours of elements for each thread
#const TILE_LANES  threads that take 256 elements together
#needs begin, count, tile, tops
#for G 0..{{TILE_EACH}}
    if (begin + {{G}}u * {{TILE_LANES}}u) * 4u < count {
        let g = begin + {{G}}u * {{TILE_LANES}}u;
        var top = 0u;
        #for I 0..4: top = max(top, bitcast<u32>(tile[g * 4u + {{I}}u]) & 0x7fffffffu);
        atomicMax(&tops[g / 8u], top);
    }
#endfor
    workgroupBarrier();
