//! The ops of the graph crate, fast, on the CPU: AVX-512, AVX2, NEON or plain loops, chosen at run time, with the bits
//! of `graph::reference`.

#![deny(unsafe_code)]

mod attention;
mod experts;
mod kernels;
mod kv;
pub mod limits;
mod loaded;
mod pack;
mod plan;
mod pool;
mod simd;
mod sync;
mod tiles;
mod weights;

pub use pool::Pool;
pub use simd::Level;

use graph::{Backend, Graph, LoadOptions, Loaded, Node, Result};
use std::sync::Arc;

/// The CPU backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    threads: usize,
    level: Level,
}

impl Cpu {
    /// `threads` threads (at least one) with the machine's best instructions.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::best())
    }

    /// With a level of one's choice; tests run them all.
    pub fn with_level(threads: usize, level: Level) -> Self {
        Self { threads: threads.max(1), level }
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        let s = if self.threads == 1 { "" } else { "s" };
        format!("cpu ({}, {} thread{s})", self.level.name(), self.threads)
    }

    fn supports(&self, _: &Graph, _: &Node, _: LoadOptions) -> std::result::Result<(), String> {
        Ok(())
    }

    fn load(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        Ok(Box::new(loaded::LoadedCpu::new(*self, graph, files, options, progress)?))
    }
}
