// The workgroup's memory of blocks.wgsl: each block's largest magnitude, where a block of 256 has it first, and the quants.
#flag Q8X256    blocks of 256 elements; else of 32
#const Q8_BLOCKS blocks in the tile
#const Q8_WORDS  words of the tile's quants
var<workgroup> tops: array<atomic<u32>, {{Q8_BLOCKS}}>;
#if Q8X256: var<workgroup> places: array<atomic<u32>, {{Q8_BLOCKS}}>;
var<workgroup> quants: array<u32, {{Q8_WORDS}}>;
