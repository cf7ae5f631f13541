//! What each op means: shape rules, the numerics contract, the plain reference, test cases, `compare`.
//! Fast versions live in the `cpu` and `gpu` crates and give the same bits.
#![forbid(unsafe_code)]

pub mod backend;
mod builder;
mod cache;
pub mod cases;
pub mod compare;
mod contents;
mod error;
pub mod ints;
mod ir;
pub mod math;
mod op;
pub mod ops;
pub mod reference;
pub mod seams;
pub mod selftest;
pub mod split;
mod step;
mod stop;
mod tapped;

pub use backend::{
    Arithmetic, Backend, Best, Kv, KvType, Limits, LoadOptions, Loaded, NoTap, Tap, Timing, Traffic,
};
pub use builder::{Builder, HeadPart, JoinedHeads, KvHeads};
pub use cache::{
    BlockTable, Blocks, Cache, CacheGroup, CacheId, FREED, GroupId, KvCache, StateCache,
};
pub use contents::Contents;
pub use error::{Error, ErrorKind, Result};
pub use ir::{
    FileId, Graph, LongFreqs, Output, RopeTable, Rows, Temperature, Value, ValueId, ValueKind,
    Weight, WeightForms, WeightId,
};
pub use op::{
    Act, Attention, CacheUse, Description, LayerNorm, Mask, Node, Op, OpCache, OpWeight, RopePairs,
    Route, Unary, WeightUse,
};
pub use step::{KV_BLOCK, Span, Step};
pub use stop::Stop;
