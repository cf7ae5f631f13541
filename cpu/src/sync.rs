//! What the pool's threads share, wait with and are started by: the standard library's. `cpu/loom` puts loom's in its
//! place, which tries every interleaving.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence};
pub(crate) use std::sync::{Arc, Condvar, Mutex};
pub(crate) use std::thread::{Builder, JoinHandle, yield_now};

/// Iterations of the wait loop before a worker parks: some tens of microseconds, longer than the gap between two ops. Few
/// under Miri (`cargo xtask miri`), where an iteration takes as long as some thousands.
pub(crate) const SPINS: u32 = if cfg!(miri) { 20 } else { 20_000 };
