//! The KV cache on the device: two buffers for each layer, in blocks of 64 positions, or one with its states.

use crate::device::{Device, Range};
use graph::{Blocks, Cache, Contents, Error, ErrorKind, Graph, KV_BLOCK, KvCache, KvType, Result};
use std::sync::Arc;

/// Words of one head of `dim` elements at one position.
pub(crate) fn head_words(kv: KvType, dim: usize) -> usize {
    match kv {
        KvType::F16 => dim.div_ceil(2),
        KvType::F32 => dim,
    }
}

/// Bytes of K and of V of one block: heads are whole words here.
fn halves_bytes(kv: KvType, cache: &KvCache) -> [u64; 2] {
    cache.kept().map(|dim| (head_words(kv, dim) * cache.n_head_kv * KV_BLOCK) as u64 * 4)
}

/// Bytes of each buffer of a cache: K and V, or the states.
fn cache_bytes(kv: KvType, cache: &Cache, blocks: &Blocks) -> Vec<u64> {
    let of_block = match cache {
        Cache::Kv(halves) => halves_bytes(kv, halves).to_vec(),
        Cache::State(_) => vec![cache.block_bytes(kv)],
    };
    let n = blocks.of(cache.group()) as u64;
    // A buffer is never empty: values may be a part of keys.
    of_block.into_iter().map(|bytes| bytes.saturating_mul(n).max(4)).collect()
}

/// Bytes of all caches with this number of blocks.
pub(crate) fn bytes(graph: &Graph, kv: KvType, blocks: &Blocks) -> u64 {
    let of = |cache: &Cache| cache_bytes(kv, cache, blocks);
    graph.caches.iter().flat_map(of).fold(0, u64::saturating_add)
}

/// A cache of this backend.
pub(crate) struct GpuKv {
    pub(crate) contents: Contents,
    /// By cache id.
    pub(crate) layers: Vec<LayerKv>,
    /// Which cache it is.
    pub(crate) id: Arc<()>,
}

/// The cache of one layer.
pub(crate) struct LayerKv {
    /// Group 1 of the kernels that use it.
    pub(crate) bind: wgpu::BindGroup,
    /// K and V, or the states.
    pub(crate) parts: Vec<Range>,
}

impl GpuKv {
    pub(crate) fn new(device: &Device, graph: &Graph, kv: KvType, blocks: &Blocks) -> Result<Self> {
        let total = bytes(graph, kv, blocks);
        let mut layers = Vec::with_capacity(graph.caches.len());
        for cache in &graph.caches {
            let sizes = cache_bytes(kv, cache, blocks);
            if let Some(size) = sizes.iter().find(|&&size| size > device.max_binding()) {
                let message = format!(
                    "KV cache: {size} bytes of one layer, {} binds {}; hint: a shorter context",
                    device.name,
                    device.max_binding()
                );
                return Err(Error::new(ErrorKind::OutOfMemory, message));
            }
            let in_all =
                |e: Error| Error::new(e.kind(), format!("the KV cache takes {total} bytes; {e}"));
            let part = |&size: &u64| -> Result<Range> {
                let buffer = device.buffer("KV cache", size).map_err(in_all)?;
                Ok(Range::whole(&buffer, size))
            };
            let parts: Vec<Range> = sizes.iter().map(part).collect::<Result<_>>()?;
            layers.push(LayerKv { bind: device.bind_cache(&parts), parts });
        }
        Ok(Self { contents: Contents::new(blocks), layers, id: Arc::default() })
    }
}
