// The parameters of the kernels that read the cache. tile.wgsl alone asks for `heads_each`, the heads of a KV head that a
// workgroup takes, part.wgsl for `max_chunks`, the chunks of a head that `partials` has room for.
struct Params { rows: u32, row0: u32, n_head: u32, heads_per_kv: u32, dim_k: u32, dim_v: u32, words_k: u32, words_v: u32,
    positions_at: u32, tables_at: u32, window: u32, scale: f32, cap: f32, heads_each: u32, max_chunks: u32 }
var<immediate> p: Params;
