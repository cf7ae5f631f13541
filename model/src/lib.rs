//! Metadata → spec → graph, the loop over tokens, and the samplers. Knows architectures and tensor names; no kernels.
#![forbid(unsafe_code)]

mod error;
mod meta;

pub mod arch;
mod decoder;
mod engine;
mod generate;
pub mod kv;
mod memory;
pub mod output;
pub mod quantize;
mod recommended;
mod rope;
pub mod sampler;
mod shape;
mod spec;
pub mod speculate;
pub mod synth;
mod tensors;

pub use arch::spec;
pub use decoder::graph;
pub use engine::{Engine, EngineOptions, Keep, Wanted, Work};
pub use error::{Error, ErrorKind, Result};
pub use generate::{Event, Finish, Generated, Generation, Request, StopRules, generate};
pub use kv::SeqId;
pub use memory::{Memory, check_memory, largest_context};
pub use recommended::Recommended;
pub use rope::{Rope, RopeFactors, RopeScaling};
pub use sampler::{Sampler, SamplerKind, SamplerParams};
pub use spec::{
    Attention, Bias, EmbdNorm, ExpertGroups, Experts, FeedForward, FfnNorm, FirstSum, GateUp,
    Gated, Gating, Latent, Layer, Mixer, NormKind, Norms, OutputNorm, Parallel, ParallelNorms,
    Plain, Positions, QkNorm, QueryScale, SharedExpert, ShortConv, Spec,
};
pub use tensors::{Branch, Dim, NormPlace, Presence, Role, TensorSpec};
