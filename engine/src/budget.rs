//! Whether a model fits: on the GPU by what the user grants it, else in the machine's memory. Asked before anything is
//! loaded.

use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::memory;
use graph::{Graph, LoadOptions};
use model::{EngineOptions, Memory};

/// Bytes that may be used, and where the layers lie.
pub(crate) struct Budget<'l> {
    listener: Listener<'l>,
    host: u64,
    /// Where it is granted.
    gpu: Option<u64>,
    /// Layers before those on the GPU; `None` where all are there, or none.
    layers: Option<usize>,
    /// Whether all are there.
    all_on_gpu: bool,
}

impl<'l> Budget<'l> {
    /// For a model of `n_layer` layers of which `on_gpu`, the output among them, lie on the GPU.
    pub(crate) fn new(
        gpu_mib: Option<u64>,
        on_gpu: usize,
        n_layer: usize,
        listener: Listener<'l>,
    ) -> Self {
        let all = n_layer + 1;
        Self {
            listener,
            host: memory::available().unwrap_or(u64::MAX),
            gpu: gpu_mib.map(|mib| mib.saturating_mul(1 << 20)).filter(|_| on_gpu > 0),
            layers: (0 < on_gpu && on_gpu < all).then(|| all - on_gpu),
            all_on_gpu: on_gpu == all,
        }
    }

    /// Bytes for the whole model, where it lies in one memory or the sum is all that is known.
    pub(crate) fn of_most(&self) -> u64 {
        match self.gpu {
            Some(gpu) if self.all_on_gpu => gpu,
            Some(gpu) => self.host.saturating_add(gpu),
            None => self.host,
        }
    }

    /// What the model takes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DoesNotFit`] with the sum where that is more than there is.
    pub(crate) fn check(
        &self,
        graph: &Graph,
        load: LoadOptions,
        engine: &EngineOptions,
    ) -> Result<Memory> {
        if let (Some(gpu), Some(layers)) = (self.gpu, self.layers) {
            let parts = graph::split::split(graph, layers)?;
            self.fits(&parts.back, load, engine, gpu).map_err(|e| e.at("on the GPU"))?;
            self.fits(&parts.front, load, engine, self.host).map_err(|e| e.at("on the CPU"))?;
            return Ok(Memory::estimate(graph, load, engine));
        }
        self.fits(graph, load, engine, self.of_most())
    }

    fn fits(
        &self,
        graph: &Graph,
        load: LoadOptions,
        engine: &EngineOptions,
        available: u64,
    ) -> Result<Memory> {
        model::check_memory(graph, load, engine, available).map_err(|error| {
            let memory = Memory::estimate(graph, load, engine);
            (self.listener)(Event::DoesNotFit { memory, available });
            Error::from(error)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_own_memory() {
        let case = &graph::cases::decoders().unwrap()[0];
        let (graph, load) = (&case.graph, LoadOptions::default());
        let engine =
            EngineOptions { n_ctx: 64 << 10, n_batch: 16, n_seqs: 1, keep: model::Keep::All };
        let n_layer = graph.n_layers();
        // The cache alone is 64 Ki positions of two layers with 3 heads of 24 and 20 elements in f16: 33 MiB.
        let check = |mib, on_gpu| {
            Budget::new(Some(mib), on_gpu, n_layer, &|_| {}).check(graph, load, &engine)
        };
        let refused = |mib, on_gpu| check(mib, on_gpu).unwrap_err().to_string();
        assert!(refused(30, n_layer + 1).starts_with("model does not fit: weights"));
        assert!(check(40, n_layer + 1).is_ok());
        assert!(refused(10, 2).starts_with("on the GPU: model does not fit: weights"));
        // Half of the cache; and what nothing lies on may be as small as it likes.
        assert!(check(20, 2).is_ok());
        assert!(check(0, 0).is_ok());
    }
}
