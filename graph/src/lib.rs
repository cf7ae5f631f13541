//! What each op means: shape rules, the numerics contract, the plain reference, test cases, `compare`.
//! Fast versions live in the `cpu` and `gpu` crates and give the same bits.
#![forbid(unsafe_code)]

pub mod backend;
pub mod cases;
pub mod compare;
mod error;
pub mod ints;
mod ir;
pub mod math;
pub mod ops;
pub mod reference;
pub mod selftest;
pub mod split;
mod step;
mod tapped;

pub use backend::{
    Arithmetic, Backend, Best, Kv, KvType, Limits, LoadOptions, Loaded, NoTap, Tap, Timing, Traffic,
};
pub use error::{Error, ErrorKind, Result};
pub use ir::{
    Act, Attention, Builder, Graph, KvLayer, Node, NodeId, Op, RopePairs, RopeTable, Rows, Value,
    ValueId, Weight, WeightId,
};
pub use step::{KV_BLOCK, Step};
