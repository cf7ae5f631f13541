// The workgroup's memory of blocks_q8.wgsl: each block's largest magnitude, where a block of 256 has it first, and the
// quants; or of blocks_q16.wgsl: each block's largest magnitude, and the sum of each 16 quants.
#flag Q16       quants of 15 bits and a sign; else of 8 bits
#flag Q8X256    blocks of 256 elements; else of 32
#const TILE_BLOCKS blocks in the tile
#const TILE_SUMS   sums of 16 elements in the tile
#const TILE_WORDS  words of the tile's quants
var<workgroup> tops: array<atomic<u32>, {{TILE_BLOCKS}}>;
#if Q16
var<workgroup> sums: array<atomic<i32>, {{TILE_SUMS}}>;
#else
#if Q8X256: var<workgroup> places: array<atomic<u32>, {{TILE_BLOCKS}}>;
var<workgroup> quants: array<u32, {{TILE_WORDS}}>;
#endif
