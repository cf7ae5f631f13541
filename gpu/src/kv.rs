//! The KV cache on the device: two buffers for each layer, in blocks of 64 positions.

use crate::device::{Device, Range};
use graph::{Blocks, Cache, Error, ErrorKind, Graph, KV_BLOCK, KvCache, KvType, Result};
use std::sync::Arc;

/// Words of one head of `dim` elements at one position.
pub(crate) fn head_words(kv: KvType, dim: usize) -> usize {
    match kv {
        KvType::F16 => dim.div_ceil(2),
        KvType::F32 => dim,
    }
}

/// Bytes of K and V of one cache: heads are whole words here.
fn cache_bytes(kv: KvType, cache: &KvCache, blocks: &Blocks) -> [u64; 2] {
    [cache.head_dim_k, cache.head_dim_v].map(|dim| {
        let words = head_words(kv, dim) * cache.n_head_kv * KV_BLOCK;
        (words as u64).saturating_mul(4).saturating_mul(blocks.of(cache.group) as u64)
    })
}

/// Bytes of all caches with this number of blocks.
pub(crate) fn bytes(graph: &Graph, kv: KvType, blocks: &Blocks) -> u64 {
    let of = |cache: &Cache| match cache {
        Cache::Kv(cache) => cache_bytes(kv, cache, blocks),
    };
    graph.caches.iter().flat_map(of).fold(0, u64::saturating_add)
}

/// A cache of this backend.
pub(crate) struct GpuKv {
    pub(crate) blocks: Blocks,
    /// By cache id.
    pub(crate) layers: Vec<LayerKv>,
    /// Which cache it is.
    pub(crate) id: Arc<()>,
}

/// The cache of one layer.
pub(crate) struct LayerKv {
    /// Group 1 of the kernels that use it.
    pub(crate) bind: wgpu::BindGroup,
    /// K and V.
    pub(crate) halves: [Range; 2],
}

impl GpuKv {
    pub(crate) fn new(device: &Device, graph: &Graph, kv: KvType, blocks: &Blocks) -> Result<Self> {
        let total = bytes(graph, kv, blocks);
        let mut layers = Vec::with_capacity(graph.caches.len());
        for cache in &graph.caches {
            let Cache::Kv(cache) = cache;
            let sizes = cache_bytes(kv, cache, blocks);
            if let Some(size) = sizes.into_iter().find(|&size| size > device.max_binding()) {
                let message = format!(
                    "KV cache: {size} bytes of one layer, {} binds {}; hint: a shorter context",
                    device.name,
                    device.max_binding()
                );
                return Err(Error::new(ErrorKind::OutOfMemory, message));
            }
            let [k, v] = sizes.map(|size| device.buffer("KV cache", size));
            let in_all =
                |e: Error| Error::new(e.kind(), format!("the KV cache takes {total} bytes; {e}"));
            let (k, v) = (k.map_err(in_all)?, v.map_err(in_all)?);
            let halves = [Range::whole(&k, sizes[0]), Range::whole(&v, sizes[1])];
            let bind = device.bind_kv(&halves);
            layers.push(LayerKv { bind, halves });
        }
        Ok(Self { blocks: blocks.clone(), layers, id: Arc::default() })
    }
}
