// The workgroup's memory of round.wgsl: each block's largest magnitude, where a block of 256 has it first, and the quants.
var<workgroup> tops: array<atomic<u32>, {{ROUND_BLOCKS}}>;
#if Q8X256
var<workgroup> places: array<atomic<u32>, {{ROUND_BLOCKS}}>;
#endif
var<workgroup> quants: array<u32, {{ROUND_GROUPS}}>;
