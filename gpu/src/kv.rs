//! The KV cache on the device: two buffers for each layer, in blocks of 64 positions.

use crate::device::{Device, Range};
use graph::{Error, ErrorKind, Graph, KV_BLOCK, KvLayer, KvType, Result};
use std::sync::Arc;

/// Words of one head of `dim` elements at one position.
pub(crate) fn head_words(kv: KvType, dim: usize) -> usize {
    match kv {
        KvType::F16 => dim.div_ceil(2),
        KvType::F32 => dim,
    }
}

/// Bytes of K and V of one layer.
fn layer_bytes(kv: KvType, layer: &KvLayer, n_blocks: usize) -> [u64; 2] {
    [layer.head_dim_k, layer.head_dim_v].map(|dim| {
        let words = head_words(kv, dim) * layer.n_head_kv * KV_BLOCK;
        (words as u64).saturating_mul(4).saturating_mul(n_blocks as u64)
    })
}

/// Bytes of a cache of `n_blocks` blocks.
pub(crate) fn bytes(graph: &Graph, kv: KvType, n_blocks: usize) -> u64 {
    graph
        .kv_layers
        .iter()
        .flat_map(|layer| layer_bytes(kv, layer, n_blocks))
        .fold(0, u64::saturating_add)
}

/// A cache of this backend.
pub(crate) struct GpuKv {
    pub(crate) n_blocks: usize,
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
    pub(crate) fn new(device: &Device, graph: &Graph, kv: KvType, n_blocks: usize) -> Result<Self> {
        let total = bytes(graph, kv, n_blocks);
        let mut layers = Vec::with_capacity(graph.kv_layers.len());
        for layer in &graph.kv_layers {
            let sizes = layer_bytes(kv, layer, n_blocks);
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
        Ok(Self { n_blocks, layers, id: Arc::default() })
    }
}
